"""Faults that a daemon meets in months, made in minutes. What is tested is what happens around the inference,
whose place a fixed answer takes; files, sidecars, mounts, signals and the kernel's limits are real.

    python -m benchmarks.watch_faults burst     60,000 files at once over 500 nested folders: are any missed
    python -m benchmarks.watch_faults limit     100 inotify watches for 500 folders
    python -m benchmarks.watch_faults slow      200 writers that pause: how many files are read early
    python -m benchmarks.watch_faults unmount   20 unmounts in mid-work: writes into the bare mount point
    python -m benchmarks.watch_faults kill      1,000 SIGKILLs: torn, lost, doubled
    python -m benchmarks.watch_faults full      a file system that is full, and later is not

Each prints one line of JSON and fails where a promise is broken. `limit` and `unmount` need root or user
namespaces; they run in namespaces of their own, so that the machine keeps its limits and mounts.
"""

from __future__ import annotations

import argparse
import ctypes
import heapq
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from sidecar_faces.core.settle import Timing
from sidecar_faces.daemon.state import State
from sidecar_faces.sidecar.read import read_document
from tests.daemon.harness import FAST, FixedExecutor, jpeg, watched

Result = dict[str, Any]

_BURST = """
import os, sys
root, first, last, folders, data = sys.argv[1], *map(int, sys.argv[2:5]), bytes.fromhex(sys.argv[5])
for number in range(first, last):
    n = number % folders
    folder = os.path.join(root, f"{n % 10}", f"{n // 10 % 10}", f"{n // 100}")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"none-{number}.jpg"), "wb") as file:
        file.write(data)
"""


def burst(work: Path, files: int = 60_000, folders: int = 500) -> Result:
    """Two processes create files as fast as they can while the daemon watches."""
    root = work / "photos"
    root.mkdir()
    (root / "first.jpg").write_bytes(jpeg())
    options = replace(FAST, timing=Timing(quiet=1, unmarked=5, longest=60, give_up=60))
    with capture_logs(), watched(work / "state", root, options=options) as daemon:
        daemon.until_idle()
        started = time.monotonic()
        data, half = jpeg(16, 16).hex(), files // 2
        parts = [(0, half), (half, files)]
        writers = [
            subprocess.Popen([sys.executable, "-c", _BURST, str(root), *map(str, part), str(folders), data])
            for part in parts
        ]
        for writer in writers:
            assert writer.wait() == 0
        created = time.monotonic() - started
        done = _until_calm(lambda: daemon.store.counts(str(root))["done"], files + 1)
        seen = Counter(daemon.executor.seen)
        return {
            "files": files,
            "missed": files + 1 - done,
            "twice": sum(count > 1 for count in seen.values()),
            "seconds_to_create": round(created, 1),
            "seconds_to_index": round(time.monotonic() - started, 1),
            "scans": daemon.status().counts.scans,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }


def _until_calm(count: Callable[[], int], wanted: int, patience: float = 30) -> int:
    """Wait until all are there, or nothing more came for a while; how many there are."""
    seen, since = count(), time.monotonic()
    while seen < wanted and time.monotonic() - since < patience:
        time.sleep(0.2)
        if (now := count()) != seen:
            seen, since = now, time.monotonic()
    return seen


def limit(work: Path, watches: int = 100, folders: int = 500) -> Result:
    """In a user namespace with few inotify watches: photos of all folders are found, and it is said once."""
    Path("/proc/sys/user/max_inotify_watches").write_text(str(watches))
    root = work / "photos"
    for number in range(folders):
        (root / f"{number:03}").mkdir(parents=True)
    (root / "first.jpg").write_bytes(jpeg())
    with capture_logs() as logs, watched(work / "state", root, options=replace(FAST, poll_every=2)) as daemon:
        daemon.until_idle()
        for number in range(folders):
            (root / f"{number:03}" / "none.jpg").write_bytes(jpeg())
        done = _until_calm(lambda: daemon.store.counts(str(root))["done"], folders + 1)
        said = sum("limit" in str(entry["event"]) or "watched" in str(entry["event"]) for entry in logs)
        note = daemon.status().note
    return {"folders": folders, "watches": watches, "missed": folders + 1 - done, "said": said, "note": note}


def slow(work: Path, copies: int = 200, quiet: float = 0.5) -> Result:
    """Writers that pause for up to five times the quiet time, in every way that files are written."""
    root = work / "photos"
    root.mkdir()
    data, dice = jpeg(200, 150), random.Random(1)
    executor, early = FixedExecutor(), []
    finished: set[str] = set()
    executor.on_read = lambda path: None if path in finished else early.append(path)
    options = replace(FAST, timing=Timing(quiet=quiet, unmarked=5 * quiet, longest=60, give_up=120))
    with capture_logs(), watched(work / "state", root, options=options, executor=executor) as daemon:
        plan = [(dice.uniform(0, 5), n, _writer(root / f"{n}.jpg", data, dice, quiet)) for n in range(copies)]
        heapq.heapify(plan)
        started = time.monotonic()
        while plan:
            when, number, steps = heapq.heappop(plan)
            time.sleep(max(0.0, started + when - time.monotonic()))
            pause = next(steps, None)
            if pause is None:
                finished.add(str(root / f"{number}.jpg"))
            else:
                heapq.heappush(plan, (when + pause, number, steps))
        done = _until_calm(lambda: daemon.store.counts(str(root))["done"], copies)
    return {
        "copies": copies,
        "early": len(early),
        "missed": copies - done,
        "twice": len(executor.seen) - done,
    }


def _writer(path: Path, data: bytes, dice: random.Random, quiet: float) -> Any:
    """Yields the pauses of one writer; `path` is complete when it ends. The last step closes the file."""
    way = dice.choice(["append", "reopen", "sized", "rename"])
    target = path.with_name(f".{path.name}.part") if way == "rename" else path
    cuts = sorted(dice.sample(range(1, len(data) - 1), 4))
    with open(target, "wb", buffering=0) as file:
        if way == "sized":
            file.truncate(len(data))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            yield dice.uniform(0, 5 * quiet)
            if way == "reopen":
                with open(target, "ab", buffering=0) as again:
                    again.write(data[start:end])
            else:
                file.write(data[start:end])
    if way == "rename":
        target.rename(path)


_libc = ctypes.CDLL(None, use_errno=True)
_BIND, _LAZY = 4096, 2


def _mount(source: Path, target: Path) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, _BIND, None):
        raise OSError(ctypes.get_errno(), f"cannot mount {target}")


def _unmount(target: Path) -> None:
    """As a person does it: at once where it is not busy, else lazily."""
    if _libc.umount2(os.fsencode(target), 0) and _libc.umount2(os.fsencode(target), _LAZY):
        raise OSError(ctypes.get_errno(), f"cannot unmount {target}")


def unmount(work: Path, cycles: int = 20) -> Result:
    """Unmount a library while its photos are worked on; something lies in the bare folder, to mislead."""
    disk, root = work / "disk", work / "photos"
    disk.mkdir()
    root.mkdir()
    (root / "stray.jpg").write_bytes(jpeg())
    _mount(disk, root)
    dice, added = random.Random(1), 0
    inside: set[str] = set()
    with capture_logs(), watched(work / "state", root) as daemon:
        for _ in range(cycles):
            for _ in range(30):
                (root / f"{added}.jpg").write_bytes(jpeg())
                added += 1
            time.sleep(dice.uniform(0.2, 1.2))
            _unmount(root)
            daemon.until(lambda: daemon.status().state is State.OFFLINE)
            time.sleep(0.2)
            inside |= set(os.listdir(root))
            _mount(disk, root)
        done = _until_calm(lambda: daemon.store.counts(str(root))["done"], added)
        kept = daemon.store.counts(str(root))
    _unmount(root)
    inside |= set(os.listdir(root))
    return {
        "unmounts": cycles,
        "written_into_mountpoint": len(inside - {"stray.jpg"}),
        "missed": added - done,
        "quarantined": kept["quarantined"],
        "photos": added,
    }


def kill(work: Path, kills: int = 1000) -> Result:
    """SIGKILL a daemon at any moment while photos come in, then let one finish and look at everything."""
    root = work / "photos"
    root.mkdir()
    dice, added = random.Random(1), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            _serve(work, root)
        until = time.monotonic() + dice.uniform(0.02, 1.5)
        while time.monotonic() < until:
            (root / f"{added}.jpg").write_bytes(jpeg())
            added += 1
            time.sleep(dice.uniform(0.05, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with capture_logs(), watched(work / "state", root) as daemon:
        done = _until_calm(lambda: daemon.store.counts(str(root))["done"], added)
        daemon.until_settled()
    regions = Counter(_regions(root / f"{number}.jpg.xmp") for number in range(added))
    stores = [name for name in os.listdir(work / "state") if ".corrupt-" in name]
    return {
        "kills": kills,
        "photos": added,
        "lost": added - done + regions[0],
        "torn": regions[-1],
        "doubled": sum(count for number, count in regions.items() if number > 1),
        "corrupt_stores": len(stores),
    }


def _serve(work: Path, root: Path) -> None:
    os.setsid()
    try:
        with capture_logs(), watched(work / "state", root):
            threading.Event().wait()
    finally:
        os._exit(1)


def _regions(sidecar: Path) -> int:
    """Regions of a sidecar; -1 where it is torn, 0 where it is absent."""
    try:
        return len(read_document(str(sidecar), sidecar.read_bytes()).regions)
    except FileNotFoundError:
        return 0
    except Exception:
        return -1


def full(work: Path, photos: int = 200) -> Result:
    """A file system of 2 MB fills up: the daemon pauses, and goes on when there is room."""
    root = work / "photos"
    root.mkdir()
    if _libc.mount(b"tmpfs", os.fsencode(root), b"tmpfs", 0, b"size=2m"):
        raise OSError(ctypes.get_errno(), "cannot mount")
    data = jpeg(16, 16)
    for number in range(photos):
        (root / f"{number}.jpg").write_bytes(data)
    ballast = root / "ballast.bin"
    ballast.write_bytes(b"")
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            file.truncate(os.fstat(file.fileno()).st_size - 40 * 4096)  # room for a few
    with capture_logs(), watched(work / "state", root) as daemon:
        daemon.until(lambda: daemon.status().state is State.PAUSED)
        at_first = daemon.store.counts(str(root))
        torn = [n for n in range(photos) if _regions(root / f"{n}.jpg.xmp") == -1]
        ballast.unlink()
        _libc.mount(b"tmpfs", os.fsencode(root), b"tmpfs", 32, b"size=20m")  # MS_REMOUNT: a bigger disk
        done = _until_calm(lambda: daemon.store.counts(str(root))["done"], photos)
        quarantined = daemon.store.counts(str(root))["quarantined"]
    _unmount(root)
    return {
        "photos": photos,
        "done_before_full": at_first["done"],
        "torn": len(torn),
        "missed": photos - done,
        "quarantined": quarantined,
    }


_NAMESPACES = {
    "limit": ["--user", "--map-root-user"],
    "unmount": ["--mount"],
    "full": ["--mount"],
}
_ZERO = (
    "missed",
    "early",
    "written_into_mountpoint",
    "lost",
    "torn",
    "doubled",
    "quarantined",
    "corrupt_stores",
)
RUNS: dict[str, Callable[..., Result]] = {
    "burst": burst,
    "limit": limit,
    "slow": slow,
    "unmount": unmount,
    "kill": kill,
    "full": full,
}


def command(name: str, **sizes: int) -> list[str]:
    """The command line of a run, in the namespaces that it needs."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in sizes.items()]
    inside = [sys.executable, "-m", "benchmarks.watch_faults", name, "--inside", *flags]
    return ["unshare", *_NAMESPACES[name], *inside] if name in _NAMESPACES else inside


def main() -> int:
    """Parse flags and run."""
    warnings.filterwarnings("ignore", module="watchdog")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", choices=[*RUNS])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    for size in ("files", "folders", "watches", "copies", "cycles", "kills", "photos"):
        parser.add_argument(f"--{size}", type=int)
    options = vars(parser.parse_args())
    name, inside = options.pop("run"), options.pop("inside")
    sizes = {key: value for key, value in options.items() if value is not None}
    if not inside and name in _NAMESPACES:
        return subprocess.run(command(name, **sizes), check=False).returncode
    with tempfile.TemporaryDirectory(prefix="sidecar-faces-faults-") as folder:
        result = RUNS[name](Path(folder), **sizes)
    print(json.dumps({"run": name, **result}))
    broken = {key: result[key] for key in _ZERO if result.get(key)}
    if broken or result.get("said", 1) != 1:
        print(f"broken: {broken or 'said more than once'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
