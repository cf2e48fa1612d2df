"""First part of every graph: preprocessing, backbone, and pooled feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.compose import add_prefix_graph

from fre.backbones.base import Normalisation
from fre.backbones.model_file import PREFIX
from fre.features.layout import FeatureLayout, pooling_matrix
from fre.images.roi import cells
from fre.onnx_tools.builder import GraphBuilder
from fre.types import MaskArray

IMAGES, FEATURES = "images", "features"


class NetworkGraph:
    """A graph under construction, from images to pooled feature maps."""

    def __init__(
        self,
        backbone: onnx.ModelProto,
        normalisation: Normalisation,
        size: tuple[int, int],
        inspected: MaskArray | None = None,
    ) -> None:
        self.size = size
        self.backbone = backbone
        self.inspected = inspected
        self.builder = GraphBuilder()
        # A layer of the backbone may be called "features" or "score", too.
        network = add_prefix_graph(backbone.graph, PREFIX)
        self._preprocess(network.input[0].name, normalisation)
        self.builder.embed(network)

    def _preprocess(self, output: str, normalisation: Normalisation) -> None:
        build = self.builder
        # Bytes are transposed, and one node normalises them. The plain order, with Sub and Mul,
        # takes twice as long in ONNX Runtime: 4 % of a small network's time.
        planes = build.node("Transpose", IMAGES, perm=[0, 3, 1, 2])
        pixels = build.node("Cast", planes, to=TensorProto.FLOAT)
        mean = np.array(normalisation.mean, np.float32)
        std = np.array(normalisation.std, np.float32)
        inputs = (
            pixels,
            build.constant("pixel_scale", 1 / std),
            build.constant("pixel_shift", np.zeros(3, np.float32)),
            build.constant("pixel_mean", mean),
            build.constant("pixel_variance", np.ones(3, np.float32)),
        )
        if self.inspected is None:
            build.node("BatchNormalization", *inputs, output=output, epsilon=0.0)
            return
        # The network sees the mean colour in ignored areas.
        scaled = build.node("BatchNormalization", *inputs, epsilon=0.0)
        visible = build.constant("inspected", self.inspected)
        nothing = build.constant("mean_colour", np.zeros((), np.float32))
        build.node("Where", visible, scaled, nothing, output=output)

    def feature_map(self, layout: FeatureLayout) -> str:
        """Add the pooled feature map of a layer, and return its tensor: (N, C, h, w)."""
        build = self.builder
        x = PREFIX + layout.layer
        if self.inspected is not None:
            mask = cells(self.inspected, layout.grid).astype(np.float32)
            x = build.node("Mul", x, build.constant("inspected_cells", mask))
        if layout.pool > 1 and all(side % layout.pool == 0 for side in layout.grid):
            window = [layout.pool, layout.pool]
            x = build.node("AveragePool", x, kernel_shape=window, strides=window)
        elif layout.pool > 1:
            rows = pooling_matrix(layout.grid[0], layout.pooled[0])
            columns = pooling_matrix(layout.grid[1], layout.pooled[1])
            x = build.node("MatMul", build.constant("pool_rows", rows), x)
            x = build.node("MatMul", x, build.constant("pool_columns", columns.T))
        return x

    def features(self, layout: FeatureLayout, output: str | None = None) -> str:
        """Add the flattened feature map of a layer, and return its tensor: (N, D)."""
        return self.builder.node("Flatten", self.feature_map(layout), output=output, axis=1)

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """Return the graph's input: ``images``, uint8 (N, H, W, 3)."""
        return [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["N", *self.size, 3])]

    def model(self, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """Return the checked model, with the given outputs."""
        model = self.builder.model(
            self.inputs(),
            outputs,
            name="fre",
            opsets=self.backbone.opset_import,
            ir_version=self.backbone.ir_version,
        )
        onnx.checker.check_model(model)
        return model


def feature_model(
    backbone: onnx.ModelProto,
    normalisation: Normalisation,
    layouts: Sequence[FeatureLayout],
    size: tuple[int, int],
    inspected: MaskArray | None = None,
) -> onnx.ModelProto:
    """Build the model from images to flat features.

    Args:
        backbone: model from `Backbone.graph`, with the layers of ``layouts``.
        normalisation: mean and standard deviation of the backbone's input.
        layouts: layers and their pooling.
        size: height and width of the input.
        inspected: bool (H, W), inspected pixels of the input; ``None`` is all of them.

    Returns:
        A model from ``images``, uint8 (N, H, W, 3), to ``features``, float32 (N, D), with the
        layouts in order.
    """
    assembly = NetworkGraph(backbone, normalisation, size, inspected)
    if len(layouts) == 1:
        assembly.features(layouts[0], FEATURES)
    else:
        parts = [assembly.features(layout) for layout in layouts]
        assembly.builder.node("Concat", *parts, output=FEATURES, axis=1)
    shape = ("N", sum(layout.dimension for layout in layouts))
    return assembly.model([helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, shape)])
