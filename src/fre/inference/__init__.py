"""A model file becomes predictions.

- ``document``: the JSON document in the file; the only module that knows its layout.
- ``predictor``: the loaded model. ``prediction``: its answer.
"""
