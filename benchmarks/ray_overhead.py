"""Two Ray nodes of one core each against one process on two cores: same work, same machine.

    python benchmarks/ray_overhead.py DATASET --images 1500 --scored 4500

Files are repeated until there are as many as asked for. The cluster is there before the clock
starts; that workers start and load the network is part of the time, some seconds whatever the
number of images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np

import fre
from fre.datasets import training_images
from fre.detector import FRE
from fre.distributed import Cluster, RayFit, predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="to train on")
    parser.add_argument("--scored", type=int, help="as many as to train on, if not given")
    parser.add_argument("--size", type=int)
    parser.add_argument("--shard-size", type=int, default=100)
    asked = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(fre.__file__).parents[1])
    from ray.cluster_utils import Cluster as Processes

    found = [Path(path) for path in training_images(asked.dataset)]
    files = list(islice(cycle(found), asked.images))
    scored = list(islice(cycle(found), asked.scored or asked.images))
    node = {"num_cpus": 1, "object_store_memory": 10**9}
    processes = Processes(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    processes.add_node(**node)
    cluster = Cluster(processes.address)
    detector = FRE(preset="default", size=asked.size, memory=1e-9)
    try:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            one = detector.fit(files)
            alone = time.perf_counter() - began
            began = time.perf_counter()
            many = detector.fit(files, stream=RayFit(cluster))
            _print("train", asked.images, alone, time.perf_counter() - began)
            gap = np.abs(one.calibration.scores - many.calibration.scores).max()
            print(f"largest difference of a calibration score: {gap:.2e}")

            began = time.perf_counter()
            lines = [json.dumps(prediction.to_dict()) for prediction in one.predict_many(scored)]
            (Path(folder) / "predictions.jsonl").write_text("\n".join(lines))
            alone = time.perf_counter() - began
            began = time.perf_counter()
            listed = Path(folder) / "list.txt"
            listed.write_text("\n".join(str(file.absolute()) for file in scored))
            predict(
                one, [listed], Path(folder) / "out", cluster=cluster, shard_size=asked.shard_size
            )
            _print("predict", len(scored), alone, time.perf_counter() - began)
    finally:
        for started in [*processes.worker_nodes, processes.head_node]:
            processes.remove_node(started, allow_graceful=False)


def _print(what: str, n: int, alone: float, many: float) -> None:
    print(
        f"{what}: one process {alone:.1f} s ({n / alone:.1f} images/s), two Ray nodes {many:.1f} s "
        f"({n / many:.1f} images/s), overhead {many / alone - 1:+.1%}"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
