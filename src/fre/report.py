"""One self-contained HTML page that says how good a model is, and shows where it fails.

The page loads nothing from anywhere: its style, charts and images are inside. It reads without
scripts, on a phone, in the dark and on paper.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fre.charts import curve_chart, number, score_histogram
from fre.errors import ImageError, OptionError
from fre.files import check_writable, write_atomic
from fre.maps import resize_map
from fre.metrics import (
    auroc,
    average_precision,
    bootstrap_interval,
    max_f1,
    precision_recall_curve,
    roc_curve,
)
from fre.types import (
    Evaluation,
    FloatArray,
    ImageArray,
    MaskArray,
    Progress,
    ScoredImage,
)
from fre.visualize import Scale, colorize, heat_layer, thumbnail

__all__ = ["GalleryItem", "write_report"]

LEVEL = 0.95
DASH = "–"

# Longest side and JPEG quality, best first: the first at which all images fit is taken.
QUALITIES = ((320, 82), (320, 65), (256, 60), (192, 50))
# Maps are smooth: half the resolution of their image is enough.
HEAT_SIDE = 160
HEAT_QUALITY = 70
N_BORDERLINE = 6
N_SWATCHES = 12

GROUPS = {
    "missed": ("Missed defects", "Defective, but scored below the threshold. Lowest score first."),
    "false-alarms": ("False alarms", "Good, but called anomalous. Highest score first."),
    "borderline": ("Close calls", "Decided correctly, with the least margin."),
    "found": ("Defects found", "The rest of the defective images. Lowest score first."),
    "passed": ("Good parts passed", "The rest of the good images. Highest score first."),
}

MODEL_LABELS = {
    "name": "Model",
    "preset": "Preset",
    "backbone": "Backbone",
    "layers": "Layers",
    "input_size": "Input size",
    "n_training_images": "Training images",
    "digest": "Digest of the training files",
    "created": "Trained",
    "version": "fre version",
}


@dataclass(frozen=True)
class GalleryItem:
    """What the report shows of one image.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        anomaly_map: float32, of any size; it covers the whole image.
        mask: bool (H, W), True where there is a defect, or ``None``.
    """

    image: ImageArray
    anomaly_map: FloatArray
    mask: MaskArray | None = None


def write_report(
    file: Path,
    *,
    model_info: Mapping[str, Any],
    evaluation: Evaluation,
    dataset_name: str,
    calibration_scores: ArrayLike,
    threshold: float,
    false_alarm_rate: float | None,
    scale: Scale,
    gallery: Callable[[ScoredImage], GalleryItem],
    notes: Sequence[str] = (),
    max_images: int = 200,
    max_bytes: int = 12_000_000,
    written: datetime | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the report of a model on a dataset: one HTML file, whole or not at all.

    Args:
        file: where to; a file that is there is replaced.
        model_info: what is known of the model, in plain values. ``name``, ``preset``,
            ``backbone``, ``layers``, ``input_size``, ``n_training_images``, ``digest``,
            ``created`` and ``version`` come first and under their own labels, those that are
            missing with a dash; other keys follow as they are.
        evaluation: with its rows.
        dataset_name: for the reader.
        calibration_scores: (m,), scores of the good images that set the threshold; may be empty.
        threshold: from this score on, the model calls an image anomalous.
        false_alarm_rate: the rate the threshold was set for, in (0, 1), or ``None`` if it was set
            by hand.
        scale: the map values of a typical good pixel and of a clearly anomalous one; one for the
            model, not one an image.
        gallery: called once for each image that may be shown, in order of importance: missed
            defects and false alarms, close calls, then the rest. Where it raises ImageError, the
            page shows the reason in place of the image.
        notes: remarks about the dataset, a line each.
        max_images: show no more than this; the page says how many it leaves out.
        max_bytes: of images in the page; quality is reduced first, then their number.
        written: date of the report; now, if not given.
        progress: told of the images as they are drawn.

    Raises:
        OutputError: the file can't be written; found before any work is done.
        OptionError: the evaluation has no rows, or a limit is negative.
    """
    if not evaluation.images:
        raise OptionError("report: expected an evaluation with at least one image, got none")
    if max_images < 0 or max_bytes < 0:
        raise OptionError(
            f"report: expected max_images and max_bytes of at least 0, "
            f"got {max_images} and {max_bytes}"
        )
    check_writable(file)
    rows = evaluation.images
    counts = _Counts.of(rows)
    calibration = np.asarray(calibration_scores, np.float64)
    cards = _draw_cards(_ranked(rows, max_images), gallery, scale, progress)
    level, cards = _fit(cards, max_bytes)
    html = _template().render(
        dataset=dataset_name,
        verdict=_verdict(counts),
        promise=_promise(counts, calibration.size, threshold, false_alarm_rate),
        notes=notes,
        figures=_figures(evaluation, counts),
        kinds=_kinds(rows),
        counts=counts,
        histogram=_histogram(rows, calibration, threshold),
        curves=_curves(evaluation, counts, threshold),
        n_calibration=calibration.size,
        model=_model_rows(model_info),
        run=_run_rows(evaluation, calibration.size, threshold, false_alarm_rate),
        groups=_grouped(rows, cards),
        n_images=len(rows),
        n_shown=len(cards),
        level=level,
        swatches=_swatches(),
        scale=[number(value) for value in scale],
        written=written or datetime.now(timezone.utc),
    )
    write_atomic(file, html.encode("utf-8", "replace"))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fre"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("report.html.j2")


# Counts and figures


@dataclass(frozen=True)
class _Share:
    """So many of so many, with the Wilson interval.

    Not the bootstrap: that would claim certainty, an interval of no width, for 0 of 41.
    """

    part: int
    total: int

    @property
    def value(self) -> float:
        return self.part / self.total

    @property
    def interval(self) -> tuple[float, float]:
        z = 1.959964  # of the normal distribution, two-sided at LEVEL
        p, n = self.value, self.total
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        # In exact arithmetic these ends are 0 and 1; in floating point nearly.
        low = 0.0 if self.part == 0 else centre - half
        high = 1.0 if self.part == self.total else centre + half
        return low, high

    @property
    def text(self) -> str:
        return _percent(self.value)

    @property
    def interval_text(self) -> str:
        low, high = self.interval
        return f"{_percent(low)} to {_percent(high)}"


@dataclass(frozen=True)
class _Counts:
    """The confusion table."""

    found: int
    missed: int
    false_alarms: int
    passed: int

    @classmethod
    def of(cls, rows: Iterable[ScoredImage]) -> _Counts:
        cells = [(row.sample.good, row.anomalous) for row in rows]
        return cls(
            found=cells.count((False, True)),
            missed=cells.count((False, False)),
            false_alarms=cells.count((True, True)),
            passed=cells.count((True, False)),
        )

    @property
    def defects(self) -> int:
        return self.found + self.missed

    @property
    def good(self) -> int:
        return self.false_alarms + self.passed

    @property
    def recall(self) -> _Share | None:
        return _Share(self.found, self.defects) if self.defects else None

    @property
    def false_alarm_rate(self) -> _Share | None:
        return _Share(self.false_alarms, self.good) if self.good else None


@dataclass(frozen=True)
class _Figure:
    """One number of the overview; ``note`` explains it, or says why there is none."""

    label: str
    value: str
    note: str
    interval: str = ""


@dataclass(frozen=True)
class _Kind:
    name: str
    share: _Share


def _verdict(counts: _Counts) -> str:
    alarms = f"{counts.false_alarms} false alarm{'' if counts.false_alarms == 1 else 's'}"
    good = f"{counts.good} good part{'' if counts.good == 1 else 's'}"
    if not counts.defects:
        return f"Raises {alarms} in {good}"
    defects = f"Finds {counts.found} of {counts.defects} defect{'' if counts.defects == 1 else 's'}"
    return f"{defects} at {alarms} in {good}" if counts.good else defects


def _promise(
    counts: _Counts, n_calibration: int, threshold: float, rate: float | None
) -> list[str]:
    """Sentences on the threshold: where it comes from, and whether it kept its word."""
    called = f"An image is called anomalous from a score of {number(threshold)}."
    if rate is None:
        sentences = [f"{called} This threshold was set by hand."]
    else:
        source = f"the scores of {n_calibration:,} good images"
        sentences = [f"{called} This is set for {_percent(rate)} false alarms, from {source}."]
        finest = 1 / (n_calibration + 1)
        if rate < finest:
            sentences.append(
                f"So few images cannot promise fewer than {_percent(finest)} false alarms."
            )
    observed = counts.false_alarm_rate
    if observed is None:
        sentences.append("No good images were tested, so the false alarms are unknown.")
    elif rate is not None:
        low, high = observed.interval
        agreement = "in agreement with"
        if low > rate:
            agreement = "more than"
        elif high < rate:
            agreement = "fewer than"
        sentences.append(
            f"The test shows {observed.text} (95% interval {observed.interval_text}), "
            f"{agreement} what was set."
        )
    if not counts.defects:
        sentences.append("No defective images were tested, so what it misses is unknown.")
    return sentences


def _figures(evaluation: Evaluation, counts: _Counts) -> list[_Figure]:
    scores, labels = _scores_and_labels(evaluation.images)
    both = "needs good and defective images"
    if not counts.defects:
        no_pixels = "no defective images were tested"
    elif any(row.sample.masks for row in evaluation.images):
        no_pixels = "was not computed"
    else:
        no_pixels = "the dataset has no masks"

    def of_images(
        label: str,
        value: float | None,
        metric: Callable[[NDArray[np.float64], MaskArray], float],
        note: str,
    ) -> _Figure:
        if value is None or not (counts.good and counts.defects):
            return _Figure(label, DASH, both)
        low, high = bootstrap_interval(metric, scores, labels, level=LEVEL)
        return _Figure(label, _unit(value), note, f"{_unit(low)} to {_unit(high)}")

    def of_pixels(label: str, value: float | None, note: str, reason: str = no_pixels) -> _Figure:
        return _Figure(label, DASH, reason) if value is None else _Figure(label, _unit(value), note)

    return [
        _share_figure("Defects found", counts.recall, "no defective images were tested"),
        _share_figure("False alarms", counts.false_alarm_rate, "no good images were tested"),
        of_images(
            "Image AUROC",
            evaluation.image_auroc,
            auroc,
            "chance that a defect outscores a good part",
        ),
        of_images(
            "Average precision",
            evaluation.image_aupr,
            average_precision,
            "area under the precision-recall curve",
        ),
        of_images(
            "Best F1",
            evaluation.image_f1,
            lambda values, truth: max_f1(values, truth)[0],
            "at the threshold that suits this test best",
        ),
        of_pixels("Pixel AUROC", evaluation.pixel_auroc, "chance that a defect pixel outscores"),
        of_pixels("Pixel F1", evaluation.pixel_f1, "overlap of map and mask, at best"),
        of_pixels("AUPRO", evaluation.aupro, "share of each defect that is covered"),
        of_pixels(
            "AUPIMO",
            evaluation.aupimo,
            "the same for each image, at nearly no false alarm",
            no_pixels if counts.good else "no good images were tested",
        ),
    ]


def _share_figure(label: str, share: _Share | None, reason: str) -> _Figure:
    if share is None:
        return _Figure(label, DASH, reason)
    return _Figure(label, share.text, f"{share.part} of {share.total}", share.interval_text)


def _kinds(rows: Iterable[ScoredImage]) -> list[_Kind]:
    """The kinds of defect, the one that is found least first."""
    by_kind: dict[str, list[bool]] = {}
    for row in rows:
        if not row.sample.good:
            by_kind.setdefault(row.sample.kind, []).append(row.anomalous)
    kinds = [_Kind(name, _Share(sum(found), len(found))) for name, found in by_kind.items()]
    return sorted(kinds, key=lambda kind: (kind.share.value, -kind.share.total, kind.name))


def _scores_and_labels(rows: Iterable[ScoredImage]) -> tuple[NDArray[np.float64], MaskArray]:
    rows = list(rows)
    scores = np.array([row.score for row in rows], np.float64)
    return scores, np.array([not row.sample.good for row in rows], np.bool_)


# Charts


def _histogram(
    rows: Iterable[ScoredImage], calibration: NDArray[np.float64], threshold: float
) -> str:
    scores, labels = _scores_and_labels(rows)
    return score_histogram(
        "histogram",
        "Scores of good and of defective images",
        f"{np.count_nonzero(~labels)} good and {np.count_nonzero(labels)} defective images; "
        f"the threshold is {number(threshold)}.",
        good=scores[~labels],
        defect=scores[labels],
        calibration=calibration,
        threshold=threshold,
    )


def _curves(evaluation: Evaluation, counts: _Counts, threshold: float) -> tuple[str, str] | None:
    """ROC and precision-recall curve, or None where there is only one kind of image."""
    recall, false_alarms = counts.recall, counts.false_alarm_rate
    if recall is None or false_alarms is None:
        return None
    scores, labels = _scores_and_labels(evaluation.images)
    mark = f"threshold {number(threshold)}"
    fpr, tpr, _ = roc_curve(scores, labels)
    roc = curve_chart(
        "roc",
        "ROC curve",
        f"At the threshold, {recall.text} of the defects are found "
        f"and {false_alarms.text} of the good parts raise an alarm.",
        x=fpr,
        y=tpr,
        x_label="good parts called anomalous",
        y_label="defects found",
        point=(false_alarms.value, recall.value),
        point_label=mark,
        guess=((0, 0), (1, 1)),
    )
    alarms = counts.found + counts.false_alarms
    # Without alarms precision is 1 by convention: the curve begins there.
    precision = counts.found / alarms if alarms else 1.0
    trust = f"{_percent(precision)} of the alarms are defects" if alarms else "no alarm is raised"
    precisions, recalls, _ = precision_recall_curve(scores, labels)
    share = counts.defects / len(evaluation.images)
    pr = curve_chart(
        "pr",
        "Precision-recall curve",
        f"At the threshold, {recall.text} of the defects are found and {trust}.",
        x=recalls,
        y=precisions,
        x_label="defects found",
        y_label="alarms that are defects",
        point=(recall.value, precision),
        point_label=mark,
        guess=((0, share), (1, share)),
    )
    return roc, pr


# Model and run


def _model_rows(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = [(label, _plain(info.get(key))) for key, label in MODEL_LABELS.items()]
    others = [
        (key.replace("_", " ").capitalize(), _plain(value))
        for key, value in info.items()
        if key not in MODEL_LABELS
    ]
    return known + others


def _run_rows(
    evaluation: Evaluation, n_calibration: int, threshold: float, rate: float | None
) -> list[tuple[str, str]]:
    speed = evaluation.images_per_second
    return [
        ("Good images tested", f"{evaluation.n_good:,}"),
        ("Defective images tested", f"{evaluation.n_defect:,}"),
        ("Threshold", number(threshold)),
        ("False alarms set for", f"{DASH} (set by hand)" if rate is None else _percent(rate)),
        ("Calibrated on", f"{n_calibration:,} good images"),
        ("Speed", f"{number(speed)} images per second" if speed > 0 else f"{DASH} (not measured)"),
        (
            "Time for an image",
            f"{number(1000 / speed)} ms, from file to map" if speed > 0 else DASH,
        ),
    ]


def _plain(value: object) -> str:
    if value is None:
        return f"{DASH} (not recorded)"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        separator = " × " if value and all(isinstance(item, int) for item in value) else ", "
        return separator.join(str(item) for item in value)
    return str(value)


# Gallery


@dataclass(frozen=True)
class _Picture:
    """Encoded parts of a picture; ``images`` has a JPEG for each of QUALITIES."""

    width: int
    height: int
    images: tuple[bytes, ...]
    heat: bytes
    outline: str

    def size(self, level: int) -> int:
        """Bytes in the page, where base64 takes four for three."""
        return (len(self.images[level]) + len(self.heat)) * 4 // 3 + len(self.outline)


@dataclass(frozen=True)
class _Card:
    """One image of the gallery; without a picture, ``reason`` says why."""

    group: str
    row: ScoredImage
    picture: _Picture | None
    reason: str = ""

    @property
    def p_text(self) -> str:
        p = self.row.p_value
        return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


@dataclass(frozen=True)
class _Group:
    key: str
    title: str
    note: str
    cards: list[_Card]
    total: int


def _group_rows(rows: Iterable[ScoredImage]) -> dict[str, list[ScoredImage]]:
    """The rows by GROUPS, each group in its order of importance."""
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


def _ranked(rows: Iterable[ScoredImage], limit: int) -> list[tuple[str, ScoredImage]]:
    """The most important rows with their groups.

    Taken in turns from groups of equal weight, so that a hundred missed defects don't hide the
    false alarms.
    """
    groups = {key: [(key, row) for row in members] for key, members in _group_rows(rows).items()}
    wrong = _in_turns(groups["missed"], groups["false-alarms"])
    right = _in_turns(groups["found"], groups["passed"])
    return [*wrong, *groups["borderline"], *right][:limit]


def _in_turns(
    first: list[tuple[str, ScoredImage]], second: list[tuple[str, ScoredImage]]
) -> list[tuple[str, ScoredImage]]:
    pairs = chain.from_iterable(zip_longest(first, second))
    return [item for item in pairs if item is not None]


def _draw_cards(
    ranked: Sequence[tuple[str, ScoredImage]],
    gallery: Callable[[ScoredImage], GalleryItem],
    scale: Scale,
    progress: Progress | None,
) -> list[_Card]:
    cards = []
    for done, (group, row) in enumerate(ranked, start=1):
        try:
            cards.append(_Card(group, row, _draw(gallery(row), scale)))
        except ImageError as error:
            cards.append(_Card(group, row, None, error.reason))
        if progress is not None:
            progress("report", done, len(ranked))
    return cards


def _draw(item: GalleryItem, scale: Scale) -> _Picture:
    image = thumbnail(item.image, QUALITIES[0][0])
    height, width = image.shape[:2]
    return _Picture(
        width=width,
        height=height,
        images=tuple(_jpeg(thumbnail(image, side), quality) for side, quality in QUALITIES),
        heat=_encode_heat(item.anomaly_map, (height, width), scale),
        outline="" if item.mask is None else _outline_path(_reduced(item.mask, (height, width))),
    )


def _encode_heat(anomaly_map: FloatArray, size: tuple[int, int], scale: Scale) -> bytes:
    factor = min(1.0, HEAT_SIDE / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    layer = Image.fromarray(heat_layer(resize_map(anomaly_map, (height, width)), scale))
    buffer = io.BytesIO()
    layer.save(buffer, "WEBP", quality=HEAT_QUALITY)
    return buffer.getvalue()


def _jpeg(image: ImageArray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _reduced(mask: MaskArray, size: tuple[int, int]) -> MaskArray:
    """The mask at another size; a pixel is set if any part of it is, so nothing gets lost."""
    reduced: MaskArray = resize_map(mask.astype(np.float32), size) > 0
    return reduced


def _outline_path(mask: MaskArray) -> str:
    """The contour of a mask as the ``d`` of an SVG path: runs of pixel edges."""
    padded = np.pad(mask, 1)
    across = _edge_runs(padded[1:, 1:-1] != padded[:-1, 1:-1])
    down = _edge_runs((padded[1:-1, 1:] != padded[1:-1, :-1]).T)
    return "".join(
        [f"M{start} {line}h{length}" for line, start, length in across]
        + [f"M{line} {start}v{length}" for line, start, length in down]
    )


def _edge_runs(edges: MaskArray) -> list[tuple[int, int, int]]:
    """Line, start and length of each run of True along the lines."""
    steps = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return [
        (int(line), int(start), int(end - start))
        for (line, start), (_, end) in zip(starts, ends, strict=True)
    ]


def _fit(cards: list[_Card], max_bytes: int) -> tuple[int, list[_Card]]:
    """The best quality at which all cards fit; else the worst, and as many as fit at it."""
    pictures = [card.picture for card in cards]
    for level in range(len(QUALITIES)):
        sizes = np.cumsum([0 if picture is None else picture.size(level) for picture in pictures])
        if not cards or sizes[-1] <= max_bytes:
            return level, cards
    return level, cards[: int(np.searchsorted(sizes, max_bytes, side="right"))]


def _grouped(rows: Iterable[ScoredImage], cards: Iterable[_Card]) -> list[_Group]:
    shown: dict[str, list[_Card]] = {key: [] for key in GROUPS}
    for card in cards:
        shown[card.group].append(card)
    return [
        _Group(key, *GROUPS[key], shown[key], len(members))
        for key, members in _group_rows(rows).items()
        if members
    ]


def _swatches() -> list[str]:
    """Colours of the heat map from low to high, as CSS."""
    colours = colorize(np.linspace(0, 1, N_SWATCHES, dtype=np.float32)[None], (0, 1))[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.tolist()]


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


# Text


def _unit(value: float) -> str:
    """A figure in [0, 1] to three digits; never rounded up to a perfect 1."""
    return f"{value if value == 1 else min(value, 0.999):.3f}"


def _percent(share: float) -> str:
    """A share to a tenth of a percent; only all is 100% and only none is 0%."""
    if share in (0, 1):
        return f"{share:.0%}"
    if share < 0.001:
        return f"{number(100 * share)}%"
    return f"{min(100 * share, 99.9):.1f}".removesuffix(".0") + "%"
