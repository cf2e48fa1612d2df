"""What a preset means for a backbone: defaults, each of which an argument overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from fre.errors import OptionError
from fre.scoring.fusion import STANDARDS, Reading
from fre.subspaces.protocols import Scope

SubspaceKind: TypeAlias = Literal["pca", "tied", "plain"]
Choice = TypeVar("Choice", bound=str)

PRESETS = ("default", "reference")
SUBSPACES: tuple[SubspaceKind, ...] = ("pca", "tied", "plain")
SCOPES: tuple[Scope, ...] = ("image", "position", "patch")

REFERENCE_BACKBONE = "resnet50"
LATENT_DIMENSION = 220
"""Of the reference's autoencoder, whatever its backbone."""


@dataclass(frozen=True)
class Configuration:
    """The settings of one training, all of them decided but the layers and the geometry.

    Attributes:
        preset: its name.
        backbone: name of the backbone.
        pool: edge of the pooling windows, one or one for each layer; ``None`` leaves it to the
            default preset.
        subspace: ``"pca"``, the closed form; ``"tied"`` or ``"plain"``, a trained autoencoder.
        variance: share of the energy that the closed form keeps, unless there is a rank.
        rank: dimensions of the subspace, or ``None`` to go by the variance.
        scope: of the default preset's subspaces, one or one for each layer; ``None`` leaves it
            to the preset.
        score_layers: those of the layers that count for the score; ``None`` likewise.
        map_layers: those that count for the map; ``None`` likewise.
        reading: how the default preset makes a score and a map of residuals.
    """

    preset: str
    backbone: str
    pool: tuple[int, ...] | None
    subspace: SubspaceKind
    variance: float
    rank: int | None
    scope: tuple[Scope, ...] | None
    score_layers: tuple[str, ...] | None
    map_layers: tuple[str, ...] | None
    reading: Reading


def resolve(
    *,
    preset: str | None,
    backbone: str | None,
    default_backbone: str,
    pool: int | Sequence[int] | None = None,
    subspace: str | None = None,
    variance: float | None = None,
    rank: int | None = None,
    scope: str | Sequence[str] | None = None,
    score_layers: Sequence[str] | None = None,
    map_layers: Sequence[str] | None = None,
    standardise: str | None = None,
    top: float | None = None,
    smoothing: float | None = None,
    prior: float | None = None,
    overall: bool | None = None,
) -> Configuration:
    """Fill in what was not given.

    The preset ``reference`` by itself is FRE as documented: ResNet-50, pooling by 2, and a tied
    autoencoder with a latent dimension of 220, trained. With a backbone of your choice it is
    pooling by 2 and the closed form at 97 % of the variance. Without a preset, an autoencoder
    means the reference preset, and everything else the default one.

    Args:
        preset: its name.
        backbone: the one that was asked for, if any.
        default_backbone: the one where neither it nor the reference preset was asked for.
        pool: as asked for, or ``None``; the other arguments likewise.
        subspace: as asked for, or ``None``.
        variance: as asked for, or ``None``.
        rank: as asked for, or ``None``.
        scope: as asked for, or ``None``.
        score_layers: as asked for, or ``None``.
        map_layers: as asked for, or ``None``.
        standardise: see `fre.scoring.fusion.Reading`, like all that follow.
        top: as asked for, or ``None``.
        smoothing: as asked for, or ``None``.
        prior: as asked for, or ``None``.
        overall: as asked for, or ``None``.

    Raises:
        OptionError: an unknown preset, subspace or scope, a value out of range, a setting without
            effect, or options that do not go together.
    """
    if preset is not None and preset not in PRESETS:
        raise OptionError(f"no preset is called {preset!r}; choose from: {', '.join(PRESETS)}")
    documented = preset == "reference" and backbone is None
    kind = _choose(subspace, SUBSPACES, "subspace") or ("tied" if documented else "pca")
    preset = preset or ("default" if kind == "pca" else "reference")
    if preset == "default" and kind != "pca":
        raise OptionError(f"the default preset has subspaces in closed form, not {kind}")
    scopes = _scopes(scope)
    refuse_without_effect(
        preset,
        kind,
        variance=variance,
        rank=rank,
        scope=scope,
        score_layers=score_layers,
        map_layers=map_layers,
        standardise=standardise,
        top=top,
        smoothing=smoothing,
        prior=prior,
        overall=overall,
    )
    if prior is not None and scopes is not None and "position" not in scopes:
        raise OptionError(
            f"prior has no effect with scope {', '.join(scopes)}: it is of subspaces per position; "
            "leave it out"
        )
    if kind != "pca":
        rank = LATENT_DIMENSION if rank is None else rank
    pools = None if pool is None else (pool,) if isinstance(pool, int) else tuple(pool)
    if preset == "reference":
        pools = pools or (2,)
        if len(pools) != 1:
            raise OptionError(f"the reference preset reads one layer, with one pool, not {pools}")
    return Configuration(
        preset=preset,
        backbone=backbone or (REFERENCE_BACKBONE if documented else default_backbone),
        pool=pools,
        subspace=kind,
        variance=0.97 if variance is None else variance,
        rank=rank,
        scope=scopes,
        score_layers=None if score_layers is None else tuple(score_layers),
        map_layers=None if map_layers is None else tuple(map_layers),
        reading=_reading(standardise, top, smoothing, prior, overall),
    )


OF_DEFAULT = (
    "scope",
    "score_layers",
    "map_layers",
    "standardise",
    "top",
    "smoothing",
    "prior",
    "overall",
    "per_tile",
)
"""Settings that the default preset alone has."""

OF_AUTOENCODER = ("epochs", "learning_rate", "batch_size")
"""Settings that autoencoders alone have."""


def refuse_without_effect(preset: str, kind: str, **given: Any) -> None:
    """Refuse settings that have no effect on a training.

    Args:
        preset: its name.
        kind: of its subspaces.
        given: settings by name; ``None`` and ``False`` were not given.

    Raises:
        OptionError: a setting without effect was given; the message names what it would need.
    """
    wanted = {name for name, value in given.items() if value is not None and value is not False}
    if given.get("overall") is False:
        wanted.add("overall")
    rules = [
        (preset != "default", OF_DEFAULT, "the reference preset", "it is of the default preset"),
        (kind == "pca", OF_AUTOENCODER, "subspace pca", "it is of autoencoders, tied or plain"),
        (kind != "pca", ("variance",), f"subspace {kind}", "an autoencoder has a rank"),
        (
            preset == "reference" and "rank" in wanted,
            ("variance",),
            "rank",
            "the rank fixes the number of dimensions",
        ),
        (
            given.get("tile", ()) is None,
            ("overlap", "per_tile"),
            "whole images",
            "give a tile size",
        ),
        (not given.get("augment", 1), ("flip",), "no copies", "it mirrors copies: give augment"),
    ]
    for applies, names, instead, why in rules:
        for name in names:
            if applies and name in wanted:
                raise OptionError(
                    f"{name.replace('_', '-')} has no effect with {instead}: {why}; leave it out"
                )


def _scopes(asked: str | Sequence[str] | None) -> tuple[Scope, ...] | None:
    if asked is None:
        return None
    names = [asked] if isinstance(asked, str) else list(asked)
    return tuple(scope for name in names if (scope := _choose(name, SCOPES, "scope")))


def _reading(
    standardise: str | None,
    top: float | None,
    smoothing: float | None,
    prior: float | None,
    overall: bool | None,
) -> Reading:
    plain = Reading()
    return Reading(
        standardise=_choose(standardise, STANDARDS, "standard") or plain.standardise,
        top=plain.top if top is None else top,
        smoothing=plain.smoothing if smoothing is None else smoothing,
        prior=plain.prior if prior is None else prior,
        overall=overall,
    )


def _choose(asked: str | None, choices: tuple[Choice, ...], what: str) -> Choice | None:
    if asked is None:
        return None
    for choice in choices:
        if choice == asked:
            return choice
    raise OptionError(f"no {what} is called {asked!r}; choose from: {', '.join(choices)}")
