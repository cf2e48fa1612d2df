"""Features become squared residuals under subspaces of good images' features.

- ``protocols``: `Statistics`, `Subspace` and `FitOptions`, which all scopes share.
- ``subspace``: PCA of whole images. ``gram``: its exact fit from n x n inner products.
- ``image_statistics``: count, mean and components of whole images, exact up to a capacity.
- ``position`` and ``patch``: a subspace for each location, or one for all.
- ``position_left_out``: residuals per location, with each image left out by itself.
- ``autoencoder``: the trained linear autoencoder. ``accumulator``: statistics batch by batch.
- ``cross_fit`` and ``image``: held-out residuals. ``arrays``: reading stored arrays.
"""
