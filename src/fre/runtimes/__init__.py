"""ONNX Runtime and OpenVINO behind one protocol.

- ``runtime``: the protocol, and a model opened on either runtime.
- ``fastest``: the runtime ``auto``, the faster of the two.
- ``measure``: rounds, processor and versions for measurements of speed.
"""
