"""Assemble preprocessing, backbone and head into one ONNX model.

Training runs the left part of the graph, up to the features; the model file holds all of it.
Both are made here from the same pieces, so that what was fitted is what is deployed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.compose import add_prefix_graph

from fre.backbones.base import Normalisation
from fre.errors import OptionError
from fre.onnx_builder import GraphBuilder
from fre.subspace.autoencoder import LinearAutoencoder
from fre.subspace.pca import Subspace
from fre.types import FloatArray

__all__ = [
    "FEATURES",
    "IMAGES",
    "MAP",
    "SCORE",
    "FeatureLayout",
    "detector_model",
    "feature_model",
    "interpolation_matrix",
    "pooling_matrix",
]

IMAGES, FEATURES, SCORE, MAP = "images", "features", "score", "anomaly_map"
BACKBONE = "backbone/"
"""Comes before the names of a backbone's tensors."""


@dataclass(frozen=True)
class FeatureLayout:
    """How a flat feature is made up: a layer's feature map after average pooling.

    Attributes:
        layer: name of the layer.
        channels: its channels.
        grid: height and width of its feature map.
        pool: edge of the pooling windows, in locations.
    """

    layer: str
    channels: int
    grid: tuple[int, int]
    pool: int

    def __post_init__(self) -> None:
        if not 1 <= self.pool <= min(self.grid):
            raise OptionError(
                f"pool must be between 1 and {min(self.grid)}, the smaller side of the feature "
                f"map of {self.layer}, not {self.pool}"
            )

    @property
    def pooled(self) -> tuple[int, int]:
        """Height and width after pooling, rounded up: no location is left out."""
        return -(-self.grid[0] // self.pool), -(-self.grid[1] // self.pool)

    @property
    def dimension(self) -> int:
        """Length of the flat feature."""
        return self.channels * self.pooled[0] * self.pooled[1]


def pooling_matrix(source: int, target: int) -> FloatArray:
    """Average pooling along one axis into windows that cover it evenly.

    Where ``target`` divides ``source`` these are the ordinary windows; elsewhere they overlap
    instead of dropping a rest, as in adaptive pooling.

    Returns:
        float32 (target, source): its rows sum to 1.
    """
    matrix = np.zeros((target, source), np.float32)
    for row in range(target):
        start, stop = row * source // target, -(-(row + 1) * source // target)
        matrix[row, start:stop] = 1 / (stop - start)
    return matrix


def interpolation_matrix(source: int, target: int) -> FloatArray:
    """Bilinear interpolation along one axis, pixel centres at half-integers, edges held.

    As a matrix it is the same on every runtime, whatever each makes of ONNX's Resize.

    Returns:
        float32 (target, source): its rows sum to 1.
    """
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    below = np.minimum(np.floor(position).astype(int), max(source - 2, 0))
    share = position - below
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    matrix[rows, below] = 1 - share
    if source > 1:
        matrix[rows, below + 1] = share
    return matrix


class _Assembly:
    """The graph in the making, from the images on."""

    def __init__(
        self, backbone: onnx.ModelProto, normalisation: Normalisation, size: tuple[int, int]
    ) -> None:
        self.size = size
        self.backbone = backbone
        self.builder = GraphBuilder()
        # A layer of someone's network may well be called "features" or "score".
        network = add_prefix_graph(backbone.graph, BACKBONE)
        self._preprocess(network.input[0].name, normalisation)
        self.builder.embed(network)

    def _preprocess(self, output: str, normalisation: Normalisation) -> None:
        build = self.builder
        mean = build.constant("pixel_mean", _per_channel(normalisation.mean))
        scale = build.constant("pixel_scale", 1 / _per_channel(normalisation.std))
        pixels = build.node("Cast", IMAGES, to=TensorProto.FLOAT)
        planes = build.node("Transpose", pixels, perm=[0, 3, 1, 2])
        build.node("Mul", build.node("Sub", planes, mean), scale, output=output)

    def features(self, layout: FeatureLayout) -> str:
        """Pool the feature map of a layer and flatten it: (N, D)."""
        build = self.builder
        x = BACKBONE + layout.layer
        if layout.pool > 1 and all(side % layout.pool == 0 for side in layout.grid):
            window = [layout.pool, layout.pool]
            x = build.node("AveragePool", x, kernel_shape=window, strides=window)
        elif layout.pool > 1:
            rows = pooling_matrix(layout.grid[0], layout.pooled[0])
            columns = pooling_matrix(layout.grid[1], layout.pooled[1])
            x = build.node("MatMul", build.constant("pool_rows", rows), x)
            x = build.node("MatMul", x, build.constant("pool_columns", columns.T))
        return build.node("Flatten", x, output=FEATURES, axis=1)

    def residual_map(
        self, features: str, layout: FeatureLayout, subspace: Subspace | LinearAutoencoder
    ) -> str:
        """The squared residual, summed over the channels: (N, h, w)."""
        build = self.builder
        if isinstance(subspace, LinearAutoencoder):
            residual = self._autoencoder_residual(features, subspace)
        else:
            residual = self._projection_residual(features, subspace)
        squared = build.node("Mul", residual, residual)
        shape = np.array([-1, layout.channels, *layout.pooled], np.int64)
        shaped = build.node("Reshape", squared, build.constant("feature_shape", shape))
        channel_axis = build.constant("channel_axis", np.array([1], np.int64))
        return build.node("ReduceSum", shaped, channel_axis, keepdims=0)

    def _projection_residual(self, features: str, subspace: Subspace) -> str:
        build = self.builder
        mean = build.constant("mean", subspace.mean.astype(np.float32))
        centred = build.node("Sub", features, mean)
        if subspace.rank == 0:
            return centred
        basis = build.constant("basis", subspace.basis.astype(np.float32))
        code = build.node("MatMul", centred, basis)
        # centred - code V^T in one operation, with the same V as the line above
        return build.node("Gemm", code, basis, centred, alpha=-1.0, transB=1)

    def _autoencoder_residual(self, features: str, autoencoder: LinearAutoencoder) -> str:
        build = self.builder
        tied = autoencoder.decoder is autoencoder.encoder
        encoder = build.constant("basis" if tied else "encoder", autoencoder.encoder)
        decoder = encoder if tied else build.constant("decoder", autoencoder.decoder)
        code = build.node(
            "Gemm", features, encoder, build.constant("encoder_bias", autoencoder.encoder_bias)
        )
        shift = build.constant("decoder_bias", autoencoder.decoder_bias)
        shifted = build.node("Sub", features, shift)
        return build.node("Gemm", code, decoder, shifted, alpha=-1.0, transB=1)

    def upsample(self, residuals: str, grid: tuple[int, int]) -> None:
        """Bilinear, to the size of the input: the output ``anomaly_map``."""
        build = self.builder
        rows = build.constant("upsample_rows", interpolation_matrix(grid[0], self.size[0]))
        columns = interpolation_matrix(grid[1], self.size[1]).T
        tall = build.node("MatMul", rows, residuals)
        build.node("MatMul", tall, build.constant("upsample_columns", columns), output=MAP)

    def total(self, residuals: str) -> None:
        """The sum over the locations: the output ``score``."""
        axes = self.builder.constant("location_axes", np.array([1, 2], np.int64))
        self.builder.node("ReduceSum", residuals, axes, output=SCORE, keepdims=0)

    def model(self, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        images = helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["N", *self.size, 3])
        model = self.builder.model(
            [images],
            outputs,
            name="fre",
            opsets=self.backbone.opset_import,
            ir_version=self.backbone.ir_version,
        )
        onnx.checker.check_model(model)
        return model


def _per_channel(values: tuple[float, float, float]) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, 3, 1, 1)


def feature_model(
    backbone: onnx.ModelProto,
    normalisation: Normalisation,
    layout: FeatureLayout,
    size: tuple[int, int],
) -> onnx.ModelProto:
    """Images to flat features: the left part of `detector_model`.

    Args:
        backbone: a model as `Backbone.graph` returns it, with the layer of ``layout``.
        normalisation: of its input.
        layout: which layer, and how it is pooled.
        size: height and width of the input.

    Returns:
        A model from ``images``, uint8 (N, H, W, 3), to ``features``, float32 (N, D).
    """
    assembly = _Assembly(backbone, normalisation, size)
    assembly.features(layout)
    shape = ("N", layout.dimension)
    return assembly.model([helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, shape)])


def detector_model(
    backbone: onnx.ModelProto,
    normalisation: Normalisation,
    layout: FeatureLayout,
    size: tuple[int, int],
    subspace: Subspace | LinearAutoencoder,
) -> onnx.ModelProto:
    """Images to scores and anomaly maps.

    Args:
        backbone: a model as `Backbone.graph` returns it, with the layer of ``layout``.
        normalisation: of its input.
        layout: which layer, and how it is pooled.
        size: height and width of the input.
        subspace: of the features of good images, in closed form or trained.

    Returns:
        A model from ``images``, uint8 (N, H, W, 3), to ``score``, float32 (N,), the sum of the
        squared residual, and ``anomaly_map``, float32 (N, H, W), the squared residual in place.
    """
    assembly = _Assembly(backbone, normalisation, size)
    residuals = assembly.residual_map(assembly.features(layout), layout, subspace)
    assembly.total(residuals)
    assembly.upsample(residuals, layout.pooled)
    return assembly.model(
        [
            helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info(MAP, TensorProto.FLOAT, ["N", *size]),
        ]
    )
