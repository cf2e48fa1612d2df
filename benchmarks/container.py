"""How large is the container's image, and how soon does it give its first score?

    docker build -f deploy/Dockerfile -t fre .
    python benchmarks/container.py MODEL IMAGE [--turns 5] [--name fre]

Prints the size of the image, and the seconds from `run`, with the options of deploy/compose.yaml,
to the score of the first request. `--engine podman` takes Podman. `--engine` and `--options` may
hold several words, for machines whose kernel or network allows less.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

TOKEN = "a-token-of-this-benchmark"
PATIENCE = 120
HARDENED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


def ask(port: int, image: Path) -> str | None:
    """Return the answer to a first request; ``None`` while nobody listens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/models/part/predict",
        image.read_bytes(),
        {"Content-Type": "application/octet-stream", "Authorization": f"Bearer {TOKEN}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()
    except ConnectionError:
        return None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError):
            return None
        raise


def first_score(
    engine: list[str], options: list[str], name: str, folder: Path, image: Path
) -> float:
    """Return the seconds from the start of a container to the score of its first request."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*engine, "run", "--rm", "--detach", *HARDENED, "--env", f"FRE_TOKEN={TOKEN}"]
    command += ["--publish", f"127.0.0.1:{port}:{port}", "--volume", f"{folder}:/models", *options]
    command += [name, "fre", "serve", "/models", "--host", "0.0.0.0", "--port", str(port)]
    start = time.perf_counter()
    container = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    try:
        while (answer := ask(port, image)) is None:
            if time.perf_counter() - start > PATIENCE:
                raise TimeoutError(f"no answer within {PATIENCE} s: {engine[0]} logs {container}")
            time.sleep(0.05)
        seconds = time.perf_counter() - start
    finally:
        subprocess.run([*engine, "rm", "--force", container], check=True, stdout=subprocess.DEVNULL)
    assert '"score"' in answer, answer
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--name", default="fre")
    parser.add_argument("--engine", default="docker", type=shlex.split)
    parser.add_argument("--options", default="", type=shlex.split)
    given = parser.parse_args()
    inspect = [*given.engine, "image", "inspect", "--format", "{{.Size}}", given.name]
    size = int(subprocess.run(inspect, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"image: {size / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o777)  # the service runs as another user
        shutil.copy(given.model, folder / "part.onnx")
        (folder / "part.onnx").chmod(0o644)
        seconds = [
            first_score(given.engine, given.options, given.name, folder, given.image)
            for _ in range(given.turns)
        ]
    print(
        f"first score: {median(seconds):.1f} s after `run` "
        f"({min(seconds):.1f} to {max(seconds):.1f}, {len(seconds)} turns)"
    )


if __name__ == "__main__":
    main()
