"""Training and scoring on a Ray cluster.

Ray Data decides what runs where, retries, and limits the queues. This room defines the pieces of
work, each of which may safely be done twice.

- ``cluster``: joins or starts a cluster, and configures Ray.
- ``training``: the two passes of training.
- ``scoring`` and ``shards``: scoring into files.
"""

from __future__ import annotations

from fre.distributed.cluster import Cluster
from fre.distributed.scoring import ShardedResult, predict
from fre.distributed.shards import FORMATS
from fre.distributed.training import RayFit

__all__ = ["FORMATS", "Cluster", "RayFit", "ShardedResult", "predict"]
