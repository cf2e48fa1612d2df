"""Requests per second and latency of ``fre serve``, beside `predict_many` on the same images.

python benchmarks/serve.py MODEL IMAGES [--clients 1 8 32] [--seconds 20] [--json FILE]

Each client sends one image after another over one connection, as a camera would, and waits for the
answer; by then the result is on the service's disk. The images are files on disk that are read
before the clock starts; `predict_many` reads and decodes the same files.

The service and the clients, which are threads of one process, share the machine's cores, and
`predict_many` has them alone. So processor time is counted, too, for each of the three: the last
column is that of `predict_many`, divided by that of the service without its clients, for an image.
It is the share that a service reaches whose clients are other machines, and other programs on
this machine hardly change it. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from fre.images.decode import find_images
from fre.model import Model, load


def in_process(model: Model, images: list[Path], seconds: float) -> tuple[float, float]:
    """Images per second of `predict_many`, and its processor time for an image in milliseconds."""
    list(model.predict_many(images[:16]))
    began, processor = time.perf_counter(), time.process_time()
    done = 0
    for _ in model.predict_many(cycle(images)):
        done += 1
        if time.perf_counter() - began >= seconds:
            break
    elapsed, processor = time.perf_counter() - began, time.process_time() - processor
    return done / elapsed, 1000 * processor / done


def processor_seconds(process: int) -> float:
    """Processor time that another process has used, all threads together."""
    values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def service(model_path: Path, options: list[str]) -> Iterator[tuple[str, int]]:
    """Address and process of a service in a process of its own."""
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
            yield found.group(1), process.pid
        finally:
            process.terminate()
            process.wait(90)


def client(
    url: str, requests: list[bytes], start: threading.Barrier, seconds: float
) -> list[float]:
    """Send images until the time is over; the latencies."""
    place = urlsplit(url)
    latencies = []
    with socket.create_connection((place.hostname, place.port), timeout=120) as connection:
        start.wait()
        end = time.perf_counter() + seconds
        for request in cycle(requests):
            began = time.perf_counter()
            if began >= end:
                return latencies
            connection.sendall(request)
            answer = connection.recv(65536)
            while (size := length(answer)) is None or len(answer) < size:
                answer += connection.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.decode())
            latencies.append(time.perf_counter() - began)
    return latencies


def length(answer: bytes) -> int | None:
    """Of an answer that begins so, head and body; ``None`` while the head is not complete."""
    head, found, _ = answer.partition(b"\r\n\r\n")
    if not found:
        return None
    size = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    assert size is not None
    return len(head) + 4 + int(size.group(1))


def all_clients(
    url: str, images: list[Path], clients: int, seconds: float
) -> tuple[float, float, list[float]]:
    """The time that it took, the processor time of the clients, and the latencies of all."""
    requests = []
    for image in images:
        body = image.read_bytes()
        head = (
            f"POST /v1/models/part/predict HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    share = max(1, len(images) // clients)
    start = threading.Barrier(clients + 1, timeout=60)  # one that can't connect stops all
    with ThreadPoolExecutor(clients) as pool:
        running = [
            pool.submit(
                client, url, requests[number * share :] + requests[: number * share], start, seconds
            )
            for number in range(clients)
        ]
        start.wait()
        began, processor = time.perf_counter(), time.process_time()
        latencies = [latency for one in running for latency in one.result()]
        return time.perf_counter() - began, time.process_time() - processor, latencies


def over_http(
    url: str, served_by: int, images: list[Path], clients: int, seconds: float
) -> dict[str, float]:
    """Requests per second, latencies and processor times with so many clients at once."""
    before = processor_seconds(served_by)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        asked = process.submit(all_clients, url, images, clients, seconds)
        elapsed, processor, latencies = asked.result()
    used = processor_seconds(served_by) - before
    return {
        "clients": clients,
        "requests": len(latencies),
        "requests_per_second": len(latencies) / elapsed,
        "p50_ms": 1000 * float(np.quantile(latencies, 0.5)),
        "p99_ms": 1000 * float(np.quantile(latencies, 0.99)),
        "service_processor_ms": 1000 * used / len(latencies),
        "clients_processor_ms": 1000 * processor / len(latencies),
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
    model = load(arguments.model)
    alone: list[tuple[float, float]] = []
    served: dict[int, list[dict[str, float]]] = {clients: [] for clients in arguments.clients}
    for _ in range(arguments.repeats):
        # In turn, and each beside its own round: other guests of a machine slow all of a round.
        alone.append(in_process(model, images, arguments.seconds))
        for clients, runs in served.items():
            with service(arguments.model, arguments.option) as (url, process):
                over_http(url, process, images, min(clients, 4), 2.0)
                run = over_http(url, process, images, clients, arguments.seconds)
            rate, processor = alone[-1]
            run["share"] = run["requests_per_second"] / rate
            run["processor_share"] = processor / run["service_processor_ms"]
            runs.append(run)
    print(
        f"{len(images)} images of {arguments.images}, {os.cpu_count()} cores, "
        f"{arguments.repeats} rounds of {arguments.seconds:g} s: median, in brackets least and most"
    )
    rates, processor_times = zip(*alone, strict=True)
    print(
        f"predict_many, in process: {spread(rates, '.0f')} images/s, "
        f"{spread(processor_times, '.1f')} ms of a processor an image"
    )
    print(
        "\n| clients | requests/s | of predict_many | p50, ms | p99, ms | processor, service, ms "
        "| processor, clients, ms | predict_many / service, processor |"
    )
    print(f"|{' ---: |' * 8}")
    figures = {
        "requests_per_second": ".0f",
        "share": ".0%",
        "p50_ms": ".0f",
        "p99_ms": ".0f",
        "service_processor_ms": ".1f",
        "clients_processor_ms": ".2f",
        "processor_share": ".0%",
    }
    for clients, runs in served.items():
        cells = [spread([run[key] for run in runs], form) for key, form in figures.items()]
        print(f"| {clients} | {' | '.join(cells)} |")
    if arguments.json:
        document = {
            "predict_many_images_per_second": rates,
            "predict_many_processor_ms": processor_times,
            "serve": served,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def spread(values: Sequence[float], form: str) -> str:
    return f"{np.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
