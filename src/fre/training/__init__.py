"""Good images become a model file.

- ``config`` and ``plan``: settings, and what they mean for a backbone.
- ``fold_statistics``: per-fold statistics, accumulated batch by batch.
- ``cross_fitting`` and ``two_pass``: fit all subspaces, from held features or streamed ones.
- ``readout``: score and map of fitted parts. ``build`` and ``describe``: the model file.
- ``fitted``: what a model keeps to learn more. ``update`` and ``merge``: learn more from it.
"""
