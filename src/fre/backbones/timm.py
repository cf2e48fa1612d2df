"""Any network of timm as a backbone: exported once to ONNX, up to the layers that are used.

PyTorch makes the graph, and is not needed again: neither to predict nor by what is saved.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fre.backbones.base import Backbone, Layer, Normalisation
from fre.backbones.cache import cached_model
from fre.backbones.torch_weights import read_weights
from fre.errors import BackboneError, FREError, InternalError, MissingDependencyError
from fre.onnx_tools.builder import OPSET, prune
from fre.onnx_tools.surgery import INPUT, adopt, first_line, run
from fre.types import FloatArray

PACKAGES = ("torch", "timm", "safetensors", "onnxscript")
BUILD = 1
"""Version of the graphs that this module makes; part of the cache key."""
TOLERANCE = 1e-4
"""Largest error of the exported graph against PyTorch, relative to a layer's largest value."""
HUB_TIMEOUT = 5.0
"""Seconds that the model hub has to answer before any download is tried."""
MODEL = "model"


class TimmBackbone(Backbone):
    """A network of timm, frozen, with the feature maps that timm lists in its ``feature_info``.

    **Layers** are named after timm's modules, such as ``layer3`` or ``blocks.5``. Beside those in
    `layers`, any other module will do whose output is a feature map, such as ``layer3.1``. The
    patch tokens of a vision transformer count as a feature map: (N, channels, h, w), class and
    register tokens dropped, as the block leaves them, before the final norm. Names joined by
    ``+``, such as ``blocks.6+blocks.7``, are one layer: the mean of their feature maps.

    **The reference layer** is ``layer3`` where there is one (ResNets); the block after two thirds
    of the depth where all layers have one stride (vision transformers: ``blocks.7`` of 12);
    elsewhere the deepest layer of stride 16.

    **The default size** is 256 x 256, as in the published results, also for networks that timm
    lists with 224; but the size in timm's configuration where that is larger, or is built into
    the network (vision transformers). Position embeddings are resampled for other sizes.

    **The normalisation** is that of timm's configuration for this name. Weights from another
    recipe may want another: say so by timm's tag, as in ``vit_small_patch16_224.dino``.

    Args:
        name: timm's name of the model, with or without a tag.
        weights: a file under timm's parameter names (safetensors, or a state dict), instead of
            the pretrained ones. It may lack what no layer in use needs.

    Raises:
        MissingDependencyError: PyTorch, timm or what exports to ONNX is not installed.
        BackboneError: an unknown name, or weights that are missing, damaged, or do not fit.
    """

    def __init__(self, name: str, weights: Path | None = None) -> None:
        if not all(importlib.util.find_spec(package) for package in PACKAGES):
            raise MissingDependencyError(f"the backbone {name}", "torch")
        self.name = name
        self._weights = weights
        self._missing: set[str] = set()
        with _quiet():
            if weights is None:
                self._model = _pretrained(name)
                self.weights_sha256 = _digest(self._model)
            else:
                self._model = _untrained(name)
                self._missing, self.weights_sha256 = _load(name, self._model, weights)
            self._model.eval().requires_grad_(False)
        config = self._model.pretrained_cfg
        self.normalisation = _normalisation(config)
        self.default_size = _default_size(config)
        # Transformers have positions for one size, and patches that need not divide 32.
        self.any_size = not (
            config.get("fixed_input_size") or hasattr(self._model, "num_prefix_tokens")
        )
        self.layers = _layers(name, self._model)
        self.reference_layer = _reference_layer(self.layers)
        self._probed = {layer.name: layer for layer in self.layers}

    def layer(self, name: str) -> Layer:
        """Return a layer by its name: one of `layers`, or another module that gives a feature map.

        Raises:
            BackboneError: there is none; the message lists the names in `layers`.
        """
        if name not in self._probed and "+" in name:
            self._probed[name] = self._mean_layer(name)
        if name not in self._probed:
            if not name or name not in dict(self._model.named_modules()):
                valid = ", ".join(layer.name for layer in self.layers)
                raise BackboneError(
                    f"{self.name} has no layer {name!r}; choose from: {valid}; or any other module "
                    "of timm's model that gives a feature map"
                )
            import torch

            tapped = self._tapped(self._model, [name], self.default_size)
            with _quiet():
                (features,) = self._run(tapped, torch.zeros(1, 3, *self.default_size))
            _, channels, height, _ = features.shape
            stride = max(1, round(self.default_size[0] / height))
            self._probed[name] = Layer(name, stride, channels)
        return self._probed[name]

    def _mean_layer(self, name: str) -> Layer:
        parts = [self.layer(part) for part in name.split("+")]
        if len({(part.stride, part.channels) for part in parts}) > 1:
            shapes = ", ".join(
                f"{part.name} {part.channels} channels at stride {part.stride}" for part in parts
            )
            raise BackboneError(
                f"{self.name}: the mean {name!r} needs layers of one shape: {shapes}"
            )
        return Layer(name, parts[0].stride, parts[0].channels)

    def graph(self, layers: Sequence[str], size: tuple[int, int]) -> onnx.ModelProto:
        """See `Backbone.graph`. The cache keeps the graph: a second call exports nothing."""
        import timm

        names = list(dict.fromkeys(layers))
        for name in names:
            self.layer(name)
        self._check_size(size)
        key = json.dumps([BUILD, timm.__version__, self.weights_sha256, names, size])
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        file = f"{self.name}-{size[0]}x{size[1]}-{digest}.onnx"
        return cached_model(file, lambda: self._export(names, size))

    def _check_size(self, size: tuple[int, int]) -> None:
        patch = self.layers[0].stride
        if not hasattr(self._model, "num_prefix_tokens") or not any(n % patch for n in size):
            return
        near = " x ".join(str(max(patch, round(n / patch) * patch)) for n in size)
        raise BackboneError(
            f"{self.name} cuts the image into patches of {patch} x {patch} pixels: height and "
            f"width must be multiples of {patch}, not {size[0]} x {size[1]}; try {near}"
        )

    def _resized(self, size: tuple[int, int]) -> Any:
        """Return the model for an input size, if the size is built into the model."""
        if size == self.default_size or not hasattr(self._model, "set_input_size"):
            return self._model
        model = copy.deepcopy(self._model)
        try:
            model.set_input_size(img_size=size)
        except Exception as error:  # each architecture objects in its own way
            raise self._unfit(size, error) from error
        return model.eval().requires_grad_(False)

    def _unfit(self, size: tuple[int, int], error: Exception) -> BackboneError:
        return BackboneError(
            f"{self.name} can't take images of {size[0]} x {size[1]} pixels: {first_line(error)}"
        )

    def _tapped(self, model: Any, names: Sequence[str], size: tuple[int, int]) -> Any:
        """Return a ``torch.nn.Module`` that gives the feature maps of some modules of the model."""
        import torch

        def feature_map(name: str, output: Any) -> Any:
            return self._feature_map(name, output, size)

        class Tapped(torch.nn.Module):  # type: ignore[misc, unused-ignore]  # torch may be absent
            def __init__(self) -> None:
                super().__init__()
                self.add_module(MODEL, model)

            def forward(self, images: Any) -> list[Any]:
                taken: dict[str, Any] = {}

                def take(name: str, output: Any) -> None:
                    # A copy, lest an activation after the layer works on it in place.
                    taken.setdefault(name, feature_map(name, output).clone())

                def hook(name: str) -> Any:
                    return lambda module, inputs, output: take(name, output)

                parts = dict.fromkeys(part for name in names for part in name.split("+"))
                hooks = [
                    model.get_submodule(part).register_forward_hook(hook(part)) for part in parts
                ]
                try:
                    model.forward_features(images)
                finally:
                    for handle in hooks:
                        handle.remove()
                means = ([taken[part] for part in name.split("+")] for name in names)
                return [sum(maps) / len(maps) for maps in means]

        return Tapped().eval()

    def _feature_map(self, name: str, output: Any, size: tuple[int, int]) -> Any:
        """Return the output of a module as (N, C, h, w)."""
        import torch

        shape = tuple(getattr(output, "shape", ()))
        if isinstance(output, torch.Tensor) and len(shape) == 4:
            channels_last = getattr(self._model, "output_fmt", "NCHW") == "NHWC"
            return output.permute(0, 3, 1, 2) if channels_last else output
        if isinstance(output, torch.Tensor) and len(shape) == 3:
            height, width = (n // self.layers[0].stride for n in size)
            prefix = shape[1] - height * width
            if 0 <= prefix <= getattr(self._model, "num_prefix_tokens", 0):
                tokens = output[:, prefix:].transpose(1, 2)
                return tokens.reshape(*tokens.shape[:2], height, width)
        found = f"a tensor of shape {('N', *shape[1:])}" if shape else f"a {type(output).__name__}"
        raise BackboneError(f"{self.name}: {name} gives no feature map but {found}")

    def _run(self, tapped: Any, images: Any) -> list[FloatArray]:
        import torch

        try:
            with torch.inference_mode():
                return [features.numpy() for features in tapped(images)]
        except FREError:
            raise
        except KeyError as error:
            raise BackboneError(
                f"{self.name}: {error.args[0]} takes no part in computing features"
            ) from error
        except Exception as error:  # each architecture objects in its own way
            raise self._unfit(tuple(images.shape[2:]), error) from error

    def _export(self, names: Sequence[str], size: tuple[int, int]) -> onnx.ModelProto:
        import torch

        with _quiet():
            tapped = self._tapped(self._resized(size), names, size)
            random = torch.Generator().manual_seed(0)
            images = torch.randn(2, 3, *size, generator=random)
            expected = dict(zip(names, self._run(tapped, images), strict=True))
            try:
                with torch.no_grad():
                    program: Any = torch.onnx.export(
                        tapped,
                        (images,),
                        input_names=[INPUT],
                        output_names=list(names),
                        dynamic_shapes=({0: torch.export.Dim("N")},),
                        opset_version=OPSET,
                        dynamo=True,
                        optimize=False,
                        verbose=False,
                    )
                # Before anything is folded, the constants have the names of the weights.
                self._check_complete(program.model_proto, names)
                program.optimize()
            except FREError:
                raise
            except Exception as error:  # what PyTorch can't trace fails in many ways
                raise BackboneError(
                    f"{self.name} can't be exported to ONNX: {first_line(error)}"
                ) from error
        shapes = {name: features.shape[1:] for name, features in expected.items()}
        model = adopt(
            _without_wrapper(program.model_proto), shapes, prefix=f"{self.name}/", size=size
        )
        self._check_equal(model, images.numpy(), expected)
        return model

    def _check_complete(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        needed = [tensor.name for tensor in prune(model.graph, names).initializer]
        missing = [
            name
            for name in (tensor.removeprefix(f"{MODEL}.") for tensor in needed)
            if name in self._missing
        ]
        if missing:
            more = f" and {len(missing) - 1} more" if missing[1:] else ""
            raise BackboneError(
                f"{self._weights}: the weights lack the tensor {missing[0]}{more}, needed by "
                f"{self.name} up to {', '.join(names)}"
            )

    def _check_equal(
        self, model: onnx.ModelProto, images: FloatArray, expected: Mapping[str, FloatArray]
    ) -> None:
        results = run(model, expected, images)
        for (name, theirs), ours in zip(expected.items(), results, strict=True):
            error, scale = np.abs(ours - theirs).max(), np.abs(theirs).max()
            # Not the other way round: a NaN must fail, too.
            if not error <= TOLERANCE * scale:
                raise InternalError(
                    f"{self.name}: the exported graph is not equal to PyTorch at {name}: off by "
                    f"{error:.3g} where the largest value is {scale:.3g}"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence messages of PyTorch and timm to their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _without_wrapper(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the name of the wrapping module from the names of the weights."""
    names = {
        tensor.name: tensor.name.removeprefix(f"{MODEL}.") for tensor in model.graph.initializer
    }
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


def _check_name(name: str) -> None:
    import timm

    from fre.backbones.efficientnet_lite import EFFICIENTNET_LITE

    if timm.is_model(name):
        return
    known = [*EFFICIENTNET_LITE, *timm.list_models()]
    close = difflib.get_close_matches(name, known, n=4)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise BackboneError(
        f"no backbone is called {name!r}; {hint}The built-in ones are "
        f"{', '.join(EFFICIENTNET_LITE)}; the others are timm's models and .onnx files"
    )


def _create(name: str, *, pretrained: bool) -> Any:
    import timm

    # Without the classifier, which no layer needs: its weights may be missing or of another task.
    return timm.create_model(name, pretrained=pretrained, num_classes=0)


def _untrained(name: str) -> Any:
    _check_name(name)
    try:
        return _create(name, pretrained=False)
    except Exception as error:  # an unknown tag, an architecture that needs more packages, ...
        raise BackboneError(f"timm can't build {name}: {first_line(error)}") from error


def _pretrained(name: str) -> Any:
    import timm

    _check_name(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise BackboneError(f"timm can't build {name}: {first_line(error)}") from error
    if config is None or not config.has_weights:
        raise BackboneError(
            f"timm has no pretrained weights for {name}: give a file with --weights FILE"
        )
    ways_out = (
        "give a file with --weights FILE, or train once where the network lets you, which fills "
        "the cache of the model hub"
    )
    # The hub's own retries would take minutes where there is no network.
    if config.hf_hub_id and not _in_hub_cache(config.hf_hub_id) and not _hub_answers():
        raise BackboneError(
            f"the pretrained weights of {name} are not on this machine, and the model hub can't "
            f"be reached: {ways_out}"
        )
    try:
        return _create(name, pretrained=True)
    except Exception as error:  # of the hub, of its HTTP client, of timm
        raise BackboneError(
            f"can't get the pretrained weights of {name} ({first_line(error)}): {ways_out}"
        ) from error


def _in_hub_cache(repository: str) -> bool:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, local_files_only=True)
    except Exception:  # its type has changed with the hub's versions
        return False
    return True


def _hub_answers() -> bool:
    from huggingface_hub import constants

    # Some versions of the hub do not export it for type checkers.
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined, unused-ignore]

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception:  # of the HTTP client, which has changed with the hub's versions
        return False
    return True


def _load(name: str, model: Any, path: Path) -> tuple[set[str], str]:
    """Load a file's weights into a model; return the names that it lacks, and its digest."""
    tensors, digest = read_weights(path)
    wanted = model.state_dict()
    fitting = {key: tensor for key, tensor in tensors.items() if key in wanted}
    if not fitting:
        raise BackboneError(
            f"{path}: none of its tensors belongs to {name}: it has {next(iter(tensors))}, where "
            f"{name} has {next(iter(wanted))}"
        )
    for key, tensor in fitting.items():
        if tensor.shape != wanted[key].shape:
            raise BackboneError(
                f"{path}: {key} has the shape {tuple(tensor.shape)}, where {name} needs "
                f"{tuple(wanted[key].shape)}"
            )
    model.load_state_dict(fitting, strict=False)
    return {
        key for key in wanted if key not in fitting and not key.endswith("num_batches_tracked")
    }, digest


def _digest(model: Any) -> str:
    """Return the digest of pretrained weights: SHA-256 over name, type, shape and values."""
    import torch

    sha256 = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            sha256.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()


def _normalisation(config: Mapping[str, Any]) -> Normalisation:
    (mr, mg, mb), (sr, sg, sb) = (
        tuple(255.0 * value for value in config[key]) for key in ("mean", "std")
    )
    return Normalisation((mr, mg, mb), (sr, sg, sb))


def _default_size(config: Mapping[str, Any]) -> tuple[int, int]:
    _, height, width = config["input_size"]
    if config.get("fixed_input_size") or max(height, width) > 256:
        return height, width
    return 256, 256


def _layers(name: str, model: Any) -> tuple[Layer, ...]:
    modules = dict(model.named_modules())
    info = getattr(model, "feature_info", None) or ()
    layers = tuple(
        Layer(entry["module"], int(entry["reduction"]), int(entry["num_chs"]))
        for entry in getattr(info, "info", info)
        if entry.get("module") in modules
    )
    if not layers:
        raise BackboneError(f"timm lists no feature maps of {name}; choose another backbone")
    return layers


def _reference_layer(layers: Sequence[Layer]) -> str:
    if any(layer.name == "layer3" for layer in layers):
        return "layer3"
    if len({layer.stride for layer in layers}) == 1:
        return layers[max(0, 2 * len(layers) // 3 - 1)].name
    return max(reversed(layers), key=lambda layer: (layer.stride <= 16, layer.stride)).name
