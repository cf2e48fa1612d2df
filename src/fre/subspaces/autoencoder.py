"""The shallow linear autoencoder of the papers, trained by gradient descent.

FRE (Ndiour, Ahuja, Genc and Tickoo, BMVC 2023, section 3) reconstructs a feature x as

    D (E^T x + b_e) + b_d,

with D = E where the autoencoder is tied. Its optimum is known in closed form (Baldi and Hornik,
1989) and is what `fre.subspaces.gram` computes; this module trains it, as the reference that the
closed form is checked against. Training needs PyTorch, a trained autoencoder only NumPy.

The gradients are written out: the two uses of a tied matrix meet in one product, and nothing is
allocated between steps, which takes 20 to 35 % off an epoch of autograd at D from 7,168 to
65,536. Most of the rest is matrix products; PyTorch's fused Adam is an eighth of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from fre.errors import MissingDependencyError, OptionError
from fre.subspaces.arrays import check_finite
from fre.subspaces.cross_fit import CrossFit, new_residuals
from fre.subspaces.protocols import Scope
from fre.types import FloatArray, Progress

Kind: TypeAlias = Literal["tied", "plain"]

BLOCK_BYTES = 64 * 2**20
"""Working memory for float64 copies of parts of the features."""


@dataclass(frozen=True, eq=False)
class LinearAutoencoder:
    """A trained linear autoencoder, and how its training went.

    Attributes:
        kind: ``"tied"``, the decoder is the encoder; ``"plain"``, it has weights of its own.
        encoder: float32 (D, k).
        encoder_bias: float32 (k,).
        decoder: float32 (D, k); of a tied autoencoder, the very array that ``encoder`` is.
        decoder_bias: float32 (D,).
        n: number of features it was trained on.
        energy: sum of squares of those features about their mean.
        residual_energy: sum of squares of their residuals.
        losses: mean squared residual of an entry in each epoch, measured on every batch before its
            step.
    """

    scope: ClassVar[Scope] = "image"
    kind: Kind
    encoder: FloatArray
    encoder_bias: FloatArray
    decoder: FloatArray
    decoder_bias: FloatArray
    n: int
    energy: float
    residual_energy: float
    losses: tuple[float, ...]

    @property
    def dimension(self) -> int:
        """Length of a feature, D."""
        return int(self.encoder.shape[0])

    @property
    def rank(self) -> int:
        """Length of a code, k."""
        return int(self.encoder.shape[1])

    @property
    def epochs(self) -> int:
        """Number of epochs that were run."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """Loss of the last epoch."""
        return self.losses[-1]

    @property
    def kept_variance(self) -> float:
        """Share of the energy that is reconstructed, in [0, 1]; 1 if there is no energy."""
        if self.energy <= 0:
            return 1.0
        return max(0.0, 1 - self.residual_energy / self.energy)

    def stored(self) -> LinearAutoencoder:
        """Return the autoencoder itself, which is stored as it is."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return rank, kept variance, n, epochs and loss as plain JSON values."""
        return {
            "rank": self.rank,
            "kept_variance": self.kept_variance,
            "n": self.n,
            "epochs": self.epochs,
            "loss": self.losses[-1] if self.losses else None,
        }

    def residual(self, X: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the residual of features: the part that the autoencoder cannot reconstruct.

        Args:
            X: (n, D).

        Returns:
            float64 (n, D): x - (D (E^T x + b_e) + b_d), for each row x.
        """
        return _residual(X, self.encoder, self.encoder_bias, self.decoder, self.decoder_bias)

    def squared_residuals(self, X: NDArray[np.floating], channels: int) -> FloatArray:
        """Squared residual at every location.

        Args:
            X: float (n, D), flattened from (channels, locations).
            channels: number of channels.

        Returns:
            float32 (n, locations): the squared residual, summed over the channels.
        """
        maps = np.empty((len(X), X.shape[1] // channels), np.float32)
        # One by one: residuals are in float64, and would need twice the memory of the features.
        for row, feature in enumerate(X):
            residual = self.residual(feature[None])
            maps[row] = np.square(residual).reshape(channels, -1).sum(axis=0)
        return maps


def _residual(
    X: NDArray[np.floating],
    encoder: FloatArray,
    encoder_bias: FloatArray,
    decoder: FloatArray,
    decoder_bias: FloatArray,
) -> NDArray[np.float64]:
    codes = X.astype(np.float64) @ encoder.astype(np.float64) + encoder_bias
    return np.asarray(X - (codes @ decoder.T.astype(np.float64) + decoder_bias))


@dataclass(frozen=True)
class AutoencoderOptions:
    """How an autoencoder is trained.

    Attributes:
        rank: length of a code, k, from 1 to D.
        kind: ``"tied"`` or ``"plain"``.
        epochs: passes over the features.
        learning_rate: step size of Adam.
        batch_size: features a step.
        seed: random seed of the starting weights and of the order of the features.
        threads: number of PyTorch threads; 0 leaves it to PyTorch.
    """

    rank: int
    kind: Kind = "tied"
    epochs: int = 220
    learning_rate: float = 1e-3
    batch_size: int = 32
    seed: int = 0
    threads: int = 0

    def check(self, dimension: int) -> None:
        """Refuse values out of range, for features of a length."""
        if self.kind not in get_args(Kind):
            raise OptionError(f"an autoencoder is tied or plain, not {self.kind!r}")
        if not 1 <= self.rank <= dimension:
            raise OptionError(
                f"rank must be between 1 and {dimension}, the length of a feature, not {self.rank}"
            )
        if self.epochs < 1:
            raise OptionError(f"epochs must be at least 1, not {self.epochs}")
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(
                f"the learning rate must be above 0 and finite, not {self.learning_rate}"
            )
        if self.batch_size < 1:
            raise OptionError(f"the batch size must be at least 1, not {self.batch_size}")
        if self.threads < 0:
            raise OptionError(f"threads must be at least 0, not {self.threads}")


def train_autoencoder(
    X: NDArray[np.floating],
    options: AutoencoderOptions,
    *,
    progress: Progress | None = None,
    on_epoch: Callable[[int, Callable[[], LinearAutoencoder]], None] | None = None,
) -> LinearAutoencoder:
    """Train a linear autoencoder on features, as the reference implementation of FRE does.

    Weights start Xavier-uniform (Glorot and Bengio, 2010) and biases at zero; Adam (Kingma and
    Ba, 2015) descends the mean squared error over all the entries of a batch. All of it is
    float32. Every epoch deals the features into new batches; the last batch may be smaller. The
    result is the same to the bit for the same seed and number of threads on the same
    machine. PyTorch's global state is as before afterwards.

    Args:
        X: float32 (n, D), a feature a row; not copied if it is contiguous and writable.
        options: how it is trained.
        progress: called after each epoch.
        on_epoch: called after each epoch with its number, from 1, and a function that returns the
            autoencoder as it is at that moment, which costs about as much as an epoch.

    Raises:
        OptionError: an option is out of range, the features are not finite, or the learning
            rate is so large that the training diverges.
        MissingDependencyError: PyTorch is not installed.
    """
    if X.ndim != 2 or X.size == 0:
        raise OptionError(f"the features must be a matrix of one row or more, not {X.shape}")
    options.check(X.shape[1])
    _torch()  # whoever lacks it should hear so before the passes over the features
    X = np.require(X, np.float32, ["C", "W"])  # PyTorch warns of arrays that are read-only
    energy = _energy(X)
    check_finite(energy)
    losses: list[float] = []

    def snapshot() -> LinearAutoencoder:
        weights = training.weights()
        residual_energy = sum(
            float(np.square(_residual(X[rows], *weights)).sum()) for rows in _blocks(X)
        )
        return LinearAutoencoder(
            options.kind, *weights, len(X), energy, residual_energy, tuple(losses)
        )

    with _threads(options.threads):
        training = _Training(X, options)
        for epoch in range(1, options.epochs + 1):
            losses.append(training.run_epoch())
            if not math.isfinite(losses[-1]):
                raise OptionError(
                    f"the autoencoder diverged in epoch {epoch}: lower the learning rate, "
                    f"which is {options.learning_rate:g}"
                )
            if progress:
                progress("Training the autoencoder", epoch, options.epochs)
            if on_epoch:
                on_epoch(epoch, snapshot)
    return snapshot()


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("the trained autoencoder", "torch") from error
    return torch


def _blocks(X: FloatArray) -> Iterator[slice]:
    """Slices of the rows of a matrix, each small enough to be copied as float64."""
    height = max(1, BLOCK_BYTES // (8 * X.shape[1]))
    for start in range(0, len(X), height):
        yield slice(start, start + height)


def _energy(X: FloatArray) -> float:
    """Sum of squares about the mean; not finite if an entry is not."""
    with np.errstate(invalid="ignore"):
        mean = X.mean(axis=0, dtype=np.float64)
        return sum(float(np.square(X[rows] - mean).sum()) for rows in _blocks(X))


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """PyTorch with so many threads; with as many as before afterwards."""
    torch = _torch()
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Training:
    """Weights, gradients, Adam's state and the buffers of a step.

    Weights are (k, D) here, rows as long as a feature: the layout of the reference, and the
    faster one to multiply.
    """

    def __init__(self, X: FloatArray, options: AutoencoderOptions) -> None:
        torch = _torch()
        (n, dimension), rank = X.shape, options.rank
        self.X = torch.from_numpy(X)
        self.batch_size = min(options.batch_size, n)
        # A generator of its own: the global one is the caller's.
        self.random = torch.Generator().manual_seed(options.seed)
        bound = math.sqrt(6 / (dimension + rank))

        def xavier() -> Any:
            weight = torch.empty(rank, dimension)
            return weight.uniform_(-bound, bound, generator=self.random)

        self.encoder = xavier()
        self.decoder = self.encoder if options.kind == "tied" else xavier()
        self.encoder_bias = torch.zeros(rank)
        self.decoder_bias = torch.zeros(dimension)
        parameters = [self.encoder, self.encoder_bias, self.decoder_bias]
        if options.kind == "plain":
            parameters.append(self.decoder)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        self.adam = torch.optim.Adam(parameters, lr=options.learning_rate, fused=True)
        self.rows = torch.empty(2 * self.batch_size, dimension)
        self.codes = torch.empty(2 * self.batch_size, rank)

    def run_epoch(self) -> float:
        """Descend once over all the features, in a new order; return their mean loss."""
        torch = _torch()
        order = torch.randperm(len(self.X), generator=self.random)
        squares = math.fsum(self._step(batch) for batch in order.split(self.batch_size))
        return squares / float(self.X.numel())

    def _step(self, batch: Any) -> float:
        """Descend on some features; return the sum of squares of their residuals before."""
        torch = _torch()
        m = len(batch)
        # One below the other, so that the gradient of a tied matrix is a single product.
        rows, codes = self.rows[: 2 * m], self.codes[: 2 * m]
        error, x = rows[:m], rows[m:]
        code, code_gradient = codes[:m], codes[m:]

        torch.index_select(self.X, 0, batch, out=x)
        torch.addmm(self.encoder_bias, x, self.encoder.T, out=code)
        torch.addmm(self.decoder_bias, code, self.decoder, out=error)
        error.sub_(x)
        squares = float(torch.linalg.vector_norm(error)) ** 2

        error.mul_(2 / error.numel())
        torch.mm(error, self.decoder.T, out=code_gradient)
        if self.decoder is self.encoder:
            torch.mm(codes.T, rows, out=self.encoder.grad)
        else:
            torch.mm(code_gradient.T, x, out=self.encoder.grad)
            torch.mm(code.T, error, out=self.decoder.grad)
        torch.sum(code_gradient, 0, out=self.encoder_bias.grad)
        torch.sum(error, 0, out=self.decoder_bias.grad)
        self.adam.step()
        return squares

    def weights(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Copies of the encoder, its bias, the decoder and its bias, as in the public class."""
        encoder = self.encoder.numpy().T.copy()
        decoder = encoder if self.decoder is self.encoder else self.decoder.numpy().T.copy()
        biases = self.encoder_bias.numpy().copy(), self.decoder_bias.numpy().copy()
        return encoder, biases[0], decoder, biases[1]


def cross_fit_autoencoder(
    X: FloatArray,
    channels: int,
    folds: Sequence[NDArray[np.intp]],
    options: AutoencoderOptions,
    progress: Progress | None = None,
) -> CrossFit:
    """Train an autoencoder on all features, and another one without each fold.

    Args:
        X: float32 (n, D), a feature a row, flattened from (channels, P).
        channels: number of channels.
        folds: rows of each fold; two folds or more, none empty. Each costs about as much as the
            training on all features.
        options: options of the training.
        progress: called after each epoch.
    """

    def train(X: FloatArray, task: str) -> LinearAutoencoder:
        def show(_: str, done: int, total: int) -> None:
            if progress:
                progress(task, done, total)

        return train_autoencoder(X, options, progress=show)

    def held_out() -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
        for number, held in enumerate(folds, start=1):
            others = np.setdiff1d(np.arange(len(X)), held)
            apart = train(X[others], f"Calibrating, fold {number} of {len(folds)}")
            yield held, apart.squared_residuals(X[held], channels)

    autoencoder = train(X, "Training the autoencoder")
    return CrossFit(autoencoder, new_residuals(X, channels, autoencoder, held_out()))
