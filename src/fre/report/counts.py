"""Counts of decisions: the confusion table, and recall by kind of defect."""

from __future__ import annotations

from dataclasses import dataclass

from fre.evaluation.figures import Confusion, Evaluation
from fre.evaluation.metrics import wilson_interval
from fre.report.wording import percent


@dataclass(frozen=True)
class Share:
    """A share, such as 3 of 41, with its Wilson interval.

    A bootstrap interval would have no width for 0 of 41.
    """

    part: int
    total: int

    @property
    def value(self) -> float:
        return self.part / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.part, self.total)

    @property
    def text(self) -> str:
        return percent(self.value)

    @property
    def interval_text(self) -> str:
        low, high = self.interval
        return f"{percent(low)} to {percent(high)}"


@dataclass(frozen=True)
class Counts:
    """The confusion table."""

    found: int
    missed: int
    false_alarms: int
    passed: int

    @classmethod
    def of(cls, confusion: Confusion) -> Counts:
        return cls(confusion.tp, confusion.fn, confusion.fp, confusion.tn)

    @property
    def defects(self) -> int:
        return self.found + self.missed

    @property
    def good(self) -> int:
        return self.false_alarms + self.passed

    @property
    def recall(self) -> Share | None:
        """Share of defects found."""
        return Share(self.found, self.defects) if self.defects else None

    @property
    def false_alarm_rate(self) -> Share | None:
        """Share of good parts that raise an alarm."""
        return Share(self.false_alarms, self.good) if self.good else None

    @property
    def miss_rate(self) -> Share | None:
        """Share of defects missed."""
        return Share(self.missed, self.defects) if self.defects else None

    @property
    def pass_rate(self) -> Share | None:
        """Share of good parts that pass."""
        return Share(self.passed, self.good) if self.good else None


@dataclass(frozen=True)
class Kind:
    name: str
    share: Share


def kinds(evaluation: Evaluation) -> list[Kind]:
    """Return the kinds of defect, lowest recall first."""
    found = evaluation.found_by_kind
    kinds = [Kind(name, Share(found[name], total)) for name, total in evaluation.kinds.items()]
    return sorted(kinds, key=lambda kind: (kind.share.value, -kind.share.total, kind.name))
