"""Pictures and charts from arrays and numbers; it knows nothing of models.

- ``heatmaps``: heat colours, overlays, outlines and sheets of images.
- ``charts``: histograms and curves as SVG.
- ``notebook``: pieces of HTML that a notebook shows.
"""

from __future__ import annotations
