"""Trained autoencoders: one of all features, and one for each fold that is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.subspace.autoencoder import Kind, LinearAutoencoder, train_autoencoder
from fre.subspace.pca import Subspace
from fre.types import FloatArray, Progress

__all__ = ["AnySubspace", "Trained", "TrainingOptions"]

AnySubspace: TypeAlias = Subspace | LinearAutoencoder


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
        """The autoencoder of all the features; raises what `train_autoencoder` raises."""
        return self._train(self._X, "Training the autoencoder")

    def cross_fit(
        self, folds: list[NDArray[np.intp]], *, channels: int
    ) -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
        """Residual maps of each fold, float32 (rows, P), under an autoencoder of the others.

        Each fold costs about as much as `fit`.

        Args:
            folds: the rows of each fold; two folds or more, none empty.
            channels: number of channels; features are flattened from (channels, P).
        """
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
