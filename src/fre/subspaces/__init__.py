"""Features become squared residuals under subspaces of good images' features.

- ``subspace``: PCA of whole images. ``gram``: its exact fit from n x n inner products.
- ``image_statistics``: count, mean and covariance of whole images, exact up to a capacity.
- ``position`` and ``patch``: a subspace for each location, or one for all.
- ``autoencoder``: the trained linear autoencoder.
- ``image`` and ``cross_fit``: held-out residuals. ``mean_residuals``: from statistics alone.
"""
