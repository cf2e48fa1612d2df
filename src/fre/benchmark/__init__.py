"""Whole benchmarks: every category of a dataset, beside published figures; and the demo."""
