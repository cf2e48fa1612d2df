"""What a preset means for a backbone: defaults, each of which an argument overrides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from fre.errors import OptionError

__all__ = ["PRESETS", "SUBSPACES", "Configuration", "SubspaceKind", "resolve"]

SubspaceKind: TypeAlias = Literal["pca", "tied", "plain"]

PRESETS = ("reference", "default")
SUBSPACES: tuple[SubspaceKind, ...] = ("pca", "tied", "plain")

REFERENCE_BACKBONE = "resnet50"
LATENT_DIMENSION = 220
"""Of the reference's autoencoder, whatever its backbone."""


@dataclass(frozen=True)
class Configuration:
    """The settings of one training, all of them decided but the layer and the size.

    Attributes:
        preset: its name.
        backbone: name of the backbone.
        pool: edge of the pooling windows.
        subspace: ``"pca"``, the closed form; ``"tied"`` or ``"plain"``, a trained autoencoder.
        variance: share of the energy that the closed form keeps, unless there is a rank.
        rank: dimensions of the subspace, or ``None`` to go by the variance.
    """

    preset: str
    backbone: str
    pool: int
    subspace: SubspaceKind
    variance: float
    rank: int | None


def resolve(
    *,
    preset: str | None,
    backbone: str | None,
    default_backbone: str,
    pool: int | None,
    subspace: str | None,
    variance: float | None,
    rank: int | None,
) -> Configuration:
    """Fill in what was not given.

    The preset ``reference`` by itself is FRE as documented: ResNet-50, pooling by 2, and a tied
    autoencoder with a latent dimension of 220, trained. With a backbone of your choice it is
    pooling by 2 and the closed form at 97 % of the variance.

    Args:
        preset: its name; ``None`` is the preset ``reference`` with the default backbone.
        backbone: the one that was asked for, if any.
        default_backbone: the one where neither preset nor backbone was asked for.
        pool: as asked for, or ``None``; the other arguments likewise.
        subspace: as asked for, or ``None``.
        variance: as asked for, or ``None``.
        rank: as asked for, or ``None``.

    Raises:
        OptionError: an unknown preset or subspace, or a variance for an autoencoder.
    """
    if preset is not None and preset not in PRESETS:
        raise OptionError(f"no preset is called {preset!r}; choose from: {', '.join(PRESETS)}")
    documented = preset == "reference" and backbone is None
    kind = _kind(subspace, "tied" if documented else "pca")
    if preset == "default" and kind != "pca":
        raise OptionError(f"the default preset has subspaces in closed form, not {kind}")
    if kind != "pca":
        if variance is not None:
            raise OptionError(f"a {kind} autoencoder has a rank, not a variance: give the rank")
        rank = LATENT_DIMENSION if rank is None else rank
    return Configuration(
        preset=preset or "reference",
        backbone=backbone or (REFERENCE_BACKBONE if documented else default_backbone),
        pool=2 if pool is None else pool,
        subspace=kind,
        variance=0.97 if variance is None else variance,
        rank=rank,
    )


def _kind(asked: str | None, default: SubspaceKind) -> SubspaceKind:
    if asked is None:
        return default
    for kind in SUBSPACES:
        if kind == asked:
            return kind
    raise OptionError(f"no subspace is called {asked!r}; choose from: {', '.join(SUBSPACES)}")
