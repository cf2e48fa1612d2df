// The resize that models of fre are trained with: bilinear, antialiased where it shrinks, in 22-bit
// fixed point, first by width and then by height, with rounding to 8 bits after each pass. Canvas
// and most image libraries resize differently, and scores then differ.

const BITS = 22;

// First input pixel of each output pixel of one axis, and the weights from there on.
function weightsOf(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, at) => {
    const centre = (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const values = [];
    for (let i = first; i < last; i++) {
      values.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) * (1 / reach))));
    }
    const sum = values.reduce((a, b) => a + b, 0);
    return { first, values: Int32Array.from(values, (v) => Math.trunc(0.5 + v / sum * 2 ** BITS)) };
  });
}

// Resize one axis of pixels seen as (outer, from, inner) to (outer, to, inner). A sum is below 2^31;
// telling the engine so, by Math.imul and | 0, makes this several times as fast.
function resizeAxis(pixels, outer, from, to, inner) {
  if (from === to) return pixels;
  const result = new Uint8Array(outer * to * inner);
  const weights = weightsOf(from, to);
  let target = 0;
  for (let o = 0; o < outer; o++) {
    for (const { first, values } of weights) {
      const start = (o * from + first) * inner;
      for (let i = 0; i < inner; i++) {
        let sum = 1 << (BITS - 1);
        for (let k = 0, source = start + i; k < values.length; k++, source += inner) {
          sum = (sum + Math.imul(values[k], pixels[source])) | 0;
        }
        result[target++] = sum >>> BITS;
      }
    }
  }
  return result;
}

/** Resize RGB pixels, uint8 (height, width, 3), to (toHeight, toWidth, 3). */
export function resize(pixels, height, width, toHeight, toWidth) {
  const wide = resizeAxis(pixels, height, width, toWidth, 3);
  return resizeAxis(wide, 1, height, toHeight, toWidth * 3);
}
