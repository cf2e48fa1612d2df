"""A model file becomes predictions.

- ``document``: the sections of the JSON document in the file; the only module that knows its keys.
- ``json_object``: reading of checked values from JSON.
- ``model_file``: the document within the bytes of the file, and its digest.
- ``predictor``: the loaded model. ``prediction``: its result for an image.
- ``rebuild``: the network and the feature extractor of a model, to train again.
"""
