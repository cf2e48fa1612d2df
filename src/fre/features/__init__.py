"""Pixels become features: float32 (n, D), one flat row for each image or tile.

- ``layout``: how a row is made up. ``network``: the graph from images to features.
- ``runner`` and ``extractor``: run that graph. ``stream``: over files, batch by batch.
- ``table``: the features of a set of images.
"""
