"""One measurement of one system, in a process of its own; `peers.py` and `scaling.py` start it.

The imports are timed, so nothing but the standard library is imported before.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import child, peak_bytes, repeated

Task = dict[str, Any]
Figures = dict[str, Any]

FRE_BATCH = 8  # of predict_many
FEATURE_BATCH = 16  # of fre's training
WARM_UP = 20

# Layers by the names of timm, which are fre's, too. PaDiM and PatchCore take the strides that
# their defaults have in a ResNet; the single layer is fre's reference layer.
LAYERS = {
    "efficientnet_lite0": {
        "timm": "tf_efficientnet_lite0",
        "single": "blocks.4",
        "padim": ["blocks.1", "blocks.2", "blocks.4"],
        "patchcore": ["blocks.2", "blocks.4"],
    },
    "resnet18": {
        "timm": "resnet18",
        "single": "layer3",
        "padim": ["layer1", "layer2", "layer3"],
        "patchcore": ["layer2", "layer3"],
    },
}
CHANNELS = {"efficientnet_lite0": 112, "resnet18": 256}
STRIDE = 16
POOL = 2
LATENT = 220  # anomalib's default
PADIM_FEATURES = 100  # anomalib's default for ResNet-18
CORESET = 0.01
ANOMALIB_BATCH = 32  # its default
ANOMAVISION_BATCH = 32
EXPORT_CHECKS = 3  # images on which an export must score as PyTorch does
EXPORT_TOLERANCE = 0.01  # relative


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def latencies_ms(predict: Callable[[int], Any], n: int) -> list[float]:
    for index in range(WARM_UP):
        predict(index)
    return [seconds_of(lambda index=index: predict(index)) * 1e3 for index in range(n)]


def input_images(task: Task) -> list[Any]:
    """Test images at the input's size, uint8 RGB (H, W, 3)."""
    from fre.images.decode import read_resized

    return [read_resized(Path(file), tuple(task["size"]))[0] for file in task["files"][:32]]


def paths(task: Task) -> list[Path]:
    return [Path(file) for file in task["files"]]


# fre


def fre_estimator(task: Task) -> Any:
    from fre import FRE

    return FRE.from_parameters(
        {
            "backbone": task["backbone"],
            "preset": task["system"]["preset"],
            "weights": task["weights"],
            "size": None if task["size"] is None else tuple(task["size"]),
            **task.get("parameters", {}),
        }
    )


def fre_train(task: Task) -> Figures:
    def imports() -> None:
        import onnx
        import onnxruntime

        from fre import FRE

    imported = seconds_of(imports)
    began, processor = time.perf_counter(), time.process_time()
    estimator = fre_estimator(task)
    estimator.fit(paths(task), threads=task.get("threads", 0)).save(task["model"])
    return {
        "train_seconds": time.perf_counter() - began,
        "train_processor_seconds": time.process_time() - processor,
        "train_peak_bytes": peak_bytes(),
        "train_import_seconds": imported,
        "model_bytes": Path(task["model"]).stat().st_size,
        "parts": estimator.seconds_,
    }


def fre_predict(task: Task) -> Figures:
    runtime = task["system"]["runtime"]

    def imports() -> None:
        if runtime == "openvino":
            import openvino
        else:
            import onnxruntime

        from fre import load

    imported = seconds_of(imports)
    from fre import load

    model = load(task["model"], runtime=runtime, threads=task.get("threads", 0))
    images = input_images(task)
    latencies = latencies_ms(lambda i: model.predict(images[i % len(images)]), task["latencies"])
    batch = task.get("batch", FRE_BATCH)

    def whole() -> None:
        for prediction in model.predict_many(paths(task), batch_size=batch):
            assert prediction.input_map is not None

    whole()
    throughput = len(task["files"]) / seconds_of(whole)
    peak = peak_bytes()
    if task.get("results"):
        keep(task, list(model.predict_many(paths(task)[: task["judged"]])))
    return {
        "import_seconds": imported,
        "latencies_ms": latencies,
        "images_per_second": throughput,
        "predict_peak_bytes": peak,
    }


def keep(task: Task, predictions: list[Any]) -> None:
    import numpy as np

    np.savez(
        task["results"],
        scores=np.array([p.score for p in predictions]),
        maps=np.stack([p.input_map for p in predictions]),
    )


# anomalib


def import_anomalib() -> None:
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Dfm, Fre, Padim, Patchcore


def timm_name(name: str, repeats: list[int]) -> str:
    """timm's name for a tensor of the package of EfficientNet-Lite weights."""
    norms = {"_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"}
    convs = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
    # The first stage's block does not widen, and timm numbers its parts from one all the same.
    first = {"_bn1": "bn1", "_bn2": "bn2", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pw"}
    found = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", name)
    if not found:
        return name.replace("_conv_stem", "conv_stem").replace("_bn0", "bn1")
    block = int(found[1])
    stage = 0
    while block >= repeats[stage]:
        block -= repeats[stage]
        stage += 1
    part = (first if stage == 0 else norms | convs)[found[2]]
    return f"blocks.{stage}.{block}.{part}.{found[3]}"


def load_backbone_weights(network: Any, task: Task) -> None:
    """fre's own weights into the network of anomalib's feature extractor, each tensor of it."""
    import torch

    if task["weights"]:
        from safetensors.torch import load_file

        tensors = load_file(task["weights"])
    else:
        from fre.backbones import get_backbone
        from fre.backbones.efficientnet_lite import EFFICIENTNET_LITE
        from fre.backbones.torch_weights import read_state_dict

        source = get_backbone(task["backbone"])._weights
        repeats = [stage.repeats for stage in EFFICIENTNET_LITE[task["backbone"]].stages]
        tensors = {
            timm_name(name, repeats): torch.from_numpy(value)
            for name, value in read_state_dict(source).items()
        }
    wanted = network.state_dict()
    counters = [name for name in wanted if name.endswith("num_batches_tracked")]
    lacking = [name for name in wanted if name not in tensors and name not in counters]
    if lacking:
        raise SystemExit(f"the weights lack {lacking[:5]} and {len(lacking)} tensors in all")
    network.load_state_dict({name: tensors.get(name, wanted[name]) for name in wanted})


def anomalib_model(task: Task) -> Any:
    """anomalib's model on fre's backbone, weights, input size and normalisation."""
    from anomalib.models import Dfm, Fre, Padim, Patchcore
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    from fre.backbones import get_backbone

    layers = LAYERS[task["backbone"]]
    of = get_backbone(task["backbone"], weights=task["weights"]).normalisation
    mean, std = ([value / 255 for value in values] for values in (of.mean, of.std))
    resize = Resize(tuple(task["size"]), antialias=True)
    common: dict[str, Any] = {
        "backbone": layers["timm"],
        "pre_trained": False,
        "pre_processor": PreProcessor(Compose([resize, Normalize(mean=mean, std=std)])),
        "post_processor": False,
        "evaluator": False,
        "visualizer": False,
    }
    kind = task["system"]["model"]
    if kind == "padim":
        model = Padim(layers=layers["padim"], n_features=PADIM_FEATURES, **common)
    elif kind == "patchcore":
        model = Patchcore(layers=layers["patchcore"], coreset_sampling_ratio=CORESET, **common)
    elif kind == "dfm":
        model = Dfm(layer=layers["single"], pooling_kernel_size=POOL, **common)
    else:
        height, width = (side // STRIDE // POOL for side in task["size"])
        model = Fre(
            layer=layers["single"],
            pooling_kernel_size=POOL,
            input_dim=CHANNELS[task["backbone"]] * height * width,
            latent_dim=LATENT,
            **common,
        )
    load_backbone_weights(model.model.feature_extractor.feature_extractor, task)
    return model


def anomalib_data(task: Task) -> Any:
    """anomalib's data module of folders, without the validation that it could do as well."""
    from anomalib.data import Folder

    return Folder(
        name="parts",
        root=task["data"],
        normal_dir="train",
        abnormal_dir="files",
        train_batch_size=ANOMALIB_BATCH,
        eval_batch_size=ANOMALIB_BATCH,
        num_workers=task["workers"],
        test_split_mode="none",
        val_split_mode="none",
    )


def anomalib_engine(task: Task, **options: Any) -> Any:
    from anomalib.engine import Engine

    return Engine(
        accelerator="cpu",
        default_root_dir=Path(task["work"]) / "anomalib",
        enable_progress_bar=False,
        # Without a validation set, which the data module is told not to make, it must not look.
        limit_val_batches=0,
        enable_model_summary=False,
        **options,
    )


def anomalib_train(task: Task) -> Figures:
    imported = seconds_of(import_anomalib)
    import torch
    from lightning.pytorch import Callback, seed_everything

    class Epochs(Callback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.began = 0.0

        def on_train_epoch_start(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    seed_everything(task["seed"])
    epochs = Epochs()
    began = time.perf_counter()
    model = anomalib_model(task)
    options = {"max_epochs": task["epochs"]} if task["system"]["model"] == "fre" else {}
    anomalib_engine(task, callbacks=[epochs], **options).fit(model, datamodule=anomalib_data(task))
    seconds = time.perf_counter() - began
    peak = peak_bytes()
    # The state dict holds all that prediction needs, and no state of an optimiser.
    torch.save(model.state_dict(), task["model"])
    return {
        "train_seconds": seconds,
        "train_peak_bytes": peak,
        "train_import_seconds": imported,
        "model_bytes": Path(task["model"]).stat().st_size,
        "epoch_seconds": epochs.seconds,
    }


def anomalib_scored(model: Any, image: Any) -> tuple[float, Any]:
    """Score and map of one image, uint8 RGB (H, W, 3), by the model itself."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(image))
    with torch.inference_mode():
        result = model(pixels.permute(2, 0, 1)[None].float().div_(255))
        return float(result.pred_score), result.anomaly_map.numpy()


def anomalib_predict(task: Task) -> Figures:
    imported = seconds_of(import_anomalib)
    import numpy as np
    import torch
    from lightning.pytorch import seed_everything

    seed_everything(task["seed"])
    model = anomalib_model(task)
    model.load_state_dict(torch.load(task["model"], weights_only=True))
    model.eval()
    images = input_images(task)
    latencies = latencies_ms(
        lambda i: anomalib_scored(model, images[i % len(images)]), task["latencies"]
    )
    engine = anomalib_engine(task, logger=False)

    def whole() -> None:
        data = anomalib_data(task)
        engine.predict(model, datamodule=data, return_predictions=False)

    whole()
    throughput = len(task["files"]) / seconds_of(whole)
    peak = peak_bytes()
    if task.get("results"):
        batches = engine.predict(model, datamodule=anomalib_data(task), return_predictions=True)
        named = [Path(path).name for batch in batches for path in batch.image_path]
        if named != [Path(file).name for file in task["files"]]:
            raise SystemExit(
                "anomalib gave its predictions in another order than that of the files"
            )
        n = task["judged"]
        scores = torch.cat([batch.pred_score.reshape(-1) for batch in batches])
        maps = torch.cat([batch.anomaly_map.reshape(-1, *task["size"]) for batch in batches])
        np.savez(task["results"], scores=scores[:n].numpy(), maps=maps[:n].numpy())
    return {
        "import_seconds": imported,
        "latencies_ms": latencies,
        "images_per_second": throughput,
        "predict_peak_bytes": peak,
    }


# AnomaVision


def import_anomavision() -> None:
    from anomavision import AnodetDataset, Padim


def anomavision_padim(task: Task) -> Any:
    """AnomaVision's PaDiM with its defaults, on the weights that all others get.

    It takes weights from the cache of torch.hub only, and wants all of torchvision's ResNet-18
    there. Blocks that the weights lack, behind its layers, have random values and are never run.
    """
    import torch
    from anomavision import Padim
    from safetensors.torch import load_file
    from torchvision.models import ResNet18_Weights, resnet18

    folder = Path(task["work"]) / "hub"
    file = folder / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        state = resnet18().state_dict()
        tensors = load_file(task["weights"])
        unknown = sorted(set(tensors) - set(state))
        if unknown:
            raise SystemExit(f"torchvision's ResNet-18 has no {unknown[:5]}")
        torch.save(state | tensors, file)
    torch.hub.set_dir(str(folder))
    return Padim()


def anomavision_batches(task: Task) -> Any:
    """AnomaVision's loader of a folder's files at the input's size, in the order of their names."""
    from anomavision import AnodetDataset
    from torch.utils.data import DataLoader

    folder = str(Path(task["files"][0]).parent)
    found = AnodetDataset(folder, resize=tuple(task["size"]), crop_size=None)
    found.image_paths.sort()
    return DataLoader(found, batch_size=ANOMAVISION_BATCH, num_workers=task["workers"])


def anomavision_train(task: Task) -> Figures:
    imported = seconds_of(import_anomavision)
    import torch

    began = time.perf_counter()
    model = anomavision_padim(task)
    model.fit(anomavision_batches(task))
    torch.save(model, task["model"])
    return {
        "train_seconds": time.perf_counter() - began,
        "train_peak_bytes": peak_bytes(),
        "train_import_seconds": imported,
        "model_bytes": Path(task["model"]).stat().st_size,
    }


def anomavision_predict(task: Task) -> Figures:
    imported = seconds_of(import_anomavision)
    import numpy as np
    import torch
    from anomavision.utils import create_image_transform
    from PIL import Image

    model = torch.load(task["model"], weights_only=False)
    model.eval()
    transform = create_image_transform(resize=tuple(task["size"]), crop_size=None)
    images = [Image.fromarray(image) for image in input_images(task)]

    def predict(index: int) -> tuple[float, Any]:
        with torch.inference_mode():
            score, score_map = model.predict(transform(images[index % len(images)])[None])
            return float(score), score_map.numpy()

    latencies = latencies_ms(predict, task["latencies"])

    def whole() -> list[tuple[Any, Any]]:
        with torch.inference_mode():
            return [model.predict(batch[0]) for batch in anomavision_batches(task)]

    whole()
    throughput = len(task["files"]) / seconds_of(whole)
    peak = peak_bytes()
    if task.get("results"):
        scores, maps = (
            torch.cat(found)[: task["judged"]].numpy() for found in zip(*whole(), strict=True)
        )
        np.savez(task["results"], scores=scores, maps=maps)
    return {
        "import_seconds": imported,
        "latencies_ms": latencies,
        "images_per_second": throughput,
        "predict_peak_bytes": peak,
    }


# anomalib's models, exported by anomalib to OpenVINO, and run by its own inferencer


def export(task: Task) -> Figures:
    import torch
    from lightning.pytorch import seed_everything

    seed_everything(task["seed"])
    model = anomalib_model(task)
    model.load_state_dict(torch.load(task["model"], weights_only=True))
    place = Path(task["exported"])
    # Batches of one, which is what its inferencer gives: by default anomalib lets the batch vary,
    # and its DFM then takes batches of two only.
    file = model.eval().to_openvino(
        place, input_size=tuple(task["size"]), onnx_kwargs={"dynamic_shapes": None}
    )
    if Path(file) != exported_file(task):
        raise SystemExit(f"anomalib exported to {file}, expected {exported_file(task)}")
    size = sum(part.stat().st_size for part in (file, file.with_suffix(".bin")))
    inferencer = openvino_inferencer(task)
    images = input_images(task)[:EXPORT_CHECKS]
    expected = [anomalib_scored(model, image)[0] for image in images]
    found = [float(inferencer.predict(image).pred_score.item()) for image in images]
    difference = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    if not difference <= EXPORT_TOLERANCE:
        raise SystemExit(f"the export scores {found}, PyTorch {expected}: not the same model")
    return {"model_bytes": size, "score_difference": difference}


def openvino_inferencer(task: Task) -> Any:
    from anomalib.deploy import OpenVINOInferencer

    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return OpenVINOInferencer(exported_file(task), device="CPU", config=config)


def exported_file(task: Task) -> Path:
    return Path(task["exported"]) / "weights" / "openvino" / "model.xml"


def exported_predict(task: Task) -> Figures:
    def imports() -> None:
        import openvino
        from anomalib.deploy import OpenVINOInferencer

    imported = seconds_of(imports)
    inferencer = openvino_inferencer(task)
    images = input_images(task)

    def predict(index: int) -> tuple[float, Any]:
        result = inferencer.predict(images[index % len(images)])
        return float(result.pred_score.item()), result.anomaly_map

    return {
        "import_seconds": imported,
        "latencies_ms": latencies_ms(predict, task["latencies"]),
        "predict_peak_bytes": peak_bytes(),
    }


# The limit: a bare graph on tensors that lie in the runtime's own memory


def bare_runner(runtime: str, graph: bytes, images: Any) -> Callable[[], None]:
    """Run a graph with fre's settings of the runtime, without copying input or outputs."""
    if runtime == "openvino":
        import openvino as ov

        core = ov.Core()
        config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(core.read_model(graph, b""), "CPU", config)
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(images, shared_memory=True))
        return lambda: request.infer()
    import onnxruntime as ort

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input(
        session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(images)
    )
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def bare(task: Task) -> Figures:
    import numpy as np

    system = task["system"]
    pixels = np.stack(repeated(input_images(task), FEATURE_BATCH))
    if system["part"] == "backbone":
        from fre.backbones import get_backbone

        backbone = get_backbone(task["backbone"], weights=task["weights"])
        extractor = fre_estimator(task)._extractor(backbone)
        graph = extractor.network.SerializeToString()
        of = backbone.normalisation
        scaled = (pixels - np.array(of.mean)) / np.array(of.std)
        images = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2).astype(np.float32))
    else:
        graph, images = Path(task["model"]).read_bytes(), pixels
    one = bare_runner(system["runtime"], graph, np.ascontiguousarray(images[:1]))
    latencies = latencies_ms(lambda _: one(), task["latencies"])

    def images_per_second(batch: int, n: int) -> float:
        run = bare_runner(system["runtime"], graph, np.ascontiguousarray(images[:batch]))
        run()
        repeats = max(1, round(n / batch))
        return repeats * batch / seconds_of(lambda: [run() for _ in range(repeats)])

    figures: Figures = {
        "latencies_ms": latencies,
        "images_per_second": images_per_second(FRE_BATCH, len(task["files"])),
    }
    if system["part"] == "backbone":
        n = task["n_train"]
        figures["train_seconds"] = n / images_per_second(FEATURE_BATCH, n)
    return figures


STAGES: dict[tuple[str, str], Callable[[Task], Figures]] = {
    ("fre", "train"): fre_train,
    ("fre", "predict"): fre_predict,
    ("anomalib", "train"): anomalib_train,
    ("anomalib", "predict"): anomalib_predict,
    ("anomavision", "train"): anomavision_train,
    ("anomavision", "predict"): anomavision_predict,
    ("exported", "export"): export,
    ("exported", "predict"): exported_predict,
    ("bare", "predict"): bare,
}


if __name__ == "__main__":
    child(lambda task: STAGES[task["system"]["family"], task["stage"]](task))
