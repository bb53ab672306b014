"""Photos per second and bytes sent per photo: the embedded engine, Triton both ways, and the notebook's way.

    python -m benchmarks.engines                     12-Mpx photos with 10 faces each, a local server; one
                                                     look at each photo, as the notebook takes
    python -m benchmarks.engines --detail normal     as by default, with a finer look where one is due
    python -m benchmarks.engines --photos 8 --turns 1
    python -m benchmarks.engines --url gpu-box:8001  another server, NVIDIA's container for example

All engines get the same photos, in turns within one run, ours in two processes as in a real run; the medians
of the turns are printed. The notebook's way decodes each photo once only to learn its shape, sends the whole
JPEG to `facenet_ensemble`, and then the whole JPEG again to `fpenet_ensemble` for every face, all of a
photo's faces at the same time, as the notebook did.
"""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import tritonclient.grpc as grpcclient
from PIL import Image

from benchmarks.triton_faults import ROOT, server_at, weights
from sidecar_faces.core.types import Batch, Photo
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.child import Factory
from sidecar_faces.engine.executors import ProcessExecutor
from sidecar_faces.engine.triton import Request, TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.triton_worker import Way as Side
from sidecar_faces.engine.triton_worker import open_worker
from sidecar_faces.engine.worker import LocalWorker
from sidecar_faces.library.probe import Limits, probe

FACES = 10
PROCESSES = 2
Way = Callable[[list[Photo]], int]
"""Runs photos; returns the faces found."""


def make_photos(folder: Path, count: int) -> list[Photo]:
    """12 megapixels, ten faces of 400 to 700 pixels, sensor noise."""
    rng = np.random.default_rng(3)
    face = Image.fromarray(skimage.data.astronaut()).crop((130, 0, 330, 230))
    made = []
    for number in range(count):
        canvas = Image.fromarray(skimage.data.rocket()).resize((4000, 3000))
        for place in range(FACES):
            side = 440 + 20 * ((place + number) % FACES)
            tile = face.resize((side, side * 230 // 200))
            canvas.paste(tile, (60 + place % 5 * 790, 300 + place // 5 * 1300))
        noisy = np.asarray(canvas, np.int16) + rng.normal(0, 5, (3000, 4000, 1)).astype(np.int16)
        path = folder / f"{number}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        made.append(probe(str(path), Limits()))
    return made


def batches(photos: list[Photo]) -> Iterator[Batch]:
    """As the pipeline makes them."""
    for start in range(0, len(photos), 8):
        yield Batch(tuple(photos[start : start + 8]))


def in_processes(executor: ProcessExecutor) -> Way:
    """An engine of ours."""

    def run(photos: list[Photo]) -> int:
        futures = [executor.submit(batch) for batch in batches(photos)]
        results = [result for future in futures for result in future.result(600)]
        assert all(result.failure is None for result in results), results
        return sum(len(result.faces) for result in results)

    return run


def bytes_sent(worker: Any, photos: list[Photo]) -> float:
    """Per photo, by a worker in this process."""
    with counted() as sent:
        for batch in batches(photos):
            worker.process(batch)
        return sent() / len(photos)


@contextmanager
def counted() -> Iterator[Callable[[], int]]:
    """Bytes of the input tensors of all requests of our client, through the network or shared memory."""
    total, lock = [0], threading.Lock()
    infer = TritonClient.infer

    def counting(self: TritonClient, request: Request) -> Any:
        with lock:
            total[0] += sum(value.nbytes for value in request.inputs.values())
        return infer(self, request)

    TritonClient.infer = counting  # type: ignore[method-assign]
    yield lambda: total[0]
    TritonClient.infer = infer  # type: ignore[method-assign]


def by_notebook(url: str) -> Way:
    """As the notebook's client does it."""
    client = grpcclient.InferenceServerClient(url)

    def ask(model: str, inputs: dict[str, Any], answers: queue.SimpleQueue[Any]) -> None:
        tensors = []
        for name, value in inputs.items():
            tensors.append(
                grpcclient.InferInput(name, value.shape, "UINT8" if value.dtype == np.uint8 else "INT32")
            )
            tensors[-1].set_data_from_numpy(value)
        client.async_infer(model, tensors, callback=lambda result, error: answers.put((result, error)))

    def run(photos: list[Photo]) -> int:
        faces = 0
        for photo in photos:
            data = np.frombuffer(Path(photo.path).read_bytes(), np.uint8)[None]
            with Image.open(photo.path) as image:
                image.load()  # for its shape
            answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
            ask("facenet_ensemble", {"input_image_data": data}, answers)
            result, error = answers.get(timeout=120)
            assert error is None, error
            found = result.as_numpy("true_boxes")[0][result.as_numpy("true_proba")[0, :, 0] >= 0.5]
            for box in np.rint(found).astype(np.int32):
                ask("fpenet_ensemble", {"raw_image_data": data, "true_boxes": box[None]}, answers)
            for _ in found:
                result, error = answers.get(timeout=120)
                assert error is None, error
                faces += result.as_numpy("softargmax").shape[0]
        return faces

    return run


def compare(ways: dict[str, Way], sizes: dict[str, float], photos: list[Photo], turns: int) -> None:
    """Take turns, print medians."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, float] = {}
    for way in ways.values():
        way(photos)  # start-up is not counted
    for _ in range(turns):
        for name, way in ways.items():
            some = photos[: len(photos) // 4] if name == "notebook" else photos
            started = time.perf_counter()
            faces = way(some)
            rates[name].append(len(some) / (time.perf_counter() - started))
            found[name] = faces / len(some)
    base = statistics.median(rates["notebook"])
    for name in ways:
        rate = statistics.median(rates[name])
        print(
            f"{name:16} {rate:6.2f} photos/s (min {min(rates[name]):.2f}, max {max(rates[name]):.2f})   "
            f"{rate / base:5.1f} x the notebook's   {sizes[name] / 2**20:6.2f} MiB sent per photo   "
            f"{found[name]:.1f} faces"
        )


def main() -> None:
    """Parse flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--detail", choices=["fast", "normal", "fine"], default="fast")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--server-python", default=str(ROOT / ".venv-server" / "bin" / "python"))
    parser.add_argument("--port", type=int, default=18501)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-faces-bench-") as name, ExitStack() as stack:
        url = options.url
        if url is None:
            start, is_well = server_at(Path(name), options.server_python, options.port)
            server, url = start(), f"127.0.0.1:{options.port}"
            stack.callback(server.stop)
            assert server.wait_ready(is_well, 120, threading.Event())
        measure(url, make_photos(Path(name), options.photos), options.detail, options.turns, stack)


def measure(url: str, photos: list[Photo], detail: str, turns: int, stack: ExitStack) -> None:
    """Make the engines and compare them."""
    files = weights()
    settings = EngineSettings(str(files["centerface"].parent), detail=detail, landmarks=str(files["fpenet"]))
    triton = TritonSettings((url,))
    ways: dict[str, Way] = {}
    sizes = {"local": 0.0, "notebook": (1 + FACES) * statistics.mean(os.path.getsize(p.path) for p in photos)}
    factories: dict[str, Factory] = {"local": LocalWorker}
    chosen: Side
    for chosen in ("client", "server"):
        factories[f"triton ({chosen})"] = partial(open_worker, triton, chosen)
        sizes[f"triton ({chosen})"] = bytes_sent(open_worker(triton, chosen, settings), photos[:4])
    for name, factory in factories.items():
        executor = ProcessExecutor(settings, PROCESSES, 600, factory)
        stack.callback(executor.close)
        ways[name] = in_processes(executor)
    compare({**ways, "notebook": by_notebook(url)}, sizes, photos, turns)


if __name__ == "__main__":
    main()
