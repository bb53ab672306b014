"""Photos per second, end to end, against decoding alone; memory; and the time to find nothing new.

    python benchmarks/throughput.py                   12-Mpx photos: fast and normal against decode-only
    python benchmarks/throughput.py --many 100000     a library of small photos: peak memory, unchanged rescan

Everything runs on copies in a temporary folder, with a state folder of its own. Decode-only and the
indexing runs alternate within one call, and medians are printed: machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import skimage.data
from PIL import Image

from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.library.probe import Limits, probe


def make_photos(folder: Path, count: int) -> list[str]:
    """12-Mpx JPEGs of 4 to 5 MB, as cameras write them: enlarged, with sensor noise, one face each."""
    rng = np.random.default_rng(1)
    portrait, scene = Image.fromarray(skimage.data.astronaut()), Image.fromarray(skimage.data.rocket())
    folder.mkdir(parents=True)
    made = []
    for number in range(min(count, 8)):
        canvas = scene.resize((4000, 3000))
        canvas.paste(portrait.resize((1200, 1200)), (300 + 200 * number, 500))
        noisy = np.asarray(canvas, np.int16) + rng.normal(0, 6, (3000, 4000, 1)).astype(np.int16)
        path = folder / f"{number}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        made.append(path)
    for number in range(len(made), count):
        shutil.copy(made[number % len(made)], folder / f"{number}.jpg")
    return [str(folder / f"{number}.jpg") for number in range(count)]


def _decode(path: str) -> int:
    return int(decode(probe(path, Limits()), long_side=640).shape[0])


def decode_only(photos: list[str], workers: int) -> float:
    """Photos per second of the scaled decode alone, in as many processes as the run has workers."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_decode, photos[:workers]))  # start-up is not counted
        started = time.perf_counter()
        list(pool.map(_decode, photos, chunksize=4))
        return len(photos) / (time.perf_counter() - started)


def peak_memory(child: subprocess.Popen[str]) -> list[int]:
    """Polls the resident memory of a process and its children; the list's last item is the peak so far."""
    peak = [0]

    def poll() -> None:
        while child.poll() is None:
            try:
                root = psutil.Process(child.pid)
                total = sum(p.memory_full_info().pss for p in [root, *root.children(recursive=True)])
                peak.append(max(peak[-1], total))
            except psutil.Error:
                pass
            time.sleep(0.2)

    threading.Thread(target=poll, daemon=True).start()
    return peak


def rescan(folder: Path, state: Path, *flags: str) -> dict[str, Any]:
    """One `sidecar-faces rescan --json` as a process of its own."""
    command = [sys.executable, "-m", "sidecar_faces", "rescan", "--json", *flags, str(folder)]
    environment = {**os.environ, "SIDECAR_FACES_STATE_DIR": str(state)}
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak = peak_memory(child)
    output, _ = child.communicate()
    seconds = time.perf_counter() - started
    return {**json.loads(output), "wall": seconds, "peak_mib": max(peak) / 2**20}


def fresh(folder: Path) -> None:
    """Remove what a run wrote."""
    for name in os.listdir(folder):
        if not name.endswith(".jpg"):
            (folder / name).unlink()


def large(work: Path, count: int, repeats: int, workers: int) -> None:
    """12-Mpx photos."""
    folder = work / "large"
    photos = make_photos(folder, count)
    rates: dict[str, list[float]] = {"decode-only": [], "fast": [], "normal": []}
    memory = 0.0
    for turn in range(repeats):
        rates["decode-only"].append(decode_only(photos, workers))
        for detail in ("fast", "normal"):
            fresh(folder)
            result = rescan(
                folder, work / f"state-{turn}-{detail}", "--detail", detail, "--workers", str(workers)
            )
            assert result["indexed"] == count, result
            rates[detail].append(count / result["seconds"])
            memory = max(memory, result["peak_mib"])
    base = statistics.median(rates["decode-only"])
    for name, values in rates.items():
        ratios = [value / pair for value, pair in zip(values, rates["decode-only"], strict=True)]
        print(
            f"{name:12} {statistics.median(values):6.1f} photos/s   "
            f"{statistics.median(ratios):.2f} of decode-only"
            f"   (min {min(values):.1f}, max {max(values):.1f})"
        )
    print(f"peak memory of all processes: {memory:.0f} MiB; {count} photos, {repeats} turns, {base:.1f} base")


def many(work: Path, count: int) -> None:
    """A library of small photos."""
    folder = work / "many"
    portrait = Image.fromarray(skimage.data.astronaut())
    with_face, without = work / "face.jpg", work / "none.jpg"
    portrait.crop((120, 0, 320, 200)).resize((160, 160)).save(with_face)
    Image.fromarray(skimage.data.coffee()).resize((160, 107)).save(without)
    for number in range(count):
        target = folder / f"{number // 500:04}" / f"{number:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(with_face if number % 10 == 0 else without, target)
    for turn in ("first run", "unchanged"):
        result = rescan(folder, work / "state-many", "--detail", "fast")
        print(
            f"{turn}: {result['photos']} photos, {result['indexed']} indexed, {result['faces']} faces in "
            f"{result['wall']:.1f} s, {result['photos'] / result['wall']:.0f} photos/s, "
            f"peak memory {result['peak_mib']:.0f} MiB",
            flush=True,
        )


def main() -> None:
    """Parse flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--many", type=int, metavar="N", help="index N small photos instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-faces-bench-") as name:
        if options.many:
            many(Path(name), options.many)
        else:
            large(Path(name), options.photos, options.repeats, options.workers)


if __name__ == "__main__":
    main()
