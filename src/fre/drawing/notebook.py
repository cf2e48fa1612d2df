"""Pieces of HTML that a notebook shows: pictures, tables and charts, safe for any text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fre.drawing.charts import standalone
from fre.drawing.heatmaps import encode, thumbnail
from fre.errors import OptionError
from fre.storage.files import write_atomic
from fre.types import ImageArray

PICTURE_STYLE = "display:inline;vertical-align:top;margin:0 4px 4px 0"
PICTURE_SIDE = 320
"""Longest side of a picture in a notebook, in pixels."""


def data_uri(data: bytes, kind: str) -> str:
    """Return an image file as the address of an HTML image.

    Args:
        data: content of the file.
        kind: subtype of its MIME type, such as ``"png"``.
    """
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture(image: ImageArray, name: str) -> str:
    """Return an HTML image of at most `PICTURE_SIDE` pixels.

    Args:
        image: uint8 (H, W, 3), RGB.
        name: text for screen readers.
    """
    return jpeg_picture(encode(thumbnail(image, PICTURE_SIDE), "JPEG", quality=85), name)


def jpeg_picture(content: bytes, name: str) -> str:
    """Return an HTML image of a JPEG file.

    Args:
        content: content of the file.
        name: text for screen readers.
    """
    return f'<img src="{data_uri(content, "jpeg")}" alt="{escape(name)}" style="{PICTURE_STYLE}">'


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Return an HTML table: the first column names the rows.

    Args:
        rows: texts of the cells.
        head: texts of the head; empty for none.
    """
    body = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    top = "".join(f'<th style="text-align:left">{escape(cell)}</th>' for cell in head)
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Chart:
    """A chart that a notebook shows and a file keeps.

    Attributes:
        svg: the chart as a complete SVG document.
    """

    svg: str

    @classmethod
    def of(cls, element: str) -> Chart:
        """Return the chart of an ``<svg>`` element of `fre.drawing.charts`."""
        return cls(standalone(element))

    def __repr__(self) -> str:
        return f"Chart({len(self.svg):,} characters of SVG; save it with .save('chart.svg'))"

    def _repr_html_(self) -> str:
        # As an image, so that the chart's style can't reach the rest of the notebook.
        source = data_uri(self.svg.encode(), "svg+xml")
        return f'<img src="{source}" alt="chart" style="max-width:520px;width:100%">'

    def save(self, path: Path | str) -> Path:
        """Write the chart as an SVG file, whole or not at all.

        Returns:
            The path.

        Raises:
            OptionError: the path does not end in ``.svg``.
            OutputError: the file can't be written.
        """
        if Path(path).suffix.lower() != ".svg":
            raise OptionError(f"{path}: a chart is saved as SVG; choose a name that ends in .svg")
        write_atomic(path, self.svg.encode())
        return Path(path)
