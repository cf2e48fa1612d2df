"""Findings of a check of good images, as figures and in words."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fre.scoring.calibration import RATES, percent

FROM = 10
"""Least number of images to look for outliers among."""
SHOWN = 3
"""Pairs and examples that are named."""
LISTED = 10
"""Odd images and outliers that the text names."""


@dataclass(frozen=True)
class Finding:
    """An image that differs from the others.

    Attributes:
        name: name of the image.
        reason: difference, in words.
        deviations: size of the difference in robust standard deviations.
    """

    name: str
    reason: str
    deviations: float


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same.

    Attributes:
        first: name of an image.
        second: name of the other image.
        distance: 1 minus the correlation of their thumbnails, 0 for the same picture.
    """

    first: str
    second: str
    distance: float


@dataclass(frozen=True)
class Group:
    """Images of one look, where there are several.

    Attributes:
        n: number of images.
        examples: names of typical images.
    """

    n: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class InputAdvice:
    """The network's input for images of some sizes.

    Attributes:
        size: height and width of the input in pixels.
        visible: width in image pixels from which defects are found.
        text: the input in words.
    """

    size: tuple[int, int]
    visible: float
    text: str


@dataclass(frozen=True)
class DataCheck:
    """Findings on good images before a training.

    Attributes:
        n_images: number of images that can be read.
        unreadable: name and reason of each image that can't be read.
        sizes: height, width and number of images of this size, the most frequent first.
        aspects: smallest, median and largest width over height.
        equal: groups of images of equal content, in words; ``None`` if all differ.
        n_near_duplicates: number of images that are nearly the same as another one.
        closest: the closest pairs of near-duplicates, at most three.
        odd: images that the quick pass finds odd, the oddest first.
        outliers: blurred, noisy, dark, bright and flat images, the farthest first.
        n_quick: number of images in the quick pass; 0 if there are fewer than ten.
        groups: two groups of images if these clearly show different products; else empty.
        false_alarm_rate: rate that was asked for.
        attainable_rate: smallest false-alarm rate that so many images can guarantee.
        input: input of the network.
    """

    n_images: int
    unreadable: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[int, int, int], ...]
    aspects: tuple[float, float, float]
    equal: str | None
    n_near_duplicates: int
    closest: tuple[Pair, ...]
    odd: tuple[Finding, ...]
    outliers: tuple[Finding, ...]
    n_quick: int
    groups: tuple[Group, ...]
    false_alarm_rate: float
    attainable_rate: float
    input: InputAdvice = field(repr=False)

    @property
    def images_needed(self) -> int:
        """Smallest number of good images that can guarantee the false-alarm rate asked for."""
        return int(np.ceil(1 / self.false_alarm_rate - 1e-9)) - 1

    def next_command(self, data: str) -> str:
        """Return the command that trains on these images.

        Args:
            data: the images, as for ``fre train``.
        """
        words = ["fre", "train", shlex.quote(data), "-o", "model.onnx"]
        if self.unreadable:
            words.append("--skip-unreadable")
        rate = self.false_alarm_rate
        if rate < self.attainable_rate:
            rate = next((r for r in RATES if r >= self.attainable_rate), self.attainable_rate)
        if rate != RATES[0]:
            # Rounded up: a smaller rate could not be guaranteed.
            words += ["--false-alarm-rate", f"{np.ceil(rate * 1000 - 1e-9) / 1000:g}"]
        return " ".join(words)

    def lines(self) -> list[str]:
        """Return the check as sentences, one line each."""
        return [
            f"{self.n_images} good images"
            + (f", {len(self.unreadable)} more can't be read:") * bool(self.unreadable),
            *(f"  {name}: {reason}" for name, reason in self.unreadable[:LISTED]),
            *_more(len(self.unreadable)),
            *self._size_lines(),
            *self._copy_lines(),
            *self._odd_lines(),
            *self._group_lines(),
            self._rate_line(),
        ]

    def _size_lines(self) -> list[str]:
        shown = ", ".join(f"{w} x {h} ({n})" for h, w, n in self.sizes[:SHOWN])
        rest = f" and {len(self.sizes) - SHOWN} more" if len(self.sizes) > SHOWN else ""
        low, median, high = self.aspects
        shape = f"{median:.2f}" if low == high else f"{low:.2f} to {high:.2f}, median {median:.2f}"
        return [
            f"sizes, width x height (images): {shown}{rest}",
            f"aspects, width / height: {shape}",
            self.input.text,
        ]

    def _copy_lines(self) -> list[str]:
        lines = []
        if self.equal:
            lines.append(f"equal images: {self.equal}; keep one of each")
        if not self.closest:
            return [*lines, "near-duplicates: none"]
        pairs = [
            f"  {pair.first} and {pair.second} (distance {pair.distance:.4f})"
            for pair in self.closest
        ]
        return [
            *lines,
            f"near-duplicates: {self.n_near_duplicates} images; several shots of one part make the "
            "threshold too low: group them with --group-by. The closest pairs:",
            *pairs,
        ]

    def _odd_lines(self) -> list[str]:
        if not self.n_quick:
            return [f"odd images, blur and exposure: not looked for among fewer than {FROM} images"]
        lines = []
        among = "" if self.n_quick == self.n_images else f" (looked for among {self.n_quick})"
        for title, found in ((f"odd images{among}", self.odd), ("blur, exposure", self.outliers)):
            if not found:
                lines.append(f"{title}: none")
                continue
            lines.append(f"{title}: {len(found)}; look at them, and leave wrong ones out:")
            lines += [f"  {one.name}: {one.reason}" for one in found[:LISTED]]
            lines += _more(len(found))
        return lines

    def _group_lines(self) -> list[str]:
        if not self.groups:
            return []
        shown = " and ".join(
            f"{group.n} images such as {', '.join(group.examples)}" for group in self.groups
        )
        return [f"different products? {shown}: one model for each finds more defects"]

    def _rate_line(self) -> str:
        best = (
            f"false alarms: {self.n_images} good images can guarantee "
            f"{percent(self.attainable_rate)}"
        )
        if self.attainable_rate <= self.false_alarm_rate:
            return best
        return (
            f"{best} at best; {percent(self.false_alarm_rate)} takes {self.images_needed} or more"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values."""
        values = asdict(self)
        values["unreadable"] = [{"name": n, "error": reason} for n, reason in self.unreadable]
        values["sizes"] = [{"height": h, "width": w, "n": n} for h, w, n in self.sizes]
        values["aspects"] = dict(zip(("min", "median", "max"), self.aspects, strict=True))
        values["input"]["size"] = list(self.input.size)
        for group in values["groups"]:
            group["examples"] = list(group["examples"])
        for key in ("closest", "odd", "outliers", "groups"):
            values[key] = list(values[key])
        return {**values, "images_needed": self.images_needed}


def _more(n: int) -> list[str]:
    return [f"  and {n - LISTED} more"] if n > LISTED else []
