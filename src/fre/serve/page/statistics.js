// What follows from a model's calibration: the same formulas as fre.calibration.

/** Number of values of an ascending array that are above a limit. */
export function countAbove(ascending, limit) {
  return ascending.length - firstAbove(ascending, limit);
}

/**
 * The false-alarm rate to expect; null without scores. Of ordinary good parts it is
 * (1 + #{scores > threshold}) / (m + 1); the share of odd images above the threshold is added.
 */
export function expectedRates({ scores, n_odd }, threshold) {
  const m = scores.length - n_odd;
  if (m === 0) return null;
  const above = countAbove(scores.slice(0, m), threshold);
  const others = (1 + above) / (m + 1);
  const odd = countAbove(scores.slice(m), threshold) / scores.length;
  return { others, odd, rate: Math.min(1, others + odd), floor: above === 0 };
}

/** The q-quantile of an ascending array, interpolated. */
export function quantile(ascending, q) {
  if (ascending.length === 0) return NaN;
  const place = q * (ascending.length - 1);
  const low = Math.floor(place);
  const high = Math.min(low + 1, ascending.length - 1);
  return ascending[low] + (place - low) * (ascending[high] - ascending[low]);
}

/**
 * A scale that is linear among good images and logarithmic far above them, so that a defect
 * with a hundred times their score and the shape of their distribution fit in one chart.
 */
export function scoreScale(calibration, scores, threshold) {
  const base = calibration.length > 1 ? calibration : scores;
  const centre = base.length ? quantile(base, 0.5) : threshold;
  const spread = base.length > 1 ? quantile(base, 0.95) - quantile(base, 0.05) : 0;
  const unit = spread > 0 ? spread : Math.max(Math.abs(centre), 1e-9);
  // There is room to drag the threshold up, even if nothing has scored that high.
  const room = threshold + 0.4 * Math.max(threshold - centre, unit);
  const values = [...calibration, ...scores, threshold, room].filter(Number.isFinite);
  const warp = (value) => Math.asinh((value - centre) / unit);
  const unwarp = (place) => centre + unit * Math.sinh(place);
  let low = Math.min(...values.map(warp));
  let high = Math.max(...values.map(warp));
  if (!Number.isFinite(low)) [low, high] = [-1, 1];
  if (high - low < 1e-9) [low, high] = [low - 1, high + 1];
  const margin = 0.04 * (high - low);
  low -= margin;
  high += margin;
  return {
    /** Whether a step at the upper end is many times one among good images. */
    compressed: Math.cosh(high) > 4,
    low: unwarp(low),
    high: unwarp(high),
    /** A score's place, from 0 to 1. */
    place: (value) => (warp(value) - low) / (high - low),
    /** The score at a place. */
    value: (place) => unwarp(low + place * (high - low)),
  };
}

/** Round numbers along a scale, at least `gap` of its length apart. */
export function ticks(scale, gap) {
  const candidates = new Set([0]);
  const largest = Math.max(Math.abs(scale.low), Math.abs(scale.high));
  for (let power = Math.ceil(Math.log10(largest)), lowest = power - 5; power >= lowest; power -= 1) {
    for (const factor of [1, 2, 5]) {
      for (const sign of [1, -1]) candidates.add(Number((sign * factor * 10 ** power).toPrecision(3)));
    }
  }
  // The linear part needs even steps, too: between 2 and 5 there may be all of the good images.
  const step = niceStep(scale.value(0.5 + gap / 2) - scale.value(0.5 - gap / 2));
  for (let value = Math.ceil(scale.low / step) * step, n = 0; value <= scale.high && n < 60; value += step, n += 1) {
    candidates.add(Number(value.toPrecision(6)));
  }
  const inside = [...candidates].map((value) => [value, scale.place(value)])
    .filter(([, place]) => place > 0.02 && place < 0.98)
    .sort((a, b) => roundness(b[0]) - roundness(a[0]));
  const chosen = [];
  for (const [value, place] of inside) {
    if (chosen.every(([, other]) => Math.abs(other - place) >= gap)) chosen.push([value, place]);
  }
  return chosen.sort((a, b) => a[1] - b[1]);
}

function firstAbove(ascending, limit) {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] > limit) high = middle;
    else low = middle + 1;
  }
  return low;
}

function niceStep(width) {
  const power = 10 ** Math.floor(Math.log10(Math.max(width, 1e-12)));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= width) ?? 10;
  return factor * power;
}

function roundness(value) {
  if (value === 0) return 10;
  const digits = Math.abs(value).toExponential().split("e")[0].replace(".", "").replace(/0+$/, "");
  return 5 - digits.length + (digits === "1" ? 0.5 : digits === "5" ? 0.2 : 0);
}
