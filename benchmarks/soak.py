"""Run a service on a 25 fps RTSP stream while stream, broker and webhook go away and come back.

Three times each, the RTSP server, the MQTT broker and the receiver of the webhook are stopped for a
while. At the end, frames and messages are counted on both sides, and memory is compared.

Example: python benchmarks/soak.py --minutes 10
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import fre
from line_peers import Mosquitto, Receiver, Rtsp, Subscriber, pixels_of, write_video
from serving import Server

TOPIC = "line1/part"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="duration")
    parser.add_argument("--away", type=float, default=8.0, help="seconds that a peer is away")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def outages(peers: dict[str, Any], seconds: float, away: float) -> None:
    """Stop each peer three times, one after another, over the given time."""
    plan = [name for _ in range(3) for name in peers]
    pause = max(0.0, seconds / len(plan) - away)
    for name in plan:
        time.sleep(pause / 2)
        print(f"{time.strftime('%H:%M:%S')} {name} stops", flush=True)
        peers[name].stop()
        time.sleep(away)
        peers[name].start()
        print(f"{time.strftime('%H:%M:%S')} {name} is back", flush=True)
        time.sleep(pause / 2)


def received(messages: list[dict[str, Any]]) -> dict[str, int]:
    """Counts of one receiver."""
    ids = Counter(message["id"] for message in messages)
    return {
        "messages": len(messages),
        "different ids": len(ids),
        "repeated with their id": sum(n - 1 for n in ids.values()),
        "marked redelivered": sum(bool(message.get("redelivered")) for message in messages),
    }


def frame_counts(log: list[str]) -> dict[str, int]:
    """The counts that the service said when it ended."""
    last = next(line for line in reversed(log) if "frames taken" in line)
    names = {"taken": "frames taken", "dropped": "dropped, because", "damaged": "damaged"}
    found = {name: re.search(rf"([\d,]+) {text}", last) for name, text in names.items()}
    found["reconnects"] = re.search(r"came back (\d+) times", last)
    return {name: int(hit[1].replace(",", "")) if hit else 0 for name, hit in found.items()}


def soak(folder: Path, minutes: float, away: float) -> dict[str, Any]:
    seconds = 60 * minutes
    # Longer than the soak: the server plays it from the beginning for each connection.
    video = write_video(folder / "part.mp4", int(25 * (seconds + 60)))
    good = [pixels_of(seed) for seed in range(1, 60) if seed % 10]
    model = fre.FRE(size=64, false_alarm_rate=0.05).fit(good).save(folder / "part.onnx")
    memory: list[float] = []
    ended = threading.Event()
    with Mosquitto(folder) as broker, Receiver() as receiver, Rtsp(video) as stream:
        subscriber = Subscriber(broker.port, TOPIC)
        options = ["--source", stream.url, "--keep", "50", "--to", receiver.url]
        options += ["--to", f"mqtt://127.0.0.1:{broker.port}/{TOPIC}"]
        with Server(model, "--data", folder / "data", *options) as server:

            def measure() -> None:
                while not ended.wait(2):
                    memory.append(server.memory() / 2**20)

            threading.Thread(target=measure, daemon=True).start()
            outages({"stream": stream, "broker": broker, "webhook": receiver}, seconds, away)
            stream.stop()
            rows = -1
            while rows != (rows := server.client.get("/v1/results").json()["total"]):
                time.sleep(1)
            end = time.monotonic() + 60
            while time.monotonic() < end and not (
                rows <= len({m["id"] for m in receiver.got})
                and rows <= len({m["id"] for m in subscriber.got.get(TOPIC, [])})
            ):
                time.sleep(0.2)
            ended.set()
        frames = frame_counts(server.log)
        subscriber.close()
    quarter = max(1, len(memory) // 4)
    return {
        "minutes": minutes,
        "frames": {**frames, "scored": rows},
        "webhook": received(receiver.got),
        "mqtt": received(subscriber.got.get(TOPIC, [])),
        "mqtt states": Counter(m["state"] for m in subscriber.got[f"{TOPIC}/state"]),
        "memory in MB, second and last quarter": [
            round(statistics.median(memory[quarter : 2 * quarter]), 1),
            round(statistics.median(memory[-quarter:]), 1),
        ],
        "said": [line.strip() for line in server.log if "source:" in line],
    }


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(Path(folder), options.minutes, options.away)
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    frames = figures["frames"]
    lost = frames["taken"] - frames["dropped"] - frames["damaged"] - frames["scored"]
    whole = all(figures[name]["different ids"] == frames["scored"] for name in ("webhook", "mqtt"))
    print(f"frames unaccounted for: {lost}; every result delivered to both receivers: {whole}")
    sys.exit(0 if lost == 0 and whole else 1)


if __name__ == "__main__":
    main()
