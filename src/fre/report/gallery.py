"""The gallery: most important images first, as many as fit on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from fre.drawing.heatmaps import Scale
from fre.errors import ImageError
from fre.evaluation.figures import ScoredImage
from fre.report.pictures import QUALITIES, GalleryItem, Picture, draw
from fre.report.wording import p_text
from fre.types import Progress

N_BORDERLINE = 6

GROUPS = {
    "missed": ("Missed defects", "Defective, but scored below the threshold. Lowest score first."),
    "false-alarms": ("False alarms", "Good, but called anomalous. Highest score first."),
    "borderline": ("Close calls", "Decided correctly, with the least margin."),
    "found": ("Defects found", "The rest of the defective images. Lowest score first."),
    "passed": ("Good parts passed", "The rest of the good images. Highest score first."),
}


@dataclass(frozen=True)
class Card:
    """An image of the gallery; without a picture, ``reason`` says why."""

    group: str
    row: ScoredImage
    picture: Picture | None
    reason: str = ""

    link: str = ""

    @property
    def title(self) -> str:
        return self.row.sample.kind

    @property
    def name(self) -> str:
        return self.row.sample.path.name

    @property
    def score(self) -> float:
        return self.row.score

    @property
    def p_text(self) -> str:
        return p_text(self.row.p_value)


@dataclass(frozen=True)
class Group:
    key: str
    title: str
    note: str
    cards: Sequence[object]
    total: int


def group_rows(rows: Iterable[ScoredImage]) -> dict[str, list[ScoredImage]]:
    """Return the rows by group, most important first."""
    by_outcome: dict[tuple[bool, bool], list[ScoredImage]] = {}
    for row in sorted(rows, key=lambda row: row.score):
        by_outcome.setdefault((row.sample.good, row.anomalous), []).append(row)
    found = by_outcome.get((False, True), [])
    passed = by_outcome.get((True, False), [])[::-1]
    return {
        "missed": by_outcome.get((False, False), []),
        "false-alarms": by_outcome.get((True, True), [])[::-1],
        # Nearness by rank: distances between scores mean little where they span magnitudes.
        "borderline": found[:N_BORDERLINE] + passed[:N_BORDERLINE],
        "found": found[N_BORDERLINE:],
        "passed": passed[N_BORDERLINE:],
    }


def ranked(rows: Iterable[ScoredImage], limit: int) -> list[tuple[str, ScoredImage]]:
    """Return the most important rows with their groups.

    Groups of equal weight alternate, so that a hundred missed defects don't hide false alarms.
    """
    groups = {key: [(key, row) for row in members] for key, members in group_rows(rows).items()}
    wrong = _in_turns(groups["missed"], groups["false-alarms"])
    right = _in_turns(groups["found"], groups["passed"])
    return [*wrong, *groups["borderline"], *right][:limit]


def _in_turns(
    first: list[tuple[str, ScoredImage]], second: list[tuple[str, ScoredImage]]
) -> list[tuple[str, ScoredImage]]:
    pairs = chain.from_iterable(zip_longest(first, second))
    return [item for item in pairs if item is not None]


def draw_cards(
    ranked: Sequence[tuple[str, ScoredImage]],
    gallery: Callable[[ScoredImage], GalleryItem],
    scale: Scale,
    progress: Progress | None,
) -> list[Card]:
    cards = []
    for done, (group, row) in enumerate(ranked, start=1):
        try:
            cards.append(Card(group, row, draw(gallery(row), scale)))
        except ImageError as error:
            cards.append(Card(group, row, None, error.reason))
        if progress is not None:
            progress("report", done, len(ranked))
    return cards


def fit(cards: list[Card], max_bytes: int) -> tuple[int, list[Card]]:
    """Return the best quality at which all cards fit, or the lowest with as many as fit."""
    pictures = [card.picture for card in cards]
    for level in range(len(QUALITIES)):
        sizes = np.cumsum([0 if picture is None else picture.size(level) for picture in pictures])
        if not cards or sizes[-1] <= max_bytes:
            return level, cards
    return level, cards[: int(np.searchsorted(sizes, max_bytes, side="right"))]


def grouped(rows: Iterable[ScoredImage], cards: Iterable[Card]) -> list[Group]:
    shown: dict[str, list[Card]] = {key: [] for key in GROUPS}
    for card in cards:
        shown[card.group].append(card)
    return [
        Group(key, *GROUPS[key], shown[key], len(members))
        for key, members in group_rows(rows).items()
        if members
    ]
