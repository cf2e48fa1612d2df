"""Assemble preprocessing, backbone and head into one ONNX model.

Training runs the left part of the graph, up to the features; the model file holds all of it.
Both are built here from the same functions, so that the fitted network is the deployed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fre.backbones.base import Normalisation
from fre.features.layout import FeatureLayout
from fre.features.network import NetworkGraph
from fre.images.roi import cells
from fre.scoring.calibration import Calibration
from fre.scoring.fusion import VETO_DEVIATIONS, Fusion, Standard
from fre.scoring.maps import Enlargement
from fre.subspaces.autoencoder import LinearAutoencoder
from fre.subspaces.patch import PatchSubspace
from fre.subspaces.position import PositionSubspace
from fre.subspaces.protocols import Scope, Subspace
from fre.subspaces.subspace import ImageSubspace
from fre.types import MaskArray

SCORE, MAP = "score", "anomaly_map"
P_VALUE, ANOMALOUS = "p_value", "anomalous"
TILE = "tile"
"""The input of models with a head for each tile: int64 (N,), which tile each image is."""


def layer_map(index: int) -> str:
    """The name of the tensor that holds one layer's part of a fused map, before it is enlarged."""
    return f"layer_map/{index}"


@dataclass(frozen=True)
class Head:
    """Everything after the backbone: subspaces, and how their residuals become score and map.

    Attributes:
        layouts: layout of each layer.
        subspaces: subspace of each layer.
        overall: layout and subspace of the overall residual.
        fusion: makes one score and one map of the squared residuals.
    """

    layouts: tuple[FeatureLayout, ...]
    subspaces: tuple[Subspace, ...]
    overall: tuple[FeatureLayout, ImageSubspace]
    fusion: Fusion


class _Assembly(NetworkGraph):
    """The graph in the making, from the images to score and map."""

    def __init__(
        self,
        backbone: onnx.ModelProto,
        normalisation: Normalisation,
        size: tuple[int, int],
        inspected: MaskArray | None = None,
        heads: int = 1,
    ) -> None:
        super().__init__(backbone, normalisation, size, inspected)
        self.heads = heads

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """``images``; and of several heads ``tile``, int64 (N,)."""
        inputs = super().inputs()
        if self.heads > 1:
            inputs.append(helper.make_tensor_value_info(TILE, TensorProto.INT64, ["N"]))
        return inputs

    def residual_map(
        self,
        features: str,
        layout: FeatureLayout,
        subspace: Subspace,
        *,
        half: bool = False,
    ) -> str:
        """The squared residual, summed over the channels: (N, h, w).

        With ``half`` the basis is stored in half precision.
        """
        if isinstance(subspace, LinearAutoencoder):
            residual = self._autoencoder_residual(features, subspace)
        else:
            assert isinstance(subspace, ImageSubspace)
            residual = self._projection_residual(features, subspace, half)
        return self._map_of(residual, layout)

    def _map_of(self, residual: str, layout: FeatureLayout) -> str:
        """The square of a residual (N, D), summed over the channels: (N, h, w)."""
        build = self.builder
        squared = build.node("Mul", residual, residual)
        shape = np.array([-1, layout.channels, *layout.pooled], np.int64)
        shaped = build.node("Reshape", squared, build.constant("feature_shape", shape))
        channel_axis = build.constant("channel_axis", np.array([1], np.int64))
        return build.node("ReduceSum", shaped, channel_axis, keepdims=0)

    def _projection_residual(self, features: str, subspace: ImageSubspace, half: bool) -> str:
        build = self.builder
        mean = build.constant("mean", subspace.mean.astype(np.float32))
        centred = build.node("Sub", features, mean)
        if subspace.rank == 0:
            return centred
        if half:
            basis = self.half_precision("basis", [subspace.basis])
        else:
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

    def enlarge(self, maps: str, enlargement: Enlargement, output: str | None = None) -> str:
        """Float32 (N, h, w) to (N, H, W)."""
        build = self.builder
        rows = build.constant("enlarge_rows", enlargement.rows)
        columns = build.constant("enlarge_columns", enlargement.columns.T)
        return build.node("MatMul", build.node("MatMul", rows, maps), columns, output=output)

    def total(self, residuals: str) -> None:
        """The sum over the locations: the output ``score``."""
        axes = self.builder.constant("location_axes", np.array([1, 2], np.int64))
        self.builder.node("ReduceSum", residuals, axes, output=SCORE, keepdims=0)

    def sum_of_squares(self, values: str, axis: int) -> str:
        build = self.builder
        axes = build.constant("sum_axis", np.array([axis], np.int64))
        return build.node("ReduceSum", build.node("Mul", values, values), axes, keepdims=0)

    def constant(self, name: str, values: Sequence[NDArray[np.floating]]) -> str:
        """Store an array as float32, one for all images; or, of several heads, each image's."""
        return self._of_tile(name, np.stack(values).astype(np.float32))

    def half_precision(self, name: str, values: Sequence[NDArray[np.floating]]) -> str:
        """Store an array as float16. With one head, runtimes convert it when they load it."""
        stored = self._of_tile(name, np.stack(values).astype(np.float16))
        return self.builder.node("Cast", stored, to=TensorProto.FLOAT)

    def _of_tile(self, name: str, stacked: NDArray[np.floating]) -> str:
        if self.heads == 1:
            return self.builder.constant(name, stacked[0])
        return self.builder.node("Gather", self.builder.constant(name, stacked), TILE, axis=0)

    def vectors(self, layout: FeatureLayout) -> str:
        """The channels at each location of a layer: (N, C, P)."""
        shape = np.array([0, layout.channels, layout.pooled[0] * layout.pooled[1]], np.int64)
        places = self.builder.constant("places", shape)
        return self.builder.node("Reshape", self.feature_map(layout), places)

    def on_grid(self, squared: str, layout: FeatureLayout) -> str:
        """(N, P) to (N, h, w)."""
        grid = self.builder.constant("place_grid", np.array([-1, *layout.pooled], np.int64))
        return self.builder.node("Reshape", squared, grid)

    def position_residuals(
        self, layout: FeatureLayout, subspaces: Sequence[PositionSubspace]
    ) -> str:
        """Squared residual at each location under its own subspace: (N, h, w)."""
        build = self.builder
        mean = self.constant("place_mean", [subspace.mean for subspace in subspaces])
        complement = self.half_precision(
            "place_complement", _widened([subspace.complement for subspace in subspaces])
        )
        if self.heads > 1:
            # For each image another matrix at each location: (N, P, 1, C) by (N, P, C, k)
            vectors = build.node("Transpose", self.vectors(layout), perm=[0, 2, 1])
            centred = build.node("Sub", vectors, mean)
            row = build.constant("row_axis", np.array([2], np.int64))
            outside = build.node("MatMul", build.node("Unsqueeze", centred, row), complement)
            squared = self.sum_of_squares(build.node("Squeeze", outside, row), 2)
            return self.on_grid(squared, layout)
        # One batched product for all locations: (P, N, C) by (P, C, k)
        vectors = build.node("Transpose", self.vectors(layout), perm=[2, 0, 1])
        row = build.constant("row_axis", np.array([1], np.int64))
        centred = build.node("Sub", vectors, build.node("Unsqueeze", mean, row))
        outside = build.node("MatMul", centred, complement)
        squared = build.node("Transpose", self.sum_of_squares(outside, 2), perm=[1, 0])
        return self.on_grid(squared, layout)

    def patch_residuals(self, layout: FeatureLayout, subspaces: Sequence[PatchSubspace]) -> str:
        """Squared residual at each location under the subspace of all: (N, h, w)."""
        build = self.builder
        mean = self.constant("patch_mean", [subspace.mean[:, None] for subspace in subspaces])
        widened = _widened([subspace.complement for subspace in subspaces])
        complement = self.half_precision("patch_complement", [matrix.T for matrix in widened])
        centred = build.node("Sub", self.vectors(layout), mean)
        outside = build.node("MatMul", complement, centred)
        return self.on_grid(self.sum_of_squares(outside, 1), layout)

    def image_residuals(self, layout: FeatureLayout, subspaces: Sequence[ImageSubspace]) -> str:
        """Squared residual at each location under the subspace of the whole map: (N, h, w)."""
        if self.heads == 1:
            return self.residual_map(self.features(layout), layout, subspaces[0], half=True)
        build = self.builder
        centred, basis, code = self._codes("basis", layout, subspaces)
        back = build.node("Transpose", basis, perm=[0, 2, 1])
        row = build.constant("row_axis", np.array([1], np.int64))
        decoded = build.node("Squeeze", build.node("MatMul", code, back), row)
        return self._map_of(build.node("Sub", centred, decoded), layout)

    def _codes(
        self, name: str, layout: FeatureLayout, subspaces: Sequence[ImageSubspace]
    ) -> tuple[str, str, str]:
        """For several heads: centred features (N, D), bases (N, D, k) and codes (N, 1, k)."""
        build = self.builder
        mean = self.constant(f"{name}_mean", [subspace.mean for subspace in subspaces])
        centred = build.node("Sub", self.features(layout), mean)
        bases = _widened([subspace.basis for subspace in subspaces])
        basis = self.half_precision(name, bases)
        row = build.constant("row_axis", np.array([1], np.int64))
        return centred, basis, build.node("MatMul", build.node("Unsqueeze", centred, row), basis)

    def squared_residuals(self, layout: FeatureLayout, subspaces: Sequence[Subspace]) -> str:
        """Squared residual at each location of a layer, 0 where nothing is inspected: (N, h, w)."""
        graph_of: dict[Scope, Callable[[FeatureLayout, Any], str]] = {
            "image": self.image_residuals,
            "position": self.position_residuals,
            "patch": self.patch_residuals,
        }
        squared = graph_of[subspaces[0].scope](layout, subspaces)
        if self.inspected is None:
            return squared
        mask = cells(self.inspected, layout.pooled).astype(np.float32)
        return self.builder.node("Mul", squared, self.builder.constant("inspected_cells", mask))

    def overall_residual(self, layout: FeatureLayout, subspaces: Sequence[ImageSubspace]) -> str:
        """Mean squared residual of an image: (N,)."""
        build = self.builder
        # No map is needed, so the residual need not be decoded.
        if self.heads > 1:
            centred, _, code = self._codes("overall_basis", layout, subspaces)
            row = build.constant("row_axis", np.array([1], np.int64))
            kept = self.sum_of_squares(build.node("Squeeze", code, row), 1)
            residual = build.node("Sub", self.sum_of_squares(centred, 1), kept)
        else:
            (subspace,) = subspaces
            mean = self.constant("overall_mean", [subspace.mean])
            centred = build.node("Sub", self.features(layout), mean)
            residual = self.sum_of_squares(centred, 1)
            if subspace.rank:
                basis = self.half_precision("overall_basis", [subspace.basis])
                kept = self.sum_of_squares(build.node("MatMul", centred, basis), 1)
                residual = build.node("Sub", residual, kept)
        return self.affine(residual, [1 / layout.dimension] * self.heads, [0.0] * self.heads)

    def mean_residual(self, maps: str, layout: FeatureLayout) -> str:
        """Mean of an existing squared-residual map, (N, h, w): (N,)."""
        axes = self.builder.constant("location_axes", np.array([1, 2], np.int64))
        total = self.builder.node("ReduceSum", maps, axes, keepdims=0)
        return self.affine(total, [1 / layout.dimension] * self.heads, [0.0] * self.heads)

    def affine(
        self,
        values: str,
        gains: Sequence[NDArray[np.floating] | float],
        offsets: Sequence[NDArray[np.floating] | float],
        output: str | None = None,
    ) -> str:
        build = self.builder
        gain = self.constant("gain", [np.asarray(gain) for gain in gains])
        offset = self.constant("offset", [np.asarray(offset) for offset in offsets])
        return build.node("Add", build.node("Mul", values, gain), offset, output=output)

    def standardise(self, maps: str, standards: Sequence[Standard], grid: tuple[int, int]) -> str:
        gains = [(1 / standard.deviation).reshape(grid) for standard in standards]
        offsets = [
            -standard.mean.reshape(grid) * gain
            for standard, gain in zip(standards, gains, strict=True)
        ]
        return self.affine(maps, gains, offsets)

    def add(self, terms: Sequence[str], output: str | None = None) -> str:
        total = terms[0]
        for term in terms[1:-1]:
            total = self.builder.node("Add", total, term)
        if len(terms) > 1:
            return self.builder.node("Add", total, terms[-1], output=output)
        return self.builder.node("Identity", total, output=output) if output else total

    def fused_score(self, maps: Sequence[str], fusions: Sequence[Fusion], overall: str) -> None:
        """The output ``score`` from the squared residuals of the layers that count: (N,)."""
        build = self.builder
        common = fusions[0]
        scoring = common.layers.scoring(range(len(maps)))
        score_map = self.add(
            [
                self.enlarge(
                    self.standardise(maps[i], standards, common.layers.grids[i]),
                    common.score_enlargements[place],
                )
                for place, i in enumerate(scoring)
                for standards in [[fusion.score_standards[place] for fusion in fusions]]
            ]
        )
        ranked = common.layers.ranked
        if ranked is not None:
            lowest = build.constant("lowest", np.array(np.finfo(np.float32).min))
            score_map = build.node("Where", build.constant("ranked", ranked), score_map, lowest)
        pixels = build.node("Flatten", score_map, axis=1)
        count = build.constant("top", np.array([common.top], np.int64))
        largest = build.node("TopK", pixels, count, unused=1, axis=1, largest=1, sorted=0)
        axis = build.constant("top_axis", np.array([1], np.int64))
        raw = build.node("ReduceMean", largest, axis, keepdims=0)
        gains = [1 / fusion.raw_deviation for fusion in fusions]
        offsets = [-fusion.raw_mean / fusion.raw_deviation for fusion in fusions]
        terms = [self.affine(raw, gains, offsets)]
        if vetoes := [fusion.veto for fusion in fusions if fusion.veto is not None]:
            beyond = self.affine(
                overall,
                [1 / veto.deviation for veto in vetoes],
                [-veto.mean / veto.deviation - VETO_DEVIATIONS for veto in vetoes],
            )
            terms.append(build.node("Relu", beyond))
        if limits := [fusion.limit for fusion in fusions if fusion.limit is not None]:
            far = self.affine(
                overall,
                [limit.lift / limit.energy for limit in limits],
                [-limit.lift for limit in limits],
            )
            terms.append(build.node("Relu", far))
        self.add(terms, SCORE)

    def fused_map(self, maps: Sequence[str], fusions: Sequence[Fusion]) -> None:
        """The output ``anomaly_map`` from the squared residuals of the map's layers: (N, H, W)."""
        common = fusions[0]
        mapped = common.layers.mapped(range(len(maps)))
        parts = [
            self.enlarge(
                self.standardise(
                    self.builder.node("Sqrt", maps[i]),
                    [fusion.map_standards[place] for fusion in fusions],
                    common.layers.grids[i],
                ),
                common.map_alignments[place],
                layer_map(i),
            )
            for place, i in enumerate(mapped)
        ]
        self.finish_map(self.add(parts), common.map_enlargement)

    def finish_map(self, maps: str, enlargement: Enlargement) -> None:
        """The output ``anomaly_map``, 0 where nothing is inspected."""
        if self.inspected is None:
            self.enlarge(maps, enlargement, MAP)
            return
        mask = self.builder.constant("inspected_pixels", self.inspected.astype(np.float32))
        self.builder.node("Mul", self.enlarge(maps, enlargement), mask, output=MAP)

    def decide(self, calibration: Calibration) -> None:
        """The outputs ``p_value`` and ``anomalous``, as `Calibration` has them: (N,) each.

        Comparisons with NaN are false: an image whose score is not a number is anomalous, and
        has the smallest p-value.
        """
        build = self.builder
        scores, count, threshold = (
            build.constant(name, values) for name, values in calibration.initialisers().items()
        )
        axis = build.constant("score_axis", np.array([1], np.int64))
        lower = build.node("LessOrEqual", build.node("Unsqueeze", SCORE, axis), scores)
        at_least = build.node(
            "ReduceSum", build.node("Cast", lower, to=TensorProto.FLOAT), axis, keepdims=0
        )
        one = build.constant("one", np.array(1, np.float32))
        build.node("Div", build.node("Add", at_least, one), count, output=P_VALUE)
        build.node("Not", build.node("LessOrEqual", SCORE, threshold), output=ANOMALOUS)


def detector_model(
    backbone: onnx.ModelProto,
    normalisation: Normalisation,
    part: tuple[FeatureLayout, Subspace],
    size: tuple[int, int],
    calibration: Calibration,
    inspected: MaskArray | None = None,
) -> onnx.ModelProto:
    """Images to scores and anomaly maps.

    Args:
        backbone: a model as `Backbone.graph` returns it, with the layer of ``part``.
        normalisation: mean and standard deviation of the network's input.
        part: which layer, and how it is pooled; and PCA or autoencoder of its features.
        size: height and width of the input.
        calibration: scores of good images, and the threshold.
        inspected: bool (H, W), inspected pixels of the input; ``None`` is all. Not
            for an autoencoder, whose reconstruction of nothing is not quite nothing.

    Returns:
        A model from ``images``, uint8 (N, H, W, 3), to ``score``, float32 (N,), the sum of the
        squared residual, ``anomaly_map``, float32 (N, H, W), the squared residual in place, and
        ``p_value``, float32 (N,), and ``anomalous``, bool (N,).
    """
    assembly = _Assembly(backbone, normalisation, size, inspected)
    layout, subspace = part
    residuals = assembly.residual_map(assembly.features(layout), layout, subspace)
    assembly.total(residuals)
    assembly.finish_map(residuals, Enlargement.through(layout.pooled, size))
    assembly.decide(calibration)
    return assembly.model(_outputs(size))


def fused_model(
    backbone: onnx.ModelProto,
    normalisation: Normalisation,
    heads: Sequence[Head],
    size: tuple[int, int],
    calibration: Calibration,
) -> onnx.ModelProto:
    """Images to scores and anomaly maps of several layers.

    Args:
        backbone: a model as `Backbone.graph` returns it, with the layers of the heads.
        normalisation: mean and standard deviation of the network's input.
        heads: one head; or one for each tile, of which the input ``tile``, int64 (N,), chooses. All
            have the same structure.
        size: height and width of the input.
        calibration: scores of good images, and the threshold.

    Returns:
        A model from ``images``, uint8 (N, H, W, 3), to ``score``, float32 (N,), in standard
        deviations of a normal image, ``anomaly_map``, float32 (N, H, W), in normal standard
        deviations, 0 is typical, and ``p_value``, float32 (N,), and ``anomalous``, bool (N,).
        `layer_map` names each layer's part of the map, float32 (N, h, w), before it is enlarged
        and smoothed.
    """
    fusions = [head.fusion for head in heads]
    common = heads[0]
    assembly = _Assembly(backbone, normalisation, size, fusions[0].layers.inspected, len(heads))
    maps = [
        assembly.squared_residuals(layout, [head.subspaces[i] for head in heads])
        for i, layout in enumerate(common.layouts)
    ]
    overall, layout = [head.overall[1] for head in heads], common.overall[0]
    shared = [i for i, subspace in enumerate(common.subspaces) if subspace is overall[0]]
    if fusions[0].veto is None and fusions[0].limit is None:
        residual = ""
    elif shared:
        residual = assembly.mean_residual(maps[shared[0]], layout)
    else:
        residual = assembly.overall_residual(layout, overall)
    assembly.fused_score(maps, fusions, residual)
    assembly.fused_map(maps, fusions)
    assembly.decide(calibration)
    return assembly.model(_outputs(size))


def _widened(matrices: Sequence[NDArray[np.floating]]) -> list[NDArray[np.floating]]:
    """Matrices of equal width, filled up with columns of zeros; at least one column."""
    width = max(1, *(matrix.shape[-1] for matrix in matrices))
    return [
        np.pad(matrix, [(0, 0)] * (matrix.ndim - 1) + [(0, width - matrix.shape[-1])])
        for matrix in matrices
    ]


def _outputs(size: tuple[int, int]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info(MAP, TensorProto.FLOAT, ["N", *size]),
        helper.make_tensor_value_info(P_VALUE, TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info(ANOMALOUS, TensorProto.BOOL, ["N"]),
    ]
