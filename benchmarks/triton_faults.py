"""A server that is restarted again and again while a library is indexed: nothing lost, nothing doubled.

    python -m benchmarks.triton_faults                        2,000 photos, 50 restarts
    python -m benchmarks.triton_faults --photos 200 --restarts 5 --way client

The real program indexes small photos with one face each on a real Triton. Half of the restarts are kills,
half are asked for. At the end every photo must have been indexed once and every sidecar hold one region, and
a second run must find nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image

from sidecar_faces.config import load
from sidecar_faces.engine.triton import TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.models import require
from sidecar_faces.triton_repository import Composition, compose
from sidecar_faces.triton_server import Server, ServerSettings, find, prepare

ROOT = Path(__file__).resolve().parents[1]


def weights() -> dict[str, Path]:
    """The ONNX files of the models."""
    bundled = ROOT / "sidecar_faces" / "models"
    centerface = require(load({}).models_dir, "centerface")
    return {
        "centerface": centerface,
        "fpenet": bundled / "fpenet80.onnx",
        "fpenet104": bundled / "fpenet104.onnx",
    }


def server_at(work: Path, python: str, grpc_port: int) -> Any:
    """A function that starts a server, and one that tells whether it answers."""
    installation = find(python)
    prepare(installation, work / "triton")
    repository = compose(work / "triton" / "repository", Composition(weights(), instances=2))
    settings = ServerSettings(
        repository, work / "triton", grpc_port=grpc_port, http_port=grpc_port + 1, metrics_port=grpc_port + 2
    )
    client = TritonClient(TritonSettings((f"127.0.0.1:{grpc_port}",), attempts=1, shared_memory=False))
    return (lambda: Server(installation, settings, lambda _: None)), client.is_well


def make_library(folder: Path, count: int) -> None:
    """Photos that differ, with one face each."""
    portrait = Image.fromarray(skimage.data.astronaut()).crop((120, 0, 320, 200))
    for number in range(count):
        path = folder / f"{number // 200:03}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        portrait.resize((160 + number % 40, 160 + number % 40)).save(path, quality=80 + number % 15)


def rescan(folder: Path, state: Path, *flags: str) -> subprocess.Popen[str]:
    """The real program."""
    command = [sys.executable, "-m", "sidecar_faces", "rescan", "--json", *flags, str(folder)]
    environment = {**os.environ, "SIDECAR_FACES_STATE_DIR": str(state)}
    with open(f"{state}.out", "w") as out, open(f"{state}.err", "w") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, text=True, env=environment)


def report_of(run: subprocess.Popen[str], state: Path) -> tuple[Any, str]:
    """Its result and what it said, once it has ended."""
    run.wait()
    return json.loads(Path(f"{state}.out").read_text()), Path(f"{state}.err").read_text()


def sidecars(folder: Path) -> dict[str, tuple[int, int]]:
    """Regions and modification time of each sidecar."""
    found = {}
    for path in folder.rglob("*.xmp"):
        found[str(path)] = (path.read_text("utf-8").count("<mwg-rs:Type>"), path.stat().st_mtime_ns)
    return found


def restart_often(
    server: Server, start: Any, is_well: Any, run: subprocess.Popen[str], folder: Path, options: Any
) -> int:
    """Restart the server whenever another part of the library is done; how often."""
    dice, restarts = random.Random(5), 0
    never = threading.Event()
    step = options.photos // (options.restarts + 2)
    while run.poll() is None:
        server.wait_ready(is_well, 90, never)
        due = (restarts + 1) * step
        while run.poll() is None and len(list(folder.rglob("*.xmp"))) < due:
            time.sleep(0.2)
        if run.poll() is None and restarts < options.restarts:
            server.kill() if dice.random() < 0.5 else server.stop()
            restarts += 1
            server = start()
        elif restarts >= options.restarts:
            break
    run.wait()
    server.stop()
    return restarts


def main() -> None:
    """Run, and assert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--restarts", type=int, default=50)
    parser.add_argument("--way", choices=["client", "server"], default="server")
    parser.add_argument("--server-python", default=str(ROOT / ".venv-server" / "bin" / "python"))
    parser.add_argument("--port", type=int, default=18401)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-faces-faults-") as name:
        work = Path(name)
        folder = work / "photos"
        make_library(folder, options.photos)
        start, is_well = server_at(work, options.server_python, options.port)
        first = start()
        first.wait_ready(is_well, 90, threading.Event())
        url = f"127.0.0.1:{options.port}"
        flags = (
            "--engine",
            "triton",
            "--triton-url",
            url,
            "--triton-decode",
            options.way,
            "--detail",
            "fast",
        )
        began = time.perf_counter()
        run = rescan(folder, work / "state", *flags)
        restarts = restart_often(first, start, is_well, run, folder, options)
        report, errors = report_of(run, work / "state")
        seconds = time.perf_counter() - began
        known = sidecars(folder)
        doubled = sum(regions != 1 for regions, _ in known.values())
        print(
            f"{report['indexed']} of {options.photos} indexed in {seconds:.0f} s, {restarts} restarts; "
            f"{report['quarantined']} quarantined, {options.photos - len(known)} lost, {doubled} with other "
            f"than one region; said {errors.count('Waiting for it.')} times that it waits, "
            f"{errors.count('The engine is back.')} times that it goes on"
        )
        for reason, count in Counter(problem["reason"] for problem in report["problems"]).most_common(5):
            print(f"  {count} times: {reason}")
        again = rescan(folder, work / "state", "--engine", "local", "--detail", "fast")
        second, _ = report_of(again, work / "state")
        touched = sum(known[path] != now for path, now in sidecars(folder).items())
        print(f"second run, embedded engine: {second['unchanged']} unchanged, {touched} sidecars touched")
        assert report["indexed"] == len(known) == second["unchanged"] == options.photos
        assert doubled == touched == report["quarantined"] == 0


if __name__ == "__main__":
    main()
