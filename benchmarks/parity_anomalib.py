"""Our graph against anomalib's FRE: same images, same weights, same autoencoder.

    pip install -r benchmarks/requirements-parity.txt
    python benchmarks/parity_anomalib.py DATASET --weights resnet18.safetensors

anomalib's ``FREModel`` pools the feature map, flattens it, and sums the squared residual over the
channels. Its score is the sum of that small map, before the map is upsampled; so is ours.
Prints Markdown; exits with 1 if scores or maps differ by more than 1e-4.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anomalib
import click
import numpy as np
import torch
from anomalib.models.image.fre.torch_model import FREModel
from numpy.typing import NDArray
from safetensors.torch import load_file

from fre.backbones import get_backbone
from fre.features.extractor import FeatureExtractor
from fre.images.decode import find_images, read_resized
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.runtimes.runtime import open_runtime
from fre.scoring.calibration import Calibration
from fre.scoring.graph import MAP, SCORE, detector_model
from fre.subspaces.autoencoder import AutoencoderOptions, LinearAutoencoder, train_autoencoder

TOLERANCE = 1e-4
BATCH = 16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def batches(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]


def their_model(
    backbone: str, layer: str, pool: int, weights: Path, autoencoder: LinearAutoencoder
) -> FREModel:
    """anomalib's model with the given parameters in the place of its own."""
    model = FREModel(
        backbone=backbone,
        layer=layer,
        input_dim=autoencoder.dimension,
        latent_dim=autoencoder.rank,
        pre_trained=False,
        pooling_kernel_size=pool,
    )
    network = model.feature_extractor.feature_extractor
    missing, unexpected = network.load_state_dict(load_file(weights), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise SystemExit(f"{weights}: missing {missing}, unexpected {unexpected}")
    parameters = {
        "weight": autoencoder.encoder.T,
        "encoder_bias": autoencoder.encoder_bias,
        "decoder_bias": autoencoder.decoder_bias,
    }
    model.fre_model.load_state_dict(
        {name: torch.tensor(np.ascontiguousarray(value)) for name, value in parameters.items()}
    )
    return model.eval()


def their_results(model: FREModel, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Scores, maps and features of images, normalised as anomalib's pre-processor does."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    parts: list[tuple[Any, Any, Any]] = []
    with torch.no_grad():
        for batch in batches(pixels):
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().float() / 255
            images = (images - mean) / std
            result = model(images)
            features, _, _ = model.get_features(images)
            parts.append((result.pred_score, result.anomaly_map[:, 0], features))
    return [torch.cat(values).numpy() for values in zip(*parts, strict=True)]


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="safetensors")
@click.option("--backbone", default="resnet18", show_default=True)
@click.option("--layer", default="layer3", show_default=True)
@click.option("--pool", default=2, show_default=True)
@click.option("--size", default=256, show_default=True)
@click.option("--rank", default=220, show_default=True, help="anomalib's latent_dim")
@click.option("--epochs", default=20, show_default=True, help="Of the autoencoder's training.")
@click.option("--images", "n", type=click.IntRange(min=2), default=32, show_default=True)
def main(
    data: Path,
    weights: Path,
    backbone: str,
    layer: str,
    pool: int,
    size: int,
    rank: int,
    epochs: int,
    n: int,
) -> None:
    """Compare on images of the folder DATA, evenly spread over it, masks left out."""
    paths = [path for path in find_images(data) if "ground_truth" not in path.parts]
    paths = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, n).round().astype(int))]
    pixels = np.stack([read_resized(path, (size, size))[0] for path in paths])

    network = get_backbone(backbone, weights=weights)
    extractor = FeatureExtractor(network, layer, Preparation(Geometry((size, size))), pool=pool)
    features = np.concatenate([extractor.run(batch) for batch in batches(pixels)])
    autoencoder = train_autoencoder(features, AutoencoderOptions(rank, epochs=epochs))
    part = extractor.layout, autoencoder
    # Scores and maps do not depend on the calibration.
    calibration = Calibration.fit(np.zeros(n), 0.01, pixel_threshold=1.0, map_range=(0.0, 1.0))
    ours = detector_model(extractor.network, network.normalisation, part, (size, size), calibration)
    runtime = open_runtime(ours.SerializeToString(), [SCORE, MAP])
    scores, maps = (
        np.concatenate(part)
        for part in zip(*(runtime.run(batch) for batch in batches(pixels)), strict=True)
    )

    model = their_model(backbone, layer, pool, weights, autoencoder)
    their_scores, their_maps, their_features = their_results(model, pixels)
    feature_difference = np.max(np.abs(features - their_features)) / np.max(their_features)
    score_difference = float(np.max(np.abs(scores - their_scores) / their_scores))
    largest = their_maps.max(axis=(1, 2))
    map_difference = float(np.max(np.abs(maps - their_maps).max(axis=(1, 2)) / largest))

    grid = extractor.layout.pooled
    area = (size * size) / (grid[0] * grid[1])
    spread = their_maps.sum(axis=(1, 2), dtype=np.float64) / area
    spread_difference = float(np.max(np.abs(spread - their_scores) / their_scores))
    print(
        f"{len(paths)} images of {data.name}, {backbone} {layer}, pool {pool}, {size} x {size}, "
        f"D = {autoencoder.dimension}, latent dimension {rank}; anomalib {anomalib.__version__}, "
        f"torch {torch.__version__}\n\n"
        "| | anomalib | fre | largest relative difference |\n"
        "| --- | --- | --- | --- |\n"
        f"| features, largest | {their_features.max():.6f} | {features.max():.6f} "
        f"| {feature_difference:.1e} |\n"
        f"| score, mean | {their_scores.mean():.6f} | {scores.mean():.6f} "
        f"| {score_difference:.1e} |\n"
        f"| map, largest | {their_maps.max():.6f} | {maps.max():.6f} | {map_difference:.1e} |\n\n"
        f"The score is the sum of the {grid[0]} x {grid[1]} map before it is upsampled; the sum of "
        f"the upsampled map, divided by the {area:g} pixels of a location, is within "
        f"{spread_difference:.1e} of it.\n"
        f"At most {TOLERANCE:.0e} is allowed, of each score and of each map's maximum."
    )
    if not max(score_difference, map_difference) <= TOLERANCE:
        print("The two disagree.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
