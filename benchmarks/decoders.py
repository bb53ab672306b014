"""Photos per second of decoding alone: Pillow, DALI on the CPU, and DALI on the GPU where there is one.

    python -m benchmarks.decoders                    12-Mpx photos, decoded for the first look at them
    python -m benchmarks.decoders --photos 64 --turns 5

One thread of Pillow (a worker has no more) and one DALI pipeline of two, batches of eight, in turns; medians.
What `benchmarks.engines` says of `triton (client)` on the same machine is to be held against the last line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.engines import batches, make_photos
from sidecar_faces.core.types import Photo
from sidecar_faces.engine.decode_dali import DaliDecoder, has_gpu
from sidecar_faces.engine.passes import views
from sidecar_faces.engine.triton_worker import BatchDecoder, PillowDecoder


def decoders() -> dict[str, BatchDecoder]:
    """By name."""
    found: dict[str, BatchDecoder] = {"Pillow": PillowDecoder(), "DALI, CPU": DaliDecoder(None)}
    return {**found, "DALI, GPU": DaliDecoder(0)} if has_gpu() else found


def rate(decoder: BatchDecoder, photos: list[Photo], detail: str) -> float:
    """Photos per second."""
    started = time.perf_counter()
    for batch in batches(photos):
        contents = [views(photo.displayed, detail)[0].letterbox.content for photo in batch.photos]
        images = decoder.decode(batch.photos, [max(size.width, size.height) for size in contents])
        assert all(isinstance(image, np.ndarray) for image in images), images
    return len(photos) / (time.perf_counter() - started)


def main() -> None:
    """Parse flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--detail", choices=["fast", "normal", "fine"], default="normal")
    options = parser.parse_args()
    ways = decoders()
    with tempfile.TemporaryDirectory(prefix="sidecar-faces-bench-") as folder:
        photos = make_photos(Path(folder), options.photos)
        for decoder in ways.values():  # pipelines are built, which is not counted
            rate(decoder, photos[:8], options.detail)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.turns):
            for name, decoder in ways.items():
                rates[name].append(rate(decoder, photos, options.detail))
    for name, some in rates.items():
        print(f"{name:10} {statistics.median(some):7.2f} photos/s (min {min(some):.2f}, max {max(some):.2f})")
    if "DALI, GPU" not in ways:
        print("DALI, GPU  not measured: no GPU here")


if __name__ == "__main__":
    main()
