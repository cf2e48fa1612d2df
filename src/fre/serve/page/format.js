// Numbers and times as people read them.

/** A score: four significant digits, but no more than three decimals; thousands grouped. */
export function score(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  // No minus before a zero.
  if (size < 0.0005) return "0.000";
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A p-value; one at the floor of the calibration is the smallest that it can say. */
export function pValue(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 0.1) return value.toFixed(2);
  if (value >= 0.001) return value.toFixed(3);
  return value.toExponential(0);
}

/** A share as a percentage. */
export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const hundred = 100 * value;
  const digits = hundred === 0 || hundred >= 10 ? 0 : hundred >= 1 ? 1 : 2;
  return `${hundred.toFixed(digits)} %`;
}

/** A share as a percentage of two digits, as `fre train` prints it. */
export const share = (value) => `${Number((100 * value).toPrecision(2))} %`;

export function count(value) {
  return value.toLocaleString("en-GB");
}

/** "1 image", "2 images". */
export function many(number, one, several = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

/** A time of today by its clock, an older one with its day. */
export function time(iso) {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return "–";
  const today = new Date().toDateString() === date.toDateString();
  return today ? CLOCK.format(date) : `${DAY.format(date)}, ${CLOCK.format(date)}`;
}

/** A span of seconds in words. */
export function duration(seconds) {
  if (seconds < 1) return "under a second";
  if (seconds < 90) return many(Math.round(seconds), "second");
  return many(Math.round(seconds / 60), "minute");
}

export function bytes(value) {
  if (value < 1e6) return `${Math.max(1, Math.round(value / 1e3))} kB`;
  return `${(value / 1e6).toFixed(1)} MB`;
}
