"""Photos per second of decoding to the network's size: Pillow, DALI on the CPU and, where there is one, on
the GPU; and of DALI's decoder alone, which leaves whole photos where they are.

    python -m benchmarks.decoders                    12-Mpx photos, decoded for the first look at them
    python -m benchmarks.decoders --photos 64 --turns 5

One thread of Pillow (a worker has no more) and one DALI pipeline of two, batches of eight, in turns; medians.
What `benchmarks.engines` says of `triton (client)` on the same machine is to be held against them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.engines import batches, make_photos
from sidecar_faces.core.types import Photo
from sidecar_faces.engine.dali_graphs import Pipeline, decoded
from sidecar_faces.engine.decode_dali import BATCH, DaliDecoder, has_gpu
from sidecar_faces.engine.passes import views
from sidecar_faces.engine.triton_worker import BatchDecoder, PillowDecoder

Way = Callable[[tuple[Photo, ...]], None]
"""Decodes a batch."""


def ways(detail: str) -> dict[str, Way]:
    """By name."""
    devices = {"CPU": None, "GPU": 0} if has_gpu() else {"CPU": None}
    found = {"Pillow": to_network(PillowDecoder(), detail)}
    for name, device in devices.items():
        found[f"DALI, {name}"] = to_network(DaliDecoder(device), detail)
        found[f"DALI, {name}, decoder alone"] = whole(device)
    return found


def to_network(decoder: BatchDecoder, detail: str) -> Way:
    """As a worker decodes for its first look."""

    def run(photos: tuple[Photo, ...]) -> None:
        contents = [views(photo.displayed, detail)[0].letterbox.content for photo in photos]
        images = decoder.decode(photos, [max(size.width, size.height) for size in contents])
        assert all(isinstance(image, np.ndarray) for image in images), images
        assert not getattr(decoder, "fallbacks", 0), "decoded by Pillow"

    return run


def whole(device: int | None) -> Way:
    """Every pixel, and nothing else."""
    pipeline = Pipeline(batch_size=BATCH, num_threads=2, device_id=device, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(*decoded("cpu" if device is None else "mixed"))
    pipeline.build()

    def run(photos: tuple[Photo, ...]) -> None:
        pipeline.feed_input("image_data", [np.fromfile(photo.path, np.uint8) for photo in photos])
        images, _ = pipeline.run()
        assert tuple(images[0].shape()) == (photos[0].stored.height, photos[0].stored.width, 3)

    return run


def rate(way: Way, photos: list[Photo]) -> float:
    """Photos per second."""
    started = time.perf_counter()
    for batch in batches(photos):
        way(batch.photos)
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
    all_ways = ways(options.detail)
    with tempfile.TemporaryDirectory(prefix="sidecar-faces-bench-") as folder:
        photos = make_photos(Path(folder), options.photos)
        for way in all_ways.values():  # pipelines are built, which is not counted
            rate(way, photos[:8])
        rates: dict[str, list[float]] = {name: [] for name in all_ways}
        for _ in range(options.turns):
            for name, way in all_ways.items():
                rates[name].append(rate(way, photos))
    for name, some in rates.items():
        print(f"{name:25} {statistics.median(some):7.2f} photos/s (min {min(some):.2f}, max {max(some):.2f})")
    if not has_gpu():
        print("DALI, GPU: not measured, there is no GPU here")


if __name__ == "__main__":
    main()
