"""How runs of a network share the cores.

A lane is a run at a time, on the thread that calls it. Threads that share a run wait for one
another after each operation, lanes do not: so there is a lane for each core. Two things limit
lanes. Each holds feature maps, 15 MB at 320 x 320 pixels. And each image needs the interpreter,
which runs one thread at a time. With `MOST_LANES` it is about to be the limit. Cores beyond those
help whichever run asks.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_LANES = 32
"""Largest number of runs at a time (`benchmarks/cores.py`)."""

BATCH = 8
"""Images, or tiles of one image, of a batch, unless a caller asks for other batches."""


@dataclass(frozen=True)
class Sharing:
    """How runs share the cores.

    Attributes:
        cores: number of cores.
        lanes: number of runs at a time.
        threads: threads of a session: the one that calls it, and those that help all lanes.
        batches: number of batches in flight, so that no lane waits at the end of a batch.
    """

    cores: int
    lanes: int
    threads: int
    batches: int

    @classmethod
    def of(cls, cores: int) -> Sharing:
        """Return how so many cores are shared."""
        lanes = min(MOST_LANES, cores)
        return cls(cores, lanes, 1 + cores - lanes, 1 + -(-lanes // BATCH))
