"""Pixels become features: float32 (n, D), one flat row for each image or tile.

- ``layout``: layer, grid and pooling of a row. ``network``: the graph from images to features.
- ``runner`` and ``extractor``: run the graph. ``stream``: runs it over files, batch by batch.
- ``table``: features of a set of images.
"""
