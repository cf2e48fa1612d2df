"""Record what fre makes of small fixed images, and compare it with an earlier record.

The cases use only the public interface, so that they outlive any change of modules.

    python tests/golden.py write FOLDER      before a change: record models, predictions and JSON
    python tests/golden.py compare FOLDER    after it, on the same machine: every byte must be equal
    python tests/golden.py expect            rewrite tests/golden.json, which test_golden.py reads

``--slow`` adds the slow cases. ``--only NAME`` takes one case or command. ``compare
--ignore-version`` and ``--ignore KEY`` leave out keys of the JSON: a name, such as ``plateau``,
the end of a dotted path, such as ``parameters.plateau``, or a pattern.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from click.testing import CliRunner
from onnx import numpy_helper
from PIL import Image

from conftest import texture
from fre import FRE, Autoencoder, Method, Model, load, merge_models

EXPECTED = Path(__file__).with_suffix(".json")
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
SHAPE = (72, 96)
VERSION = ("fre_version", "identity.fre")
CONSTANTS = 8
"""Tensors of so few values are shapes and axes, which the count of nodes covers."""


class Data(NamedTuple):
    """Paths of a dataset in the layout of MVTec AD, and of new good images outside it."""

    root: Path
    train: list[Path]
    new: list[Path]
    test: list[Path]


class Case(NamedTuple):
    """How to make a model, and what that takes.

    Attributes:
        make: makes the model from the images.
        needs: the package that must be installed, or ``""``.
        slow: whether it takes more than a few seconds.
        rounded: whether the network computes in integers, which processors round differently.
    """

    make: Callable[[Data], Model]
    needs: str = ""
    slow: bool = False
    rounded: bool = False


class Command(NamedTuple):
    """A command line, with {root} for the dataset and {out} for the folder of results."""

    words: str
    slow: bool = False
    rounded: bool = False


def draw(root: Path) -> Data:
    """Draw 16 good images of 8 parts, test images with faint scratches, and 6 new good images."""

    def save(path: str, pixels: np.ndarray) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)

    for index in range(16):
        save(f"plate/train/good/p{index // 2}_{index % 2}.png", texture(index, SHAPE))
    for index in range(6):
        save(f"new/{index}.png", texture(50 + index, SHAPE))
        save(f"plate/test/good/{index}.png", texture(100 + index, SHAPE))
        mask = np.zeros(SHAPE, np.uint8)
        mask[20 + 4 * index : 30 + 4 * index, 20:70] = 255
        scratched = (
            texture(200 + index, SHAPE).astype(int) + 5 * (2 + index) * (mask > 0)[..., None]
        )
        save(f"plate/test/scratch/{index}.png", np.clip(scratched, 0, 255).astype(np.uint8))
        save(f"plate/ground_truth/scratch/{index}_mask.png", mask)
    found = [sorted((root / at).glob("*.png")) for at in ("plate/train/good", "new")]
    test = [root / "plate/test" / name for name in ("good/0", "good/1", "scratch/0", "scratch/5")]
    return Data(root / "plate", *found, [path.with_suffix(".png") for path in test])


def fit(**parameters: Any) -> Callable[[Data], Model]:
    return lambda data: FRE(**{"size": 64} | parameters).fit(data.train)


def updated(**parameters: Any) -> Callable[[Data], Model]:
    return lambda data: fit(**parameters)(data).update(data.new, accept_anomalous=True)


def merged(**parameters: Any) -> Callable[[Data], Model]:
    def make(data: Data) -> Model:
        return merge_models(
            *(FRE(**{"size": 64} | parameters).fit(data.train[i::2]) for i in (0, 1))
        )

    return make


def commanded(words: str) -> Callable[[Data], Model]:
    """Run a command line that writes a model, in its own process."""

    def make(data: Data) -> Model:
        with tempfile.TemporaryDirectory() as out:
            options = [word.format(root=data.root, out=out) for word in words.split()]
            command = [sys.executable, "-m", "fre", *options, "-o", f"{out}/made.onnx"]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            return Model(Path(out, "made.onnx").read_bytes())

    return make


def quantised(data: Data) -> Model:
    with tempfile.TemporaryDirectory() as out:
        plain = fit(frozen=True)(data).save(Path(out, "plain.onnx"))
        return commanded(f"quantize {plain} {{root}}/train/good --force")(data)


MASK = np.zeros(SHAPE, np.uint8)
MASK[6:64, 10:90] = 255
REFERENCE = {"preset": "reference", "backbone": "efficientnet_lite0"}
TILES = {"tile": 64, "overlap": 16, "size": None}
NO_MEMORY = {"memory": 1e-9}
PATCH = Method(scope="patch")
OTHERWISE = {
    "layers": ["blocks.2", "blocks.4"],
    "method": Method(
        score_layers=["blocks.2"],
        scope=["position", "patch"],
        pool=[2, 1],
        standardise="layer",
        variance=0.9,
        smoothing=2.0,
        top=0.1,
        prior=8,
        overall=True,
        folds=3,
    ),
    "seed": 7,
}

CASES = {
    "default": Case(fit()),
    "reference": Case(fit(**REFERENCE)),
    "tied": Case(
        fit(**REFERENCE, subspace=Autoencoder("tied", rank=8, epochs=4), method=Method(folds=2)),
        "torch",
    ),
    "plain": Case(
        fit(**REFERENCE, subspace=Autoencoder("plain", rank=8, epochs=4), method=Method(folds=2)),
        "torch",
    ),
    "streamed": Case(fit(**NO_MEMORY)),
    "streamed-reference": Case(fit(**NO_MEMORY, **REFERENCE)),
    "streamed-patch": Case(fit(**NO_MEMORY, method=PATCH)),
    "streamed-tiles": Case(fit(**NO_MEMORY, **TILES, roi=MASK)),
    "per-tile": Case(fit(**TILES, per_tile=True)),
    "patch": Case(fit(method=PATCH)),
    "image": Case(fit(method=Method(scope="image", rank=6))),
    "otherwise": Case(fit(**OTHERWISE)),
    "roi": Case(fit(ignore=255 - MASK)),
    "roi-tiles": Case(fit(**TILES, roi=MASK)),
    "letterbox": Case(fit(image_fit="letterbox")),
    "frozen": Case(fit(frozen=True)),
    "grouped": Case(fit(group_by="^(p[0-9])_")),
    "augmented": Case(fit(augment=2, method=Method(flip=True))),
    "updated": Case(updated()),
    "updated-reference": Case(updated(**REFERENCE)),
    "updated-patch": Case(updated(method=PATCH)),
    "updated-streamed": Case(updated(**NO_MEMORY)),
    "updated-tiles": Case(updated(**TILES, roi=MASK), slow=True),
    "merged": Case(merged()),
    "merged-reference": Case(merged(**REFERENCE)),
    "merged-patch": Case(merged(method=PATCH)),
    "quantised": Case(quantised, rounded=True),
    "ray": Case(commanded("train {root} --size 64 --engine ray --workers 1"), "ray", slow=True),
}

# In this order: a command may read what those before it wrote.
COMMANDS = {
    "train": Command("train {root} -o {out}/a.onnx --size 64"),
    "train-reference": Command(
        "train {root} -o {out}/b.onnx --size 64 --preset reference --backbone efficientnet_lite0"
    ),
    "info": Command("info {out}/a.onnx"),
    "predict": Command("predict {out}/a.onnx {root}/test -o {out}/results --maps npy --masks"),
    "evaluate": Command("evaluate {out}/a.onnx {root} --report {out}/report.html"),
    "evaluate-reference": Command("evaluate {out}/b.onnx {root}"),
    "compare": Command("compare {out}/a.onnx {out}/b.onnx {root}"),
    "update": Command("update {out}/a.onnx {root}/../new -o {out}/u.onnx --accept-anomalous"),
    "train-new": Command("train {root}/../new -o {out}/n.onnx --size 64"),
    "merge": Command("merge {out}/a.onnx {out}/n.onnx -o {out}/m.onnx"),
    "threshold": Command("threshold {out}/a.onnx -o {out}/t.onnx --false-alarm-rate 0.2"),
    "threshold-f1": Command(
        "threshold {out}/a.onnx -o {out}/f.onnx --from-dataset {root} --max-f1"
    ),
    "quantize": Command(
        "quantize {out}/a.onnx {root}/train/good -o {out}/q.onnx --force --dataset {root}",
        slow=True,
        rounded=True,
    ),
    "benchmark": Command(
        "benchmark {root}/.. --category plate -o {out}/cells --size 64 --preset reference"
    ),
    "demo": Command("demo -o {out}/demo", slow=True),
}

TIMES = "seconds *_seconds images_per_second milliseconds peak_memory_bytes objections command"
"""Keys whose values differ between runs."""
MACHINES = "sha256 *_sha256 digest fre_version fre created bytes model_bytes megabytes environment"
"""Keys whose values differ between machines or versions."""
ROUNDED = " *rank tensors regions scores p_values anomalous singular_values disagreements"
"""Keys whose values differ between machines if a network computes in integers."""
IN_MODELS = ("document", "tensors", "nodes")
"""Parts of the record that are compared in the model files themselves."""
OF_BYTES = ("json.sha256", "json.bytes", "megabytes", "model_bytes")
"""Keys that follow from a model file's bytes, and so from ignored keys in it."""


def blank(value: Any, names: str) -> Any:
    """Replace the values of some keys by the names of their types."""
    if isinstance(value, dict):
        return {
            key: type(part).__name__
            if any(fnmatch(key, name) for name in names.split())
            else blank(part, names)
            for key, part in value.items()
        }
    return [blank(part, names) for part in value] if isinstance(value, list) else value


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def arrays(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the tensors of a model's graph and those beside it, which an update needs."""
    graphs = {"": proto.graph} | {
        f"{info.algorithm.name}:": info.algorithm for info in proto.training_info
    }
    return {
        prefix + tensor.name: numpy_helper.to_array(tensor)
        for prefix, graph in graphs.items()
        for tensor in graph.initializer
    }


def document_of(proto: onnx.ModelProto) -> dict[str, Any]:
    (text,) = [entry.value for entry in proto.metadata_props if entry.key == "fre"]
    return dict(json.loads(text))


def shape(value: onnx.ValueInfoProto) -> list[Any]:
    sizes = value.type.tensor_type.shape.dim
    return [value.name, *(size.dim_value or size.dim_param for size in sizes)]


def describe(file: Path) -> dict[str, Any]:
    """Describe a model file: its document, graph, and tensors (type, shape, norm)."""
    proto = onnx.load(file)
    tensors = {
        name: [str(array.dtype), list(array.shape), float(np.linalg.norm(array.astype(float)))]
        for name, array in arrays(proto).items()
        if array.size > CONSTANTS and not name.startswith("backbone/")
    }
    return {
        "models": [file.name],
        "document": document_of(proto),
        "inputs": [shape(value) for value in proto.graph.input],
        "outputs": [shape(value) for value in proto.graph.output],
        "nodes": dict(sorted(Counter(node.op_type for node in proto.graph.node).items())),
        "tensors": tensors,
    }


def predictions(file: Path, images: Sequence[Path]) -> dict[str, Any]:
    """Predictions of a model as columns, because a tolerance follows the largest of a list."""
    model = load(file)
    found = [model.predict(image) for image in images]
    maps = [prediction.anomaly_map for prediction in found]
    return {
        "scores": [prediction.score for prediction in found],
        "p_values": [prediction.p_value for prediction in found],
        "anomalous": [prediction.anomalous for prediction in found],
        "regions": [prediction.to_dict()["regions"] for prediction in found],
        "map_shapes": [[*p.input_map.shape, *p.anomaly_map.shape] for p in found],
        "map_means": [float(values.mean()) for values in maps],
        "map_maxima": [float(values.max()) for values in maps],
        "sha256": [sha256(values.tobytes()) for values in maps],
    }


def run_case(name: str, data: Data, folder: Path) -> dict[str, Any]:
    """Make a model, save it as FOLDER/NAME.onnx, and record it."""
    file = CASES[name].make(data).save(folder / f"{name}.onnx")
    return describe(file) | {"predictions": predictions(file, data.test)}


def run_command(name: str, data: Data, out: Path) -> dict[str, Any]:
    """Run a command, and record its JSON and the files that it writes."""
    from fre.cli import cli

    before = set(out.rglob("*"))
    words = COMMANDS[name].words.format(root=data.root, out=out).split()
    CliRunner().invoke(cli, [*words, "--json", f"{out}/answer"], catch_exceptions=False)
    text = (out / "answer").read_text()
    (out / "answer").unlink()
    for path, label in ((data.root.parent, "<data>"), (out, "<out>")):
        text = text.replace(str(path), label)
    lines = name == "predict"  # which writes one JSON line per image
    answer = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    files = sorted(path for path in {*out.rglob("*")} - before if path.is_file())
    return {
        "json": blank(answer, TIMES),
        "written": [str(path.relative_to(out)) for path in files],
        "models": [f"out/{path.relative_to(out)}" for path in files if path.suffix == ".onnx"],
        "sha256": [sha256(path.read_bytes()) for path in files if path.suffix in (".png", ".npy")],
    }


def lacking(name: str) -> str:
    """Return the missing package that a case needs, or ``""``."""
    needs = CASES[name].needs if name in CASES else ""
    return needs if needs and importlib.util.find_spec(needs) is None else ""


def selected(slow: bool, only: Sequence[str]) -> list[str]:
    """Return the names of the cases and commands to record."""
    both = CASES | COMMANDS
    return [name for name in only or both if slow or only or not both[name].slow]


def record(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Record some cases and commands, and leave their models in the folder."""
    data = draw(folder / "data")
    out = folder / "out"
    out.mkdir()
    found = {}
    for name in [name for name in CASES if name in names]:
        if lacking(name):
            raise SystemExit(f"{name} needs {lacking(name)}, which is not installed")
        found[name] = run_case(name, data, folder)
    # A command reads what earlier ones wrote.
    for name in [name for name in COMMANDS if name in names or set(names) & set(COMMANDS)]:
        if name in names or not COMMANDS[name].slow:
            found[name] = run_command(name, data, out)
    return {name: json.loads(json.dumps(found[name])) for name in names}


def ignored(path: str, ignore: Sequence[str]) -> bool:
    plain = re.sub(r"\[\d+\]", "", path)
    return any(fnmatch(plain, pattern) or fnmatch(plain, f"*.{pattern}") for pattern in ignore)


def differences(
    old: Any, new: Any, path: str, *, tolerance: float = 0.0, ignore: Sequence[str] = ()
) -> Iterator[str]:
    """Yield a line for each place where two records differ.

    Args:
        old: the earlier record, or a part of it.
        new: the same part of the later record.
        path: where the part is in the record.
        tolerance: of floats, relative to the largest of their list and at least to 0.3, as
            scores are in deviations and may be near 0; 0 compares exactly.
        ignore: patterns for the ends of paths that are not compared.
    """
    if ignored(path, ignore):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            at = f"{path}.{key}"
            if key in old and key in new:
                yield from differences(old[key], new[key], at, tolerance=tolerance, ignore=ignore)
            elif not ignored(at, ignore):
                yield f"{at} is {'new' if key in new else 'gone'}"
        if [key for key in old if key in new] != [key for key in new if key in old]:
            yield f"{path}: the order of its keys"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        scale = max((abs(value) for value in old if isinstance(value, float)), default=0.0)
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            at = f"{path}[{index}]"
            if not close(one, other, at, tolerance, scale):
                yield from differences(one, other, at, tolerance=tolerance, ignore=ignore)
    elif not close(old, new, path, tolerance):
        yield f"{path}: {json.dumps(old)[:60]} -> {json.dumps(new)[:60]}"


def close(old: Any, new: Any, path: str, tolerance: float, scale: float = 0.0) -> bool:
    """Whether two values are the same, within the tolerance."""
    if type(old) is not type(new):
        return False
    # A pixel at the edge of a region may fall on the other side of it.
    region = ".regions" in path
    if tolerance and isinstance(old, float):
        size = max(abs(old), abs(new), scale, 0.3)
        return bool(abs(old - new) <= tolerance * size * (5 if region else 1))
    if tolerance and region and type(old) is int:
        return bool(abs(old - new) <= 1 + 0.02 * old)
    return bool(old == new)


def portable(name: str, found: dict[str, Any]) -> Any:
    """Return the part of a record that is the same on every machine, with rounded floats."""
    rounded = (CASES | COMMANDS)[name].rounded

    def number(text: str) -> float | str:
        return "float" if rounded else float(f"{float(text):.5g}")

    kept = blank(found, MACHINES + (ROUNDED if rounded else ""))
    return json.loads(json.dumps(kept), parse_float=number)


def compare_models(old: Path, new: Path, ignore: Sequence[str]) -> list[str]:
    """List the differences of two model files, but for ignored keys of their documents."""
    if old.read_bytes() == new.read_bytes():
        return []
    protos = [onnx.load(path) for path in (old, new)]
    before, after = (arrays(proto) for proto in protos)
    found = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is None or other is None:
            found.append(f"tensor {name} is {'new' if one is None else 'gone'}")
        elif (one.dtype, one.shape) != (other.dtype, other.shape):
            found.append(f"tensor {name}: {one.dtype} {one.shape} -> {other.dtype} {other.shape}")
        elif one.tobytes() != other.tobytes():
            largest = np.abs(one.astype(float) - other.astype(float)).max()
            found.append(f"tensor {name}: largest difference {largest:.3g}")
    documents = [document_of(proto) for proto in protos]
    found += differences(*documents, "document", ignore=ignore)
    # The rest of the file: nodes, names, versions, order, and the spelling of the document.
    rest = []
    for proto, document, tensors in zip(protos, documents, (before, after), strict=True):
        spelled = json.dumps(document) == proto.metadata_props[0].value
        proto.ClearField("metadata_props")
        for graph in (proto.graph, *(info.algorithm for info in proto.training_info)):
            graph.ClearField("initializer")
        rest.append((spelled, list(tensors), proto.SerializeToString()))
    if rest[0] != rest[1] or (not found and documents[0] == documents[1]):
        found.append("the nodes of its graph, or how its parts are written")
    return [f"{new.name}: {line}" for line in found]


def compare(folder: Path, names: Sequence[str], ignore: Sequence[str]) -> int:
    """Make everything again and print what differs, a case at a time; 1 if anything does."""
    old = json.loads((folder / "record.json").read_text())
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        new = record(Path(scratch), names)
        for name in names:
            found = ["not in the earlier record"]
            if name in old:
                skipped = [*ignore, *IN_MODELS, *(OF_BYTES if ignore else ())]
                found = [*differences(old[name], new[name], name, ignore=skipped)]
                for file in new[name]["models"]:
                    found += compare_models(folder / file, Path(scratch, file), ignore)
            if found and name in CASES and name in old:
                scores = [np.array(one[name]["predictions"]["scores"]) for one in (old, new)]
                largest = np.abs(scores[0] - scores[1]).max()
                found.append(f"scores: largest difference {largest:.3g}")
            failed |= bool(found)
            print(f"{name}:", *(f"\n  {line}" for line in found) if found else ["same"])
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["write", "compare", "expect"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--only", action="append", default=[], choices=[*CASES, *COMMANDS])
    parser.add_argument("--ignore", action="append", default=[], metavar="KEY")
    parser.add_argument("--ignore-version", action="store_true")
    given = parser.parse_args()
    if (given.folder is None) != (given.action == "expect"):
        parser.error("write and compare take a folder; expect takes none")
    names = selected(given.slow or given.action == "expect", given.only)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= EPOCH | {"FRE_CACHE": scratch}
        if given.action == "compare":
            return compare(given.folder, names, [*given.ignore, *VERSION * given.ignore_version])
        folder = given.folder or Path(scratch, "made")
        folder.mkdir(parents=True)
        found = record(folder, names)
    if given.action == "write":
        (folder / "record.json").write_text(json.dumps(found, indent=1))
        return 0
    kept = json.loads(EXPECTED.read_text()) if given.only else {}
    kept |= {name: portable(name, one) for name, one in found.items()}
    lines = [f'"{name}": {json.dumps(kept[name])}' for name in [*CASES, *COMMANDS] if name in kept]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
