"""Parts of the service by themselves."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fre.errors import OutputError
from fre.scoring.calibration import Calibration
from fre.serve.drift import drift, kolmogorov_survival, uniform_distance
from serving import needs_serve


@pytest.mark.parametrize(
    ("x", "expected"),
    # Smirnov's table (Annals of Mathematical Statistics 19, 1948), one minus its L(z)
    [(0.5, 1 - 0.036055), (1.0, 1 - 0.730000), (1.36, 1 - 0.950514), (2.0, 1 - 0.999329)],
)
def test_the_limit_distribution_has_its_tabled_values(x: float, expected: float) -> None:
    assert kolmogorov_survival(x) == pytest.approx(expected, abs=2e-6)


def test_the_limit_distribution_agrees_with_scipy() -> None:
    special = pytest.importorskip("scipy.special", reason="needs scipy, of fre[test]")
    for x in np.linspace(0.05, 3, 60):
        assert kolmogorov_survival(x) == pytest.approx(special.kolmogorov(x), abs=1e-9)


@settings(deadline=None)  # the first example imports SciPy
@given(
    st.lists(st.integers(0, 10_000), min_size=5, max_size=60, unique=True),
    st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True),
)
def test_the_distance_is_that_of_two_samples(normal: list[int], recent: list[int]) -> None:
    """Of p-values from m scores and the uniform grid, up to the step of 1/(m+1)."""
    stats = pytest.importorskip("scipy.stats", reason="needs scipy, of fre[test]")
    scores = np.sort(np.array(normal, float))
    calibration = Calibration(scores, 0.1, 0.0, 0.0, (0.0, 1.0))
    values = [calibration.p_value(score) for score in recent]
    ours = max(uniform_distance(values, len(scores)))
    theirs = stats.ks_2samp(scores, recent, method="asymp").statistic
    assert abs(ours - theirs) <= 1 / (len(scores) + 1) + 1e-12


def test_drift_warns_rarely_without_and_surely_with_drift() -> None:
    rng = np.random.default_rng(0)
    warnings = 0
    for _ in range(400):
        calibration = Calibration(np.sort(rng.normal(size=100)), 0.1, 0.0, 0.0, (0.0, 1.0))
        values = [calibration.p_value(score) for score in rng.normal(size=200)]
        warnings += drift(values, 100).warning
    assert warnings <= 4  # 0.4 expected at a significance of 0.001
    higher = [calibration.p_value(score) for score in rng.normal(1, size=200)]
    lower = [calibration.p_value(score) for score in rng.normal(-1, size=200)]
    assert drift(higher, 100).direction == "higher"
    assert drift(lower, 100).direction == "lower"
    assert not drift(higher[:29], 100).enough
    assert not drift(higher, 19).enough


@needs_serve
def test_a_client_that_leaves_and_a_fault_elsewhere_do_not_break_a_batch(tmp_path: Path) -> None:
    import fre
    from conftest import texture
    from fre.serve.batching import Batcher
    from fre.serve.database import Database
    from fre.serve.pictures import Pictures
    from fre.serve.registry import Registry
    from fre.serve.results import Results
    from serving import write_images

    fre.FRE(size=64).fit([texture(seed) for seed in range(20)]).save(tmp_path / "weave.onnx")
    registry = Registry(tmp_path / "weave.onnx")

    def observer(*_: object) -> None:
        raise ZeroDivisionError

    database = Database(tmp_path / "results.sqlite3")
    batcher = Batcher(
        Results(database, Pictures(tmp_path / "pictures", 1 << 20)),
        batch_size=4,
        batch_wait=0.01,
        max_queue=16,
        large_pixels=1 << 20,
        observer=observer,
    )
    images = [(path.name, path.read_bytes()) for path in write_images(tmp_path / "images", 8)]
    futures = batcher.admit(registry.get("weave"), images, source="test")
    assert not any(future.cancel() for future in futures[::2])
    assert [future.result(60).result["name"] for future in futures] == [name for name, _ in images]
    assert batcher.depths() == {"weave": 0}
    batcher.close()
    database.close()


@needs_serve
def test_answers_are_sent_at_once() -> None:
    """A socket that does not name its protocol is left with Nagle's algorithm by asyncio."""
    import socket

    from fre.serve.server import listen

    with listen("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_a_failed_operation_undoes_itself_and_not_its_neighbours(tmp_path: Path) -> None:
    from fre.serve.database import Database

    database = Database(tmp_path / "results.sqlite3")

    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO unreadable VALUES ('bad', 'x')")
        raise ZeroDivisionError

    def row(key: str) -> None:
        database.write(
            lambda connection: connection.execute("INSERT INTO unreadable VALUES (?, 'x')", (key,))
        )

    failing = [database.submit(bad) for _ in range(5)]
    fine = [database.submit(lambda _: 7) for _ in range(5)]
    row("kept")
    assert [future.result() for future in fine] == [7] * 5
    for future in failing:
        with pytest.raises(ZeroDivisionError):
            future.result()
    found = database.read().execute("SELECT watch_key FROM unreadable").fetchall()
    assert [key for (key,) in found] == ["kept"]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.read().execute("DELETE FROM unreadable")
    database.close()
    again = Database(tmp_path / "results.sqlite3")
    assert again.read().execute("SELECT COUNT(*) FROM unreadable").fetchone()[0] == 1
    again.close()


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    from fre.serve.database import Database

    (tmp_path / "text").write_text("not a database, by far" * 100)
    with pytest.raises(OutputError, match="not a database"):
        Database(tmp_path / "text")
    connection = sqlite3.connect(tmp_path / "newer")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OutputError, match="another version"):
        Database(tmp_path / "newer")
