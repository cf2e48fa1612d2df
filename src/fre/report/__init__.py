"""One self-contained HTML page that says how good a model is, and shows where it fails.

The page loads nothing from anywhere: its style, charts and images are inside. It reads without
scripts, on a phone, in the dark and on paper.
"""

from fre.report.page import write_report
from fre.report.pictures import GalleryItem

__all__ = ["GalleryItem", "write_report"]
