"""Squared residuals become a score, an anomaly map and a decision.

- ``fusion``: the arithmetic, in NumPy. ``graph``: its twin in ONNX.
- ``calibration``: thresholds and p-values. ``regions``: connected parts of a map.
"""
