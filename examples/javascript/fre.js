// What Node.js and a page share: check a model of fre, and score the pixels of one image.

import { resize } from "./resize.js";

/** Return why these programs can't run a model file, or null. */
export function refusal(data) {
  // onnxruntime gives no access to the metadata, so look for the document in the file's bytes.
  const text = new TextDecoder("latin1").decode(data);
  if (!text.includes('"fre_version"')) return "not a model of fre";
  const stretched = !text.includes('"fit": "letterbox"');
  const whole = !/"tiling": \{/.test(text);
  if (stretched && whole) return null;
  return "this program stretches images; the model was trained with letterbox or tiles";
}

/**
 * Score RGB pixels, uint8 (height, width, 3), on onnxruntime-node or onnxruntime-web.
 * Returns score, and p_value and anomalous where the model has these outputs.
 */
export async function score(ort, session, pixels, height, width) {
  const [, toHeight, toWidth] = session.inputMetadata[0].shape;
  const input = resize(pixels, height, width, toHeight, toWidth);
  const images = new ort.Tensor("uint8", input, [1, toHeight, toWidth, 3]);
  const names = ["score", "p_value", "anomalous"];
  const wanted = names.filter((name) => session.outputNames.includes(name));
  const answer = await session.run({ images }, wanted);
  const values = wanted.map((name) => [name, answer[name].data[0]]);
  return Object.fromEntries(values.map(([n, v]) => [n, n === "anomalous" ? Boolean(v) : v]));
}
