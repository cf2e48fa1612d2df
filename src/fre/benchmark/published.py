"""Published figures on MVTec AD, to set beside ours.

All are anomalib's own (Akcay et al., "Anomalib: A Deep Learning Library for Anomaly Detection",
ICIP 2022), seed 42, from the README files of its models as of version 2.7.0:

- FRE: the tied autoencoder, ``layer3``; its README states ResNet-50 with pooling by 2 and Wide
  ResNet-50 with pooling by 4 (``src/anomalib/models/image/fre/README.md``).
- DFM with the feature-reconstruction score: the same authors' closed form, PCA at 97 %; its
  README states ResNet-18 with pooling by 2 and Wide ResNet-50 with pooling by 4
  (``src/anomalib/models/image/dfm/README.md``; Ahuja et al., arXiv 1909.11786).
"""

from __future__ import annotations

from dataclasses import dataclass

MVTEC_CATEGORIES = (
    "carpet",
    "grid",
    "leather",
    "tile",
    "wood",
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
)
"""The categories of MVTec AD in the order in which tables list them."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        method: who published it, and for what.
        backbone: timm's name of the backbone.
        pool: edge of the pooling windows.
        figure: ``"image_auroc"`` or ``"image_f1"``.
        values: in the order of `MVTEC_CATEGORIES`.
    """

    method: str
    backbone: str
    pool: int
    figure: str
    values: tuple[float, ...]

    def value(self, category: str) -> float | None:
        """The figure of a category; ``None`` if it is not one of MVTec AD."""
        if category not in MVTEC_CATEGORIES:
            return None
        return self.values[MVTEC_CATEGORIES.index(category)]


FRE, DFM = "anomalib FRE (tied autoencoder)", "anomalib DFM (PCA 97 %)"

PUBLISHED = (
    PublishedRow(
        FRE,
        "resnet50",
        2,
        "image_auroc",
        (
            *(0.951, 0.817, 1.0, 0.991, 0.988, 0.996, 0.931, 0.887),
            *(0.974, 0.902, 0.951, 0.798, 0.908, 0.943, 0.957),
        ),
    ),
    PublishedRow(
        FRE,
        "wide_resnet50_2",
        4,
        "image_auroc",
        (
            *(0.928, 0.909, 1.0, 0.991, 0.950, 0.996, 0.944, 0.908),
            *(0.973, 0.933, 0.971, 0.827, 0.950, 0.963, 0.968),
        ),
    ),
    PublishedRow(
        FRE,
        "resnet50",
        2,
        "image_f1",
        (
            *(0.928, 0.887, 0.995, 0.982, 0.975, 0.984, 0.906, 0.943),
            *(0.943, 0.914, 0.943, 0.872, 0.912, 0.880, 0.958),
        ),
    ),
    PublishedRow(
        FRE,
        "wide_resnet50_2",
        4,
        "image_f1",
        (
            *(0.919, 0.906, 0.989, 0.982, 0.948, 0.984, 0.911, 0.951),
            *(0.950, 0.934, 0.960, 0.885, 0.931, 0.895, 0.967),
        ),
    ),
    PublishedRow(
        DFM,
        "resnet18",
        2,
        "image_auroc",
        (
            *(0.817, 0.736, 0.993, 0.966, 0.977, 1.0, 0.956, 0.944),
            *(0.994, 0.922, 0.961, 0.890, 0.969, 0.939, 0.969),
        ),
    ),
    PublishedRow(
        DFM,
        "wide_resnet50_2",
        4,
        "image_auroc",
        (
            *(0.855, 0.784, 0.997, 0.995, 0.975, 0.999, 0.969, 0.924),
            *(0.978, 0.939, 0.962, 0.873, 0.969, 0.971, 0.961),
        ),
    ),
    PublishedRow(
        DFM,
        "resnet18",
        2,
        "image_f1",
        (
            *(0.895, 0.871, 0.978, 0.958, 0.960, 1.0, 0.935, 0.965),
            *(0.966, 0.942, 0.956, 0.914, 0.966, 0.868, 0.964),
        ),
    ),
    PublishedRow(
        DFM,
        "wide_resnet50_2",
        4,
        "image_f1",
        (
            *(0.915, 0.870, 0.995, 0.988, 0.960, 0.992, 0.939, 0.965),
            *(0.971, 0.942, 0.956, 0.906, 0.966, 0.914, 0.971),
        ),
    ),
)
