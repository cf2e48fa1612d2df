"""The tables of a benchmark as Markdown, in the published form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from fre.benchmark.published import MVTEC_CATEGORIES, PUBLISHED

FIGURES = {
    "image_auroc": "Image AUROC",
    "image_f1": "Image F1",
    "pixel_auroc": "Pixel AUROC",
    "aupro": "AUPRO",
}

Cell = dict[str, Any]


def benchmark_tables(cells: Sequence[Cell], *, against_published: bool = False) -> str:
    """Rows are variants, columns the mean and the categories, in the published order.

    Args:
        cells: from `fre.benchmark.run.run_benchmark`.
        against_published: add the published rows of the same backbones and pooling, and the
            differences to them.
    """
    categories = _ordered({cell["category"] for cell in cells})
    labels = list(dict.fromkeys(cell["label"] for cell in cells))
    by_place = {(cell["label"], cell["category"]): cell for cell in cells}
    parts = []
    for figure, title in FIGURES.items():
        rows = [
            (label, [_figure(by_place.get((label, name)), figure) for name in categories])
            for label in labels
        ]
        if against_published:
            rows += _published_rows(figure, categories, rows, by_place)
        parts.append(f"### {title}\n\n" + _table(categories, rows))
    parts.append("### Cost\n\n" + _cost_table(labels, cells))
    return "\n\n".join(parts)


def _ordered(categories: set[str]) -> list[str]:
    known = [name for name in MVTEC_CATEGORIES if name in categories]
    return known + sorted(categories - set(known))


def _figure(cell: Cell | None, figure: str) -> float | None:
    return None if cell is None else cell["figures"][figure]


def _table(categories: Sequence[str], rows: Sequence[tuple[str, list[float | None]]]) -> str:
    titles = [name.replace("_", " ").title() for name in categories]
    lines = [_line(["", "Avg", *titles]), _line(["---"] + [":---:"] * (len(titles) + 1))]
    for label, values in rows:
        signed = label.startswith("difference")
        lines.append(_line([label, *(_number(v, signed) for v in (_mean(values), *values))]))
    return "\n".join(lines)


def _line(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entries) + " |"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _number(value: float | None, signed: bool) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _published_rows(
    figure: str,
    categories: Sequence[str],
    rows: Sequence[tuple[str, list[float | None]]],
    by_place: dict[tuple[str, str], Cell],
) -> list[tuple[str, list[float | None]]]:
    """The mean of a row is over the categories that are shown, ours and theirs alike."""
    configuration = {
        label: (
            cell["training"]["backbone"]["name"],
            cell["training"]["parameters"]["pool"],
        )
        for (label, _), cell in by_place.items()
    }
    added: list[tuple[str, list[float | None]]] = []
    for published in PUBLISHED:
        # The default preset, which has no pooling of its own, is compared with any.
        ours = [
            row
            for row in rows
            if configuration[row[0]]
            in ((published.backbone, None), (published.backbone, published.pool))
        ]
        if published.figure != figure or not ours:
            continue
        theirs = [published.value(name) for name in categories]
        name = f"{published.method}, {published.backbone}, pool {published.pool}"
        added.append((name, theirs))
        for label, values in ours:
            differences = [
                None if mine is None or other is None else mine - other
                for mine, other in zip(values, theirs, strict=True)
            ]
            added.append((f"difference: {label}", differences))
    return added


def _cost_table(labels: Sequence[str], cells: Sequence[Cell]) -> str:
    lines = [
        _line(["mean of the categories", "training", "images/s", "file", "peak memory"]),
        _line(["---", *["---:"] * 4]),
    ]
    for label in labels:
        costs = [cell["cost"] for cell in cells if cell["label"] == label]

        def mean(value: Callable[[Cell], float], costs: list[Cell] = costs) -> float:
            return fmean(value(cost) for cost in costs)

        peaks = [cost["peak_memory_bytes"] for cost in costs]
        lines.append(
            _line(
                [
                    label,
                    f"{mean(lambda c: c['features_seconds'] + c['fit_seconds']):.1f} s",
                    f"{mean(lambda c: c['images_per_second']):.1f}",
                    f"{mean(lambda c: c['model_bytes']) / 1e6:.1f} MB",
                    "-" if None in peaks else f"{fmean(peaks) / 1e6:.0f} MB",
                ]
            )
        )
    return "\n".join(lines)
