"""Checks of an installation, instead of the developers' tests.

- ``machine``: versions, cores, runtimes, cache, disk and cameras.
- ``model_check``: integrity of a model file, its speed, and whether runtimes agree on it.
- ``selftest``: train, update, serve and compare scores on drawn images.
"""
