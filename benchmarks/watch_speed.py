"""How fast the daemon is, and how quiet: the real program with the real networks.

    python -m benchmarks.watch_speed latency    close of a new photo to its sidecar, idle and during an import
    python -m benchmarks.watch_speed importing  photos per second while photos are copied in, against `rescan`
    python -m benchmarks.watch_speed idle       CPU, jobs and memory over 10 minutes with 100,000 known photos

Machines are noisy: `importing` alternates between both; the machine's load is printed with each result.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import skimage.data
from PIL import Image

from sidecar_faces.cli.wiring import models_of
from sidecar_faces.config import load
from sidecar_faces.core.types import FileSignature, Outcome
from sidecar_faces.library.presence import first_sights
from sidecar_faces.store import Record, Store
from tests.daemon.harness import jpeg


def photo(width: int) -> bytes:
    """The NASA portrait, square."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Image.fromarray(skimage.data.astronaut()).resize((width, width)).save(file.name, quality=90)
        return Path(file.name).read_bytes()


def environment(state: Path) -> dict[str, str]:
    """With a state folder of its own."""
    return {**os.environ, "SIDECAR_FACES_STATE_DIR": str(state)}


@contextmanager
def watching(root: Path, state: Path, *flags: str) -> Iterator[psutil.Process]:
    """`sidecar-faces watch` until the block ends."""
    command = [sys.executable, "-m", "sidecar_faces", "watch", *flags, str(root)]
    child = subprocess.Popen(command, env=environment(state), stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.send_signal(signal.SIGTERM)
        assert child.wait(120) == 0


def wait_for(path: Path, seconds: float = 600) -> float:
    """When a file appeared, on the monotonic clock."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.005)
    return time.monotonic()


def percentiles(times: list[float]) -> dict[str, float]:
    """Median and 95th percentile, seconds."""
    ordered = sorted(times)
    at = min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))
    return {
        "median_s": round(statistics.median(ordered), 2),
        "p95_s": round(ordered[at], 2),
        "n": len(ordered),
    }


def one(root: Path, name: str, data: bytes) -> float:
    """Seconds from the close of a new photo to its sidecar."""
    (root / name).write_bytes(data)
    closed = time.monotonic()
    return wait_for(root / f"{name}.xmp") - closed


def latency(work: Path, photos: int = 20, width: int = 2000, imported: int = 300) -> dict[str, Any]:
    """One photo at a time on an idle daemon; workers that rest; then in the middle of an import."""
    root, data = work / "photos", photo(width)
    root.mkdir()
    (root / "first.jpg").write_bytes(data)
    with watching(root, work / "state"):
        wait_for(root / "first.jpg.xmp")
        idle = [one(root, f"idle-{n}.jpg", data) for n in range(photos)]
        during: list[float] = []
        threads = [threading.Thread(target=_copy, args=(root / "import", imported, photo(800), 0.05))]
        threads += [
            threading.Thread(target=lambda n=n: during.append(one(root, f"during-{n}.jpg", data)))
            for n in range(photos)
        ]
        for thread in threads:  # photos of the import come all the time, single ones in between
            thread.start()
            time.sleep(imported * 0.05 / (photos + 1))
        for thread in threads:
            thread.join()
    (root / "gone.jpg").unlink(missing_ok=True)
    with watching(root, work / "state"):
        time.sleep(5)
        asleep = one(root, "asleep.jpg", data)
    return {
        "idle": percentiles(idle),
        "during_import": percentiles(during),
        "workers_asleep_s": round(asleep, 2),
    }


def _copy(folder: Path, count: int, data: bytes, pause: float) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(data)
        time.sleep(pause)


def importing(work: Path, photos: int = 400, width: int = 800, repeats: int = 3) -> dict[str, Any]:
    """Copy photos into a watched library; the same photos by `rescan`, at the same (idle) priority."""
    data, rates = photo(width), {"watch": [], "rescan": []}  # type: tuple[bytes, dict[str, list[float]]]
    for turn in range(repeats):
        root = work / f"watched-{turn}"
        root.mkdir()
        (root / "first.jpg").write_bytes(data)
        with watching(root, work / f"state-{turn}"):
            wait_for(root / "first.jpg.xmp")
            started = time.monotonic()
            _copy(root / "import", photos, data, 0.0)
            while sum(name.endswith(".faces.json") for name in os.listdir(root / "import")) < photos:
                time.sleep(0.05)
            rates["watch"].append(photos / (time.monotonic() - started))
        scanned = work / f"scanned-{turn}"
        _copy(scanned, photos, data, 0.0)
        started = time.monotonic()
        command = ["chrt", "--idle", "0", sys.executable, "-m", "sidecar_faces", "rescan", str(scanned)]
        subprocess.run(
            command, env=environment(work / f"scan-state-{turn}"), check=True, stdout=subprocess.DEVNULL
        )
        rates["rescan"].append(photos / (time.monotonic() - started))
    medians = {name: round(statistics.median(values), 2) for name, values in rates.items()}
    return {"photos": photos, **medians, "ratio": round(medians["watch"] / medians["rescan"], 2)}


def idle(work: Path, photos: int = 100_000, seconds: int = 600) -> dict[str, Any]:
    """Nothing happens: what the daemon does all the same."""
    root, state = work / "photos", work / "state"
    _known_library(root, state, photos)
    with watching(root, state) as process:
        store = Store(state / "state.sqlite3")
        while (store.watch(str(root)) or {}).get("state") != "idle":
            time.sleep(0.5)
        scanned = time.monotonic()
        time.sleep(75)  # exiftool ends a minute after the last work
        before, jobs = _cpu(process), _jobs(store, root)
        time.sleep(seconds)
        used, done = _cpu(process) - before, _jobs(store, root) - jobs
        memory = sum(p.memory_full_info().pss for p in [process, *process.children(recursive=True)])
        store.close()
    return {
        "photos": photos,
        "seconds": seconds,
        "cpu_percent_of_a_core": round(100 * used / seconds, 3),
        "jobs": done,
        "memory_mib": memory >> 20,
        "scan_s": round(scanned - process.create_time() + time.time() - time.monotonic(), 1),
    }


def _known_library(root: Path, state: Path, photos: int) -> None:
    """Small photos, and a store that knows them all."""
    data, models = jpeg(16, 16), models_of(load({}))
    store = Store(state / "state.sqlite3", commit_every=10_000)
    for number in range(photos):
        path = root / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        status = path.stat()
        signature = FileSignature(status.st_size, status.st_mtime_ns)
        store.put(Record(str(path), signature, models, Outcome.DONE))
    store.register(str(root))
    sight = first_sights([str(root)])[str(root)]
    store.set_home(str(root), sight.mount.point if sight.mount else "/")
    store.close()


def _cpu(process: psutil.Process) -> float:
    """Seconds of the process and of its children that ended: nothing else runs while it is idle."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _jobs(store: Store, root: Path) -> int:
    watch = store.watch(str(root)) or {}
    return int(watch["indexed"] + watch["unchanged"] + watch["quarantined"] + watch["refused"])


RUNS: dict[str, Callable[..., dict[str, Any]]] = {"latency": latency, "importing": importing, "idle": idle}


def main() -> None:
    """Parse flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", choices=[*RUNS])
    for size in ("photos", "width", "imported", "repeats", "seconds"):
        parser.add_argument(f"--{size}", type=int)
    options = vars(parser.parse_args())
    run = RUNS[options.pop("run")]
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="sidecar-faces-speed-") as folder:
        result = run(Path(folder), **{key: value for key, value in options.items() if value is not None})
    load = {"before": round(load_before, 1), "after": round(os.getloadavg()[0], 1)}
    print(json.dumps({**result, "machine_load": load, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
