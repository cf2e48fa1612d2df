"""Counts of a shift: all parts of the line since a result."""

from __future__ import annotations

from dataclasses import dataclass

from fre.serve.database import Database
from fre.serve.result_rows import Filters
from fre.serve.results import PAGE_SOURCE


@dataclass
class ShiftBody:
    """Counts of a shift: all results after the id ``after``, without images uploaded on the page.

    ``last`` is the highest id so far: the ``after`` of a shift that begins now. ``n_review`` counts
    parts in the review band; ``n_false_alarm`` and ``n_missed`` count verdicts of reviewers.
    """

    model: str
    after: int
    last: int
    n: int
    n_anomalous: int
    n_review: int
    n_false_alarm: int
    n_missed: int


COUNTS = {
    "n": "1",
    "n_anomalous": "anomalous",
    "n_review": "decision IS 'review'",
    "n_false_alarm": "anomalous AND verdict IS 'good'",
    "n_missed": "NOT anomalous AND decision IS NOT 'review' AND verdict IS 'defect'",
}
"""What each count adds up, in SQL."""


def count_shift(database: Database, model: str, after: int) -> ShiftBody:
    """Count the parts of a shift.

    Args:
        database: stores the results.
        model: name of the model.
        after: id of the last result before the shift.
    """
    where, values = Filters(model=model, after=after).where()
    sums = ", ".join(f"TOTAL({text})" for text in COUNTS.values())
    last, *counts = (
        database.read()
        .execute(
            f"SELECT (SELECT COALESCE(MAX(id), 0) FROM results), {sums} "
            f"FROM results WHERE {where} AND source != ?",
            [*values, PAGE_SOURCE],
        )
        .fetchone()
    )
    found = {name: int(count) for name, count in zip(COUNTS, counts, strict=True)}
    return ShiftBody(model, after, last, **found)
