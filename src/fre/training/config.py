"""Settings of a training: method, autoencoder, and the defaults of each preset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, TypeVar

from fre.errors import OptionError
from fre.scoring.fusion import SIGMA, STANDARDS, TOP_SHARE, Reading
from fre.subspaces.autoencoder import Kind
from fre.subspaces.protocols import PRIOR_IMAGES, Scope
from fre.subspaces.subspace import check_rank

SubspaceKind: TypeAlias = Literal["pca", "tied", "plain"]
Choice = TypeVar("Choice", bound=str)

PRESETS = ("default", "fast", "accurate", "reference")
BUDGETS = {"default": 320 * 320, "fast": 256 * 256, "accurate": 384 * 384}
"""Pixels of the input of each preset: docs/geometry.md measures them."""

KINDS: tuple[Kind, ...] = ("tied", "plain")
SUBSPACES: tuple[SubspaceKind, ...] = ("pca", *KINDS)
SCOPES: tuple[Scope, ...] = ("image", "position", "patch")

REFERENCE_BACKBONE = "resnet50"


@dataclass(frozen=True)
class Autoencoder:
    """A linear autoencoder in the place of PCA, trained by Adam; needs ``fre-vision[torch]``.

    Attributes:
        kind: ``"tied"``, the decoder is the transposed encoder; ``"plain"``, it has its own
            weights.
        rank: length of a code, 1 or more.
        epochs: passes over the features, 1 or more.
        learning_rate: step size of Adam, above 0.
        batch_size: number of features per step, 1 or more.

    Raises:
        OptionError: a value is out of range.
    """

    kind: Kind = "tied"
    rank: int = 220
    epochs: int = 220
    learning_rate: float = 1e-3
    batch_size: int = 32

    def __post_init__(self) -> None:
        _choose(self.kind, KINDS, "autoencoder")
        for name in ("rank", "epochs", "batch_size"):
            _check_least(name, getattr(self, name), 1)
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(f"learning_rate must be above 0 and finite, not {self.learning_rate}")


@dataclass(frozen=True, repr=False)
class Method:
    """Inner settings of the method, which few trainings need to change.

    Attributes:
        variance: share of the features' variance that the principal components explain, above 0
            and at most 1.
        rank: number of principal components in place of ``variance``, 1 or more; in the default
            preset, the largest number for an image-wide subspace. ``None``: 256 at most in the
            default preset.
        pool: edge of the average-pooling windows in feature-map locations, one number or one for
            each layer. ``None``: 1 in the default preset, 2 in the reference.
        scope: features that share a subspace, one value or one for each layer: ``"position"``
            fits one subspace per position, ``"image"`` one for the whole image, ``"patch"`` one
            for every patch wherever it lies. ``None``: position, and image for the last of
            several layers.
        score_layers: names of the layers that count for the score. ``None``: all but the first of
            three or more.
        map_layers: names of the layers that count for the anomaly map. ``None``: all but the last
            of three or more.
        standardise: source of the scale of a squared residual: its ``"position"``, its
            ``"layer"``, or ``"none"``.
        top: share of the largest pixels of the score map whose mean is the score, above 0 and at
            most 1.
        smoothing: standard deviation of the Gaussian that smooths the maps, in input pixels, 0 or
            more.
        prior: weight of the neighbouring positions in the covariance of a position, in images, 0
            or more.
        overall: whether the mean residual of the whole image adds to the score. ``None``: from
            100 training images on.
        folds: number of folds of the cross-fitting, 2 or more. Image-wide PCA takes up to 20
            where the images are few; an autoencoder is trained once for each fold. A PCA per
            position needs no folds where images are half as many again as channels, and not
            grouped, tiled or augmented: each is left out by itself.
        flip: whether every second copy that ``augment`` makes is mirrored.

    Raises:
        OptionError: a value is out of range.
    """

    variance: float = 0.97
    rank: int | None = None
    pool: int | Sequence[int] | None = None
    scope: str | Sequence[str] | None = None
    score_layers: Sequence[str] | None = None
    map_layers: Sequence[str] | None = None
    standardise: str = "position"
    top: float = TOP_SHARE
    smoothing: float = SIGMA
    prior: float = PRIOR_IMAGES
    overall: bool | None = None
    folds: int = 5
    flip: bool = False

    def __post_init__(self) -> None:
        check_rank(self.variance, self.rank)
        _check_least("folds", self.folds, 2)
        _ = self.scopes, self.reading

    def __repr__(self) -> str:
        return f"Method({', '.join(f'{name}={value!r}' for name, value in self.changed.items())})"

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @property
    def pools(self) -> tuple[int, ...] | None:
        """``pool`` as one number, or one for each layer."""
        if self.pool is None:
            return None
        return (self.pool,) if isinstance(self.pool, int) else tuple(self.pool)

    @property
    def scopes(self) -> tuple[Scope, ...] | None:
        """``scope`` as one value, or one for each layer."""
        if self.scope is None:
            return None
        names = [self.scope] if isinstance(self.scope, str) else self.scope
        return tuple(_choose(name, SCOPES, "scope") for name in names)

    @property
    def reading(self) -> Reading:
        """How the default preset makes a score and a map of squared residuals."""
        return Reading(
            standardise=_choose(self.standardise, STANDARDS, "standard"),
            top=self.top,
            smoothing=self.smoothing,
            prior=self.prior,
            overall=self.overall,
        )


@dataclass(frozen=True)
class Configuration:
    """All decided settings of one training but the layers and the geometry.

    Attributes:
        preset: ``"default"`` or ``"reference"``, the method.
        budget: number of pixels of the input; ``None`` keeps the backbone's own input.
        backbone: name of the backbone.
        pool: edge of the pooling windows, one or one for each layer; ``None`` leaves it to the
            default preset.
        subspace: ``"pca"``; ``"tied"`` or ``"plain"``, a trained autoencoder.
        variance: share of the variance that the principal components explain, without a rank.
        rank: number of dimensions of the subspace, or ``None`` to follow the variance.
        scope: scopes of the default preset's subspaces, one or one for each layer; ``None``
            leaves them to the preset.
        score_layers: names of the layers that count for the score; ``None`` leaves them to the
            preset.
        map_layers: names of the layers that count for the map; ``None`` leaves them to the preset.
        reading: how the default preset makes a score and a map of squared residuals.
        autoencoder: settings of the autoencoder; ``None`` for PCA.
    """

    preset: str
    budget: int | None
    backbone: str
    pool: tuple[int, ...] | None
    subspace: SubspaceKind
    variance: float
    rank: int | None
    scope: tuple[Scope, ...] | None
    score_layers: tuple[str, ...] | None
    map_layers: tuple[str, ...] | None
    reading: Reading
    autoencoder: Autoencoder | None = None


def resolve(
    *,
    preset: str | None,
    backbone: str | None,
    default_backbone: str,
    subspace: str | Autoencoder | None = None,
    method: Method | None = None,
) -> Configuration:
    """Decide every setting that the preset and the backbone leave open.

    The preset ``reference`` alone is FRE as documented: ResNet-50, pooling by 2, and a tied
    autoencoder of rank 220. With a chosen backbone it is pooling by 2 and PCA. An autoencoder
    without a preset selects the reference preset.

    Args:
        preset: name of the preset, or ``None``.
        backbone: name of the chosen backbone, or ``None``.
        default_backbone: name of the backbone if neither is chosen.
        subspace: ``"pca"``, an autoencoder, or ``None`` for the preset's.
        method: inner settings of the method; ``None`` for the defaults.

    Raises:
        OptionError: an unknown preset or subspace, a setting without effect, or options that do
            not go together.
    """
    documented = _is_documented(preset, backbone)
    if subspace is None and documented:
        subspace = Autoencoder()
    autoencoder = subspace if isinstance(subspace, Autoencoder) else None
    if autoencoder is None and subspace not in (None, "pca"):
        raise OptionError(f'subspace must be "pca" or an Autoencoder, not {subspace!r}')
    kind: SubspaceKind = autoencoder.kind if autoencoder else "pca"
    preset = _choose(preset or ("reference" if autoencoder else "default"), PRESETS, "preset")
    budget = BUDGETS.get(preset)
    if budget is not None and autoencoder:
        raise OptionError(f"the {preset} preset fits its subspaces by PCA, not {kind} autoencoders")
    if budget is not None:
        preset = "default"  # the presets differ in their input only
    method = method or Method()
    _check_method(method, preset, kind)
    return Configuration(
        preset=preset,
        budget=budget,
        backbone=backbone or (REFERENCE_BACKBONE if documented else default_backbone),
        pool=method.pools or ((2,) if preset == "reference" else None),
        subspace=kind,
        variance=method.variance,
        rank=autoencoder.rank if autoencoder else method.rank,
        scope=method.scopes,
        score_layers=None if method.score_layers is None else tuple(method.score_layers),
        map_layers=None if method.map_layers is None else tuple(method.map_layers),
        reading=method.reading,
        autoencoder=autoencoder,
    )


def _check_method(method: Method, preset: str, kind: SubspaceKind) -> None:
    """Refuse settings of the method that have no effect, or do not fit the preset."""
    refuse_without_effect(method.changed, preset=preset, kind=kind)
    scopes, pools = method.scopes, method.pools
    if "prior" in method.changed and scopes is not None and "position" not in scopes:
        raise OptionError(
            f"prior has no effect with scope {', '.join(scopes)}: it weighs the neighbours of a "
            "position; leave it out"
        )
    if preset == "reference" and pools and len(pools) != 1:
        raise OptionError(f"the reference preset reads one layer, with one pool, not {pools}")


def _is_documented(preset: str | None, backbone: str | None) -> bool:
    """Whether the reference preset is to be FRE as documented, with its own backbone."""
    return preset == "reference" and backbone is None


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
"""Settings that only the default preset has."""

OF_METHOD = tuple(field.name for field in fields(Method))
"""Names of the method's settings."""

OF_AUTOENCODER = tuple(field.name for field in fields(Autoencoder) if field.name != "kind")
"""Names of an autoencoder's settings beside its kind."""


def refuse_without_effect(
    wanted: Iterable[str], *, preset: str, kind: str, tiles: bool = True, copies: bool = True
) -> None:
    """Refuse settings that have no effect on a training.

    Args:
        wanted: names of the settings that were given.
        preset: name of the preset.
        kind: kind of the subspaces.
        tiles: whether images are cut into tiles.
        copies: whether the training makes copies of the images.

    Raises:
        OptionError: a setting has no effect; the message says what it would need.
    """
    names = set(wanted)
    fixed = preset == "reference" and "rank" in names
    autoencoder = kind != "pca"
    only = tuple(name for name in OF_AUTOENCODER if name != "rank")
    rules = [
        (
            preset == "reference",
            OF_DEFAULT,
            "the reference preset",
            "only the default preset has it",
        ),
        (not autoencoder, only, "subspace pca", "only autoencoders, tied or plain, have it"),
        (autoencoder, ("variance",), f"subspace {kind}", "an autoencoder has a rank"),
        (autoencoder, ("rank",), f"subspace {kind}", "the autoencoder has a rank of its own"),
        (fixed, ("variance",), "rank", "the rank fixes the number of dimensions"),
        (not tiles, ("overlap", "per_tile"), "whole images", "give a tile size"),
        (not copies, ("flip",), "no copies", "it mirrors copies: give augment"),
    ]
    for applies, of_rule, instead, why in rules:
        for name in of_rule:
            if applies and name in names:
                raise OptionError(
                    f"{name.replace('_', '-')} has no effect with {instead}: {why}; leave it out"
                )


def group_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fre.FRE` for flat parameters, as a model stores them.

    Args:
        parameters: values by name: parameters of `fre.FRE`, settings of `Method`, and settings of
            `Autoencoder` where ``"subspace"`` is its kind. ``None`` stands for the default.

    Raises:
        OptionError: a value is out of range, or a setting has no effect.
    """
    rest = dict(parameters)
    preset, backbone = rest.get("preset"), rest.get("backbone")
    kind = rest.get("subspace") or ("tied" if _is_documented(preset, backbone) else "pca")
    _choose(kind, SUBSPACES, "subspace")

    def taken(names: Iterable[str]) -> dict[str, Any]:
        found = {name: rest.pop(name) for name in names if name in rest}
        return {name: value for name, value in found.items() if value is not None}

    if kind != "pca":
        rest["subspace"] = Autoencoder(_choose(kind, KINDS, "autoencoder"), **taken(OF_AUTOENCODER))
    if method := taken(OF_METHOD):
        rest["method"] = Method(**method)
    refuse_without_effect(taken(OF_AUTOENCODER), preset=preset or "default", kind="pca")
    return rest


def flatten_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fre.FRE` as flat parameters: the inverse of `group_parameters`."""
    rest = dict(parameters)
    method = asdict(rest.pop("method") or Method())
    if isinstance(chosen := rest["subspace"], Autoencoder):
        own = asdict(chosen)
        return rest | method | {"subspace": own.pop("kind"), **own}
    return rest | method


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the values of settings that were written as ``NAME=VALUE``, by name.

    Args:
        assignments: such as ``"top=0.1"``; several values are separated by commas.

    Raises:
        OptionError: no such setting, or a value of another type.
    """
    types = {field.name: str(field.type) for field in (*fields(Autoencoder), *fields(Method))}
    del types["kind"]
    found = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if name not in types:
            names = ", ".join((*OF_METHOD, *(n for n in OF_AUTOENCODER if n not in OF_METHOD)))
            raise OptionError(f"--set: no setting is called {name!r}; choose from: {names}")
        if not equals:
            raise OptionError(f"--set {name}: expected {name}=VALUE")
        found[name] = _parse(name, text.strip(), types[name])
    return found


WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _parse(name: str, text: str, type_: str) -> Any:
    """Parse a value by the annotation of its field."""
    if "Sequence" in type_ and ("," in text or "| Sequence" not in type_):
        inner = "int" if "[int]" in type_ else "str"
        return [_parse(name, part.strip(), inner) for part in text.split(",")]
    try:
        if type_.startswith("bool"):
            return WORDS[text.lower()]
        if type_.startswith("int"):
            return int(text)
        return float(text) if type_.startswith("float") else text
    except (KeyError, ValueError):
        expected = {"b": "true or false", "i": "a whole number", "f": "a number"}[type_[0]]
        raise OptionError(f"--set {name}: expected {expected}, not {text!r}") from None


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise OptionError(f"{name} must be at least {least}, not {value}")


def _choose(asked: str, choices: tuple[Choice, ...], what: str) -> Choice:
    for choice in choices:
        if choice == asked:
            return choice
    raise OptionError(f"no {what} is called {asked!r}; choose from: {', '.join(choices)}")
