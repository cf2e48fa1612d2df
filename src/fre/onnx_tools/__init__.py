"""ONNX without fre: read, check, build, and cut models.

- ``protobuf``: fields of an encoded model, without the package onnx.
- ``check`` and ``sizes``: refuse what a runtime must not see.
- ``builder``: make graphs.
- ``surgery``: take layers out of someone's network.
- ``side_arrays``: arrays beside the graph, for further training.
"""
