// Score images with a model of fre, on onnxruntime-node; sharp decodes the files.
//
// node score.js part.onnx IMAGE...

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";
import { refusal, score } from "./fre.js";

const [file, ...paths] = process.argv.slice(2);
if (paths.length === 0) {
  console.error("usage: node score.js MODEL.onnx IMAGE...");
  process.exit(2);
}
const data = readFileSync(file);
const reason = refusal(data);
if (reason) {
  console.error(`${file}: ${reason}`);
  process.exit(2);
}
const session = await ort.InferenceSession.create(data);
for (const path of paths) {
  // rotate() without an angle follows the EXIF tag.
  const image = sharp(path).rotate().removeAlpha().toColourspace("srgb");
  const { data: pixels, info } = await image.raw().toBuffer({ resolveWithObject: true });
  if (info.channels !== 3 || info.depth === "ushort") {
    console.error(`${path}: expected RGB of 8 bits, found ${info.channels} x ${info.depth}`);
    process.exit(2);
  }
  const answer = await score(ort, session, pixels, info.height, info.width);
  console.log(JSON.stringify({ path, ...answer }));
}
