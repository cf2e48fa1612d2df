"""Requests per second and latency of ``fre serve``, beside `predict_many` on the same images.

python benchmarks/serve.py MODEL IMAGES [--clients 1 8 32] [--seconds 20] [--json FILE]

Each client is a process that sends one image after another over one connection, as a camera would,
and waits for the answer, which is on the service's disk by then. The images are files on disk that
are read before the clock starts; `predict_many` reads and decodes the same files. The service and
the clients share the machine's cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from fre.images import find_images
from fre.model import load


def in_process(model_path: Path, images: list[Path], seconds: float, repeats: int) -> list[float]:
    """Images per second of `predict_many`, once for each repeat."""
    model = load(model_path)
    list(model.predict_many(images[:16]))
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        done = 0
        for _ in model.predict_many(cycle(images)):
            done += 1
            if time.perf_counter() - began >= seconds:
                break
        found.append(done / (time.perf_counter() - began))
    return found


@contextmanager
def service(model_path: Path, options: list[str]) -> Iterator[str]:
    """The address of a service in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model_path, Path(folder, "part.onnx"))
        process = subprocess.Popen(
            [sys.executable, "-m", "fre", "serve", folder, "--port", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"the page is at (\S+)", line)
            if found is None:
                raise SystemExit(f"the service did not start: {line}{process.stderr.read()}")
            yield found.group(1)
        finally:
            process.terminate()
            process.wait(90)


def client(
    url: str, images: list[Path], offset: int, start: Any, seconds: float, results: Any
) -> None:
    """Send images until the time is over; put the latencies into the queue."""
    data = [path.read_bytes() for path in images]
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
    headers = {"Content-Type": "application/octet-stream"}
    latencies = []
    start.wait()
    end = time.perf_counter() + seconds
    for body in islice(cycle(data), offset % len(data), None):
        began = time.perf_counter()
        if began >= end:
            break
        connection.request("POST", "/v1/models/part/predict", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}: {text.decode()}")
        latencies.append(time.perf_counter() - began)
    results.put(latencies)


def over_http(url: str, images: list[Path], clients: int, seconds: float) -> dict[str, float]:
    """Requests per second and latencies with so many clients at once."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    start = context.Barrier(clients + 1)
    share = max(1, len(images) // clients)
    workers = [
        context.Process(target=client, args=(url, images, number * share, start, seconds, results))
        for number in range(clients)
    ]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    latencies = np.concatenate([np.asarray(results.get()) for _ in workers])
    elapsed = time.perf_counter() - began
    for worker in workers:
        worker.join()
    return {
        "clients": clients,
        "requests": len(latencies),
        "requests_per_second": len(latencies) / elapsed,
        "p50_ms": 1000 * float(np.quantile(latencies, 0.5)),
        "p99_ms": 1000 * float(np.quantile(latencies, 0.99)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=128, help="images to use at most")
    parser.add_argument("--option", action="append", default=[], help="passed on to fre serve")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = find_images(arguments.images)[: arguments.limit]
    alone = in_process(arguments.model, images, arguments.seconds, arguments.repeats)
    rows = []
    for clients in arguments.clients:
        runs = []
        for _ in range(arguments.repeats):
            with service(arguments.model, arguments.option) as url:
                over_http(url, images, min(clients, 4), 2.0)
                runs.append(over_http(url, images, clients, arguments.seconds))
        runs.sort(key=lambda run: run["requests_per_second"])
        rows.append(runs[len(runs) // 2])
    median = float(np.median(alone))
    print(
        f"{len(images)} images of {arguments.images}, {os.cpu_count()} cores, median of "
        f"{arguments.repeats} runs of {arguments.seconds:g} s"
    )
    print(f"predict_many, in process: {median:.1f} images/s")
    print("\n| clients | requests/s | of predict_many | p50, ms | p99, ms |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        print(
            f"| {row['clients']} | {row['requests_per_second']:.1f} | "
            f"{row['requests_per_second'] / median:.0%} | {row['p50_ms']:.1f} | "
            f"{row['p99_ms']:.1f} |"
        )
    if arguments.json:
        document = {"predict_many_images_per_second": alone, "serve": rows}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
