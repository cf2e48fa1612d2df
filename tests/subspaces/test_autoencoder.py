"""The trained autoencoder: its mathematics, its optimum, its errors and its manners."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fre.errors import MissingDependencyError, OptionError
from fre.subspaces.autoencoder import AutoencoderOptions, LinearAutoencoder, train_autoencoder
from fre.subspaces.gram import Gram
from fre.subspaces.protocols import FitOptions


def features(n: int = 96, dimension: int = 24, rank: int = 3, seed: int = 0) -> np.ndarray:
    """Features around an affine subspace, off the origin, with unequal spread along it."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dimension, rank)))[0]
    spread = np.linspace(4, 2, rank)
    signal = rng.normal(size=(n, rank)) * spread @ basis.T
    noise = rng.normal(scale=0.2, size=(n, dimension))
    return (rng.normal(size=dimension) + signal + noise).astype(np.float32)


def by_hand(**changes: Any) -> LinearAutoencoder:
    rng = np.random.default_rng(1)
    values: dict[str, Any] = {
        "kind": "plain",
        "encoder": rng.normal(size=(6, 2)).astype(np.float32),
        "encoder_bias": rng.normal(size=2).astype(np.float32),
        "decoder": rng.normal(size=(6, 2)).astype(np.float32),
        "decoder_bias": rng.normal(size=6).astype(np.float32),
        "n": 10,
        "energy": 8.0,
        "residual_energy": 2.0,
        "losses": (3.0, 2.5),
    }
    return LinearAutoencoder(**values | changes)


def train(X: np.ndarray, **options: Any) -> LinearAutoencoder:
    return train_autoencoder(X, AutoencoderOptions(**options))


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="needs fre-vision[torch]")


# --- a trained autoencoder ---------------------------------------------------------------------


def test_residual_is_the_literal_formula() -> None:
    autoencoder = by_hand()
    X = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    residual = autoencoder.residual(X)
    assert residual.dtype == np.float64
    E, D = autoencoder.encoder.astype(np.float64), autoencoder.decoder.astype(np.float64)
    for x, row in zip(X.astype(np.float64), residual, strict=True):
        code = E.T @ x + autoencoder.encoder_bias
        np.testing.assert_allclose(row, x - (D @ code + autoencoder.decoder_bias), atol=1e-12)


def test_a_basis_as_tied_weights_is_the_closed_form() -> None:
    X = features()
    subspace = Gram(X).fit(FitOptions(rank=3))
    basis, mean = subspace.basis.astype(np.float32), subspace.mean.astype(np.float32)
    tied = by_hand(
        kind="tied", encoder=basis, encoder_bias=-basis.T @ mean, decoder=basis, decoder_bias=mean
    )
    np.testing.assert_allclose(tied.residual(X), subspace.residual(X), atol=1e-5)


def test_properties() -> None:
    autoencoder = by_hand()
    assert (autoencoder.dimension, autoencoder.rank) == (6, 2)
    assert (autoencoder.epochs, autoencoder.loss) == (2, 2.5)
    assert autoencoder.kept_variance == 0.75


def test_kept_variance_of_the_worst_and_of_nothing() -> None:
    assert by_hand(residual_energy=9.0).kept_variance == 0
    assert by_hand(energy=0.0, residual_energy=0.0).kept_variance == 1


# --- what training converges to ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "excess", "degrees"),
    [pytest.param("tied", 1e-6, 0.01, marks=pytest.mark.slow), ("plain", 0.02, 1)],
)
def test_converges_to_the_principal_subspace(
    kind: Any, excess: float, degrees: float, torch: Any
) -> None:
    X = features()
    optimum = Gram(X).fit(FitOptions(rank=3))
    # Batches of everything: the noise of smaller ones keeps Adam from settling.
    trained = train(
        X, rank=3, kind=kind, epochs=2000, learning_rate=1e-2, batch_size=len(X), threads=1
    )
    Q = np.linalg.qr(trained.decoder.astype(np.float64))[0]
    sine = np.linalg.norm(optimum.basis - Q @ (Q.T @ optimum.basis), ord=2)
    assert np.degrees(np.arcsin(sine)) < degrees
    ratio = trained.residual_energy / optimum.discarded
    assert 1 - 1e-6 < ratio < 1 + excess
    assert trained.kept_variance == pytest.approx(optimum.kept_variance, abs=excess)


def test_tied_shares_one_array_and_plain_has_two(torch: Any) -> None:
    X = features()
    tied = train(X, rank=2, epochs=2)
    plain = train(X, rank=2, epochs=2, kind="plain")
    assert tied.decoder is tied.encoder
    assert not np.array_equal(plain.decoder, plain.encoder)
    for trained in (tied, plain):
        assert trained.encoder.shape == trained.decoder.shape == (24, 2)
        assert trained.encoder_bias.shape == (2,)
        assert trained.decoder_bias.shape == (24,)
        for array in (trained.encoder, trained.encoder_bias, trained.decoder_bias):
            assert array.dtype == np.float32


def test_energies_are_those_of_the_training_features(torch: Any) -> None:
    X = features(n=50)
    trained = train(X, rank=2, epochs=3)
    assert trained.n == 50
    centred = X - X.mean(axis=0, dtype=np.float64)
    assert trained.energy == pytest.approx(np.square(centred).sum())
    assert trained.residual_energy == pytest.approx(np.square(trained.residual(X)).sum())


@pytest.mark.parametrize("kind", ["tied", "plain"])
def test_steps_are_those_of_autograd_and_adam(kind: Any, torch: Any) -> None:
    X = features(n=37)  # 32 and a smaller batch of 5
    trained = train(X, rank=4, kind=kind, epochs=5, seed=3)

    random = torch.Generator().manual_seed(3)
    weights = [torch.empty(4, 24) for _ in range(1 if kind == "tied" else 2)]
    for weight in weights:
        torch.nn.init.xavier_uniform_(weight, generator=random)
    encoder, decoder = weights[0], weights[-1]
    encoder_bias, decoder_bias = torch.zeros(4), torch.zeros(24)
    parameters = [*weights, encoder_bias, decoder_bias]
    for parameter in parameters:
        parameter.requires_grad_()
    adam = torch.optim.Adam(parameters, lr=1e-3, fused=False)
    data, losses = torch.from_numpy(X), []
    for _ in range(5):
        total = 0.0
        for batch in torch.randperm(37, generator=random).split(32):
            x = data[batch]
            code = torch.nn.functional.linear(x, encoder, encoder_bias)
            loss = torch.nn.MSELoss()(torch.nn.functional.linear(code, decoder.T, decoder_bias), x)
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * len(x)
        losses.append(total / 37)

    np.testing.assert_allclose(trained.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(trained.encoder, encoder.detach().numpy().T, atol=1e-5)
    np.testing.assert_allclose(trained.decoder, decoder.detach().numpy().T, atol=1e-5)
    np.testing.assert_allclose(trained.encoder_bias, encoder_bias.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(trained.decoder_bias, decoder_bias.detach().numpy(), atol=1e-5)


# --- its manners -------------------------------------------------------------------------------


def test_same_seed_is_bit_equal_and_another_differs(torch: Any) -> None:
    X = features(n=50, dimension=700)
    first, again, other = (train(X, rank=8, epochs=5, seed=seed, threads=2) for seed in (7, 7, 8))
    assert first.losses == again.losses
    assert first.encoder.tobytes() == again.encoder.tobytes()
    assert first.encoder_bias.tobytes() == again.encoder_bias.tobytes()
    assert first.decoder_bias.tobytes() == again.decoder_bias.tobytes()
    assert not np.array_equal(first.encoder, other.encoder)


def test_leaves_the_state_of_pytorch_alone(torch: Any) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    train(features(), rank=2, epochs=1, threads=threads + 1)
    with pytest.raises(OptionError):
        train(features(), rank=2, epochs=5, learning_rate=1e30, threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_features_are_not_changed(torch: Any) -> None:
    X = features()
    before = X.copy()
    train(X, rank=2, epochs=2)
    np.testing.assert_array_equal(X, before)


def test_any_memory_layout_will_do(torch: Any) -> None:
    X = features()
    X.flags.writeable = False
    expected = train(X, rank=2, epochs=2).losses
    assert train(np.asfortranarray(X), rank=2, epochs=2).losses == expected
    assert train(X.astype(np.float64), rank=2, epochs=2).losses == expected


def test_more_dimensions_than_features(torch: Any) -> None:
    trained = train(features(n=3), rank=10, epochs=2, batch_size=100)
    assert (trained.n, trained.rank) == (3, 10)


def test_constant_features(torch: Any) -> None:
    trained = train(np.ones((5, 8), np.float32), rank=2, epochs=2)
    assert trained.energy == 0
    assert trained.kept_variance == 1


def test_progress_and_snapshots(torch: Any) -> None:
    X = features()
    reports: list[tuple[str, int, int]] = []
    snapshots: dict[int, LinearAutoencoder] = {}

    def keep(epoch: int, snapshot: Callable[[], LinearAutoencoder]) -> None:
        if epoch != 2:
            snapshots[epoch] = snapshot()

    trained = train_autoencoder(
        X, AutoencoderOptions(2, epochs=3), progress=lambda *r: reports.append(r), on_epoch=keep
    )
    assert [(done, total) for _, done, total in reports] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(snapshots) == [1, 3]
    np.testing.assert_array_equal(snapshots[3].encoder, trained.encoder)
    # A snapshot is what a shorter training gives, untouched by the epochs that follow.
    shorter = train(X, rank=2, epochs=1)
    np.testing.assert_array_equal(snapshots[1].encoder, shorter.encoder)
    assert snapshots[1].losses == trained.losses[:1]


# --- its errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be between 1 and 24"),
        ({"rank": 25}, "rank must be between 1 and 24"),
        ({"kind": "deep"}, "tied or plain"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0}, "learning rate"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"batch_size": 0}, "batch size"),
        ({"threads": -1}, "threads"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        train(features(), **{"rank": 2} | options)


@pytest.mark.parametrize("shape", [(0, 24), (24,), (2, 3, 4)])
def test_features_that_are_no_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="matrix"):
        train(np.zeros(shape, np.float32), rank=2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(value: float, torch: Any) -> None:
    X = features()
    X[3, 4] = value
    with pytest.raises(OptionError, match="finite"):
        train(X, rank=2)


def test_divergence_names_the_learning_rate(torch: Any) -> None:
    with pytest.raises(OptionError, match=r"lower the learning rate, which is 1e\+30"):
        train(features(), rank=2, learning_rate=1e30)


def test_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fre-vision\[torch\]'"):
        train(features(), rank=2)


def test_a_trained_autoencoder_does_not_load_pytorch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from fre.subspaces.autoencoder import LinearAutoencoder\n"
        "W = np.eye(3, 1, dtype=np.float32)\n"
        "b = np.zeros(1, np.float32), np.zeros(3, np.float32)\n"
        "LinearAutoencoder('tied', W, b[0], W, b[1], 1, 1.0, 1.0, (1.0,)).residual(np.eye(3))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
