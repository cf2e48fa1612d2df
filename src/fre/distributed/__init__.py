"""The same work on many machines, by Ray: training in two passes, and scoring into shards.

What runs where, what is tried again, and how much may wait is Ray Data's. What is here says what
there is to do in pieces that can be done twice without harm.
"""

from __future__ import annotations

from fre.distributed.cluster import Cluster
from fre.distributed.scoring import ShardedResult, predict
from fre.distributed.shards import FORMATS
from fre.distributed.training import RayFit

__all__ = ["FORMATS", "Cluster", "RayFit", "ShardedResult", "predict"]
