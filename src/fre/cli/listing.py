"""Results of ``fre predict`` as JSON lines, as CSV, and as a table at a terminal."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fre.cli.common import print_line, write_text
from fre.errors import ImageError, OptionError

if TYPE_CHECKING:
    from fre.inference.prediction import Prediction

COLUMNS = (
    *("path", "score", "p_value", "anomalous", "decision", "reason", "regions"),
    *("x", "y", "width", "height", "area", "peak", "error"),
)
"""Columns of the CSV; x to peak are those of the region of the largest area, in pixels."""

STDOUT = "-"
NARROWEST, WIDEST = 80, 120
SCORE, DECISION, REGION = 9, 10, 26
"""Widths of the table's columns after the name."""


@dataclass(frozen=True)
class ResultRow:
    """One result without its maps.

    Attributes:
        name: path of the image below the folder that was given.
        line: the result as a line of JSON.
        values: values of the columns of the CSV, by name.
        verdict: decision in a word.
    """

    name: str
    line: str
    values: dict[str, Any]
    verdict: str

    @property
    def badness(self) -> tuple[bool, bool, float]:
        """Sort key: unreadable images, then those with a reason, then by score."""
        values = self.values
        return "error" in values, bool(values.get("reason")), values.get("score", 0.0)


class Listing:
    """The results of a command, printed as they come or at the end.

    JSON lines are printed at once if their order is the given one and stdout is no terminal.

    Args:
        names: names of the images in the table, in order.
        json_file: file for JSON lines, ``-`` for stdout; ``None``: stdout, if it is no terminal.
        csv_file: file for CSV, ``-`` for stdout; ``None`` for none.
        sort: ``"given"``, or ``"score"`` for the most anomalous image first.

    Raises:
        OptionError: JSON and CSV are both to go to stdout.
    """

    def __init__(
        self, names: Sequence[str], *, json_file: str | None, csv_file: str | None, sort: str
    ) -> None:
        if json_file == csv_file == STDOUT:
            raise OptionError("--json - and --csv - can't both go to stdout: give one a file")
        self._names = names
        self._json, self._csv = json_file, csv_file
        self._sorted = sort == "score"
        taken = STDOUT in (json_file, csv_file)
        self._table = sys.stdout.isatty() and not taken
        self._lines = json_file is None and csv_file != STDOUT and not self._table
        self._rows: list[ResultRow] = []
        self.reader_gone = False

    @property
    def failures(self) -> int:
        """Number of images that could not be read."""
        return sum("error" in row.values for row in self._rows)

    def add(self, result: Prediction | ImageError, files: Mapping[str, str] | None) -> None:
        """Add a result, in order; print its line, if lines are printed at once."""
        row = _row(self._names[len(self._rows)], result, files)
        self._rows.append(row)
        if self._lines and not self._sorted and not self.reader_gone:
            self.reader_gone = not print_line(row.line)

    def write_lines(self, file: Path) -> None:
        """Write the JSON lines to a file."""
        write_text(str(file), self._text())

    def finish(self) -> None:
        """Write the files, and print the lines that wait for an order."""
        if self._json is not None:
            write_text(self._json, self._text())
        if self._csv is not None:
            write_text(self._csv, csv_text(self._ordered()))
        if self._lines and self._sorted and self._rows:
            print_line(self._text().removesuffix("\n"))
        if self._table:
            columns = shutil.get_terminal_size((NARROWEST, 24)).columns
            print_line("\n".join(table_lines(self._ordered(), columns)))

    def summary(self) -> str:
        """Return the numbers of anomalous and of unreadable images in words."""
        verdicts = [row.verdict for row in self._rows]
        failures = verdicts.count("unreadable")
        text = f"{verdicts.count('anomalous')} of {len(verdicts) - failures} images anomalous"
        if waiting := verdicts.count("review"):
            text += f", {waiting} for review"
        return text + (f"; {failures} could not be read" if failures else "")

    def _ordered(self) -> list[ResultRow]:
        if not self._sorted:
            return self._rows
        return sorted(self._rows, key=lambda row: row.badness, reverse=True)

    def _text(self) -> str:
        return "".join(f"{row.line}\n" for row in self._ordered())


def _row(name: str, result: Prediction | ImageError, files: Mapping[str, str] | None) -> ResultRow:
    from fre.inference.prediction import prediction_row
    from fre.report.prediction_files import json_line

    values = prediction_row(result)
    verdict = "unreadable" if isinstance(result, ImageError) else result.verdict
    regions = values.pop("regions", [])
    if verdict != "unreadable":
        values["regions"] = len(regions)
    if regions:
        largest = max(regions, key=lambda region: region["area"])
        values |= dict(zip(("x", "y", "width", "height"), largest["bbox"], strict=True))
        values |= {"area": largest["area"], "peak": largest["peak"]}
    return ResultRow(name, json_line(result, files), values, verdict)


def csv_text(rows: Sequence[ResultRow]) -> str:
    """Return results as CSV with a head; cells without a value are empty."""
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values for row in rows)
    return buffer.getvalue()


def table_lines(rows: Sequence[ResultRow], columns: int) -> list[str]:
    """Return results as lines of a table: name, score, decision and largest region.

    Args:
        rows: results.
        columns: width of the terminal, in characters.
    """
    room = min(max(columns, NARROWEST), WIDEST) - (SCORE + DECISION + REGION + 6)
    width = min(max((_width(_plain(row.name)) for row in rows), default=0), room)
    width = max(width, len("image"))
    lines = [_line("image", "score", "decision", "largest region, px", width)]
    for row in rows:
        score = "-" if "error" in row.values else f"{row.values['score']:.4g}"
        lines.append(_line(_plain(row.name), score, row.verdict, _remark(row.values), width))
    return lines


def _line(name: str, score: str, decision: str, remark: str, width: int) -> str:
    short = _fitted(name, width, keep_end=True)
    pad = " " * (width - _width(short))
    remark = _fitted(remark, REGION)
    return f"{short}{pad}  {score:>{SCORE}}  {decision:<{DECISION}}  {remark}".rstrip()


def _remark(values: Mapping[str, Any]) -> str:
    """Return why an image is anomalous or unreadable, or else its largest region."""
    why = values.get("error") or values.get("reason")
    if why:
        return _plain(str(why))
    if "x" not in values:
        return "-"
    return "{width} x {height} at {x}, {y}".format(**values)


def _plain(text: str) -> str:
    """Return text without characters that would move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _width(text: str) -> int:
    """Return the columns that a text takes; East Asian letters take two."""
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _fitted(text: str, width: int, *, keep_end: bool = False) -> str:
    """Return a text of at most a width, cut with dots at its end or its start."""
    if _width(text) <= width:
        return text
    letters = text[::-1] if keep_end else text
    kept, taken = [], 3
    for letter in letters:
        taken += _columns(letter)
        if taken > width:
            break
        kept.append(letter)
    return f"...{''.join(kept)[::-1]}" if keep_end else f"{''.join(kept)}..."
