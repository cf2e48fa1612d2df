"""Training: good images become a model file, and model files grow by updates and merges.

- ``config`` and ``plan``: settings become a plan: which layers are read, how parts are fitted.
- ``parts``: a layer, a pooling and a scope. ``folds``, ``grouping``: images dealt into folds.
- ``pipeline``: `fit_detector`, the one entry. ``held``: features in memory. ``streamed``: two
  passes over files, with ``fold_statistics`` and ``checkpoint``; Ray: `fre.distributed.training`.
- ``fitted``: the record of a fitted detector. ``training_images``: names and digests in it.
- ``readout``: scales, scores and thresholds. ``build`` and ``describe``: the model file.
- ``update``, ``merge`` and ``growth``: more images, other models.
"""
