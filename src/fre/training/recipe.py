"""How a detector is fitted: all that is decided before the first image is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fre.images.augmentation import Augmentation
from fre.training.config import Configuration, Method
from fre.training.plan import DetectorPlan


@dataclass(frozen=True)
class Recipe:
    """How good images become a model, by the parameters of `fre.FRE`.

    Attributes:
        settings: settings that follow from preset, backbone, subspace and method.
        plan: layers to read, and how their subspaces are fitted.
        method: inner settings of the method.
        augment: as for `fre.FRE`, like all that follow.
        false_alarm_rate: as there.
        group_by: as there.
        per_tile: as there.
        memory: as there.
        frozen: as there.
        seed: as there.
        parameters: all parameters by name; a checkpoint of others is not resumed.
    """

    settings: Configuration
    plan: DetectorPlan
    method: Method
    augment: int
    false_alarm_rate: float
    group_by: str | int | None
    per_tile: bool
    memory: float
    frozen: bool
    seed: int
    parameters: Mapping[str, Any]

    @property
    def augmentation(self) -> Augmentation | None:
        """Maker of copies of images; ``None`` if there are to be none."""
        if self.augment == 0 and not self.method.flip:
            return None
        return Augmentation(self.augment, self.method.flip, self.seed)

    def again(self) -> dict[str, Any]:
        """Return the flat parameters that fit the same again, as plain JSON values."""
        settings, plan, method = self.settings, self.plan, self.method
        found: dict[str, Any] = {
            "preset": settings.preset,
            "subspace": settings.subspace,
            "rank": settings.rank,
        }
        if settings.autoencoder:
            options = asdict(settings.autoencoder)
            found |= {name: options[name] for name in ("epochs", "learning_rate", "batch_size")}
        else:
            # A fixed rank of the reference would refuse a variance.
            fixed = settings.preset == "reference" and settings.rank is not None
            found["variance"] = None if fixed else settings.variance
        if settings.preset == "default":
            found |= {
                "layers": [part.layer for part in plan.layers],
                "pool": [part.pool for part in plan.layers],
                "scope": [part.scope for part in plan.layers],
                **asdict(plan.reading),
            }
            if all(part.scope != "position" for part in plan.layers):
                found["prior"] = None
        else:
            found |= {"layers": [plan.layers[0].layer], "pool": plan.pool}
        found |= {
            "folds": method.folds,
            "false_alarm_rate": self.false_alarm_rate,
            "augment": self.augment,
            "flip": method.flip,
            "seed": self.seed,
            "group_by": self.group_by,
            "per_tile": self.per_tile,
        }
        if settings.preset == "default":
            found |= {"score_layers": method.score_layers, "map_layers": method.map_layers}
        return found
