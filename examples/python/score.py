"""Score images with a model of fre, on ONNX Runtime, NumPy and Pillow alone.

python score.py part.onnx IMAGE...
"""

import json
import os
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which reads it
import onnxruntime
from PIL import Image, ImageOps


def network_input(path, height, width):
    """Read an image as uint8 (1, height, width, 3), RGB: stretched by width, then by height."""
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            sys.exit(f"{path}: expected 8 bits a channel, found mode {file.mode}")
        image = ImageOps.exif_transpose(file).convert("RGB")
    # In two calls: one call resizes in an order that depends on the version of Pillow.
    image = image.resize((width, image.height), Image.Resampling.BILINEAR)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))[None]


if len(sys.argv) < 3:
    sys.exit("usage: python score.py MODEL.onnx IMAGE...")
model = onnxruntime.InferenceSession(sys.argv[1])
how = json.loads(model.get_modelmeta().custom_metadata_map["fre"])["preprocessing"]
if how.get("fit", "stretch") != "stretch" or how.get("tiling"):
    sys.exit("this program stretches images; the model was trained with letterbox or tiles")
_, height, width, _ = model.get_inputs()[0].shape
there = [output.name for output in model.get_outputs()]
wanted = [name for name in ("score", "p_value", "anomalous") if name in there]
for path in sys.argv[2:]:
    answer = model.run(wanted, {"images": network_input(path, height, width)})
    values = {name: array[0].item() for name, array in zip(wanted, answer, strict=True)}
    print(json.dumps({"path": path, **values}))
