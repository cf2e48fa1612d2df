"""One way to fit, whichever subspace it is: to all features, and across folds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.subspace.autoencoder import Kind, LinearAutoencoder, train_autoencoder
from fre.subspace.image_wide import coordinates_of
from fre.subspace.incremental import CAPACITY, SubspaceStatistics
from fre.subspace.pca import Gram, Subspace
from fre.types import FloatArray, Progress

__all__ = ["AnySubspace", "ClosedForm", "Fitter", "Trained", "TrainingOptions"]

AnySubspace: TypeAlias = Subspace | LinearAutoencoder
Folds: TypeAlias = list[NDArray[np.intp]]
Residuals: TypeAlias = Iterator[tuple[NDArray[np.intp], FloatArray]]


class Fitter(Protocol):
    """Features that are ready to be fitted."""

    def fit(self) -> AnySubspace:
        """The subspace of all the features."""

    def cross_fit(self, folds: Folds, *, channels: int) -> Residuals:
        """Residual maps of each fold, float32 (rows, locations), under a subspace of the others.

        Args:
            folds: the rows of each fold; two folds or more, none empty.
            channels: number of channels; features are flattened from (channels, locations).
        """


class ClosedForm:
    """Principal component analysis.

    Args:
        X: float32 (n, D), a feature a row.
        variance: share of the energy to keep, in (0, 1].
        rank: a fixed number of dimensions instead.
    """

    def __init__(self, X: FloatArray, *, variance: float, rank: int | None) -> None:
        self._gram = Gram(X)
        self._variance = variance
        self._rank = rank

    def fit(self) -> Subspace:
        """See `Fitter.fit`; raises OptionError for a rank that the features do not allow."""
        return self.statistics.cut(variance=self._variance, rank=self._rank)

    @cached_property
    def statistics(self) -> SubspaceStatistics:
        """What the subspace follows from; raises what `fit` raises."""
        k = self._gram.rank(variance=self._variance, rank=self._rank)
        return SubspaceStatistics.of_gram(self._gram, capacity=max(CAPACITY, k))

    @property
    def coordinates(self) -> FloatArray | None:
        """See `fre.subspace.image_wide.ImageWide`."""
        return coordinates_of(self._gram, self.statistics)

    def cross_fit(self, folds: Folds, *, channels: int) -> Residuals:
        """See `Fitter.cross_fit`; from the inner products of all the features."""
        return self._gram.cross_fit(
            folds, channels=channels, variance=self._variance, rank=self._rank
        )


@dataclass(frozen=True)
class TrainingOptions:
    """How an autoencoder is trained: see `fre.subspace.autoencoder.train_autoencoder`."""

    epochs: int = 220
    learning_rate: float = 1e-3
    batch_size: int = 32
    plateau: float | None = None
    seed: int = 0
    threads: int = 0


class Trained:
    """The linear autoencoder, trained by gradient descent; anew for every fold.

    Args:
        X: float32 (n, D), a feature a row.
        kind: ``"tied"`` or ``"plain"``.
        rank: length of a code.
        options: of the training.
        progress: called after each epoch.
    """

    def __init__(
        self,
        X: FloatArray,
        *,
        kind: Kind,
        rank: int,
        options: TrainingOptions,
        progress: Progress | None,
    ) -> None:
        self._X = X
        self._kind: Kind = kind
        self._rank = rank
        self._options = options
        self._progress = progress

    def fit(self) -> LinearAutoencoder:
        """See `Fitter.fit`; raises what `train_autoencoder` raises."""
        return self._train(self._X, "Training the autoencoder")

    def cross_fit(self, folds: Folds, *, channels: int) -> Residuals:
        """See `Fitter.cross_fit`; each fold costs about as much as `fit`."""
        for number, held in enumerate(folds, start=1):
            others = np.setdiff1d(np.arange(len(self._X)), held)
            task = f"Calibrating, fold {number} of {len(folds)}"
            autoencoder = self._train(self._X[others], task)
            yield held, autoencoder.energies(self._X[held], channels)

    def _train(self, X: FloatArray, task: str) -> LinearAutoencoder:
        progress = self._progress

        def show(_: str, done: int, total: int) -> None:
            if progress:
                progress(task, done, total)

        options = self._options
        return train_autoencoder(
            X,
            kind=self._kind,
            rank=self._rank,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            plateau=options.plateau,
            seed=options.seed,
            threads=options.threads,
            progress=show,
        )
