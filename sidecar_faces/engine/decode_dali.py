"""Decode batches of photos by DALI, on the GPU where there is one; what it cannot decode, Pillow is asked
for.

DALI fails a whole batch for one bad image and may be unusable afterwards: so bytes are looked at first,
stripped of metadata (which has crashed nvJPEG), and a batch that fails is bisected in a fresh pipeline.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import ImageFormat, Photo
from sidecar_faces.engine import decode_pillow
from sidecar_faces.engine.base import Image
from sidecar_faces.engine.child import fresh_interpreter
from sidecar_faces.engine.encoded import reduction, strip, tiny_photo, upright
from sidecar_faces.errors import PhotoFailedError, PhotoRefusedError

Decoded = Image | PhotoFailedError | PhotoRefusedError
"""An upright image, or why there is none."""

BATCH = 8
_PIPELINES = 3
_ASK_S = 60.0
_WHOLE_PIXELS = 64_000_000
"""DALI decodes every pixel; larger photos go to Pillow, which decodes a fraction of them."""


def has_gpu() -> bool:
    """Whether a CUDA driver with a device is there."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def refusal() -> str:
    """Why DALI cannot decode on the GPU, "" where it can; asked in a process that keeps no GPU's memory."""
    command = fresh_interpreter(
        "from sidecar_faces.engine.decode_dali import DaliDecoder; print(DaliDecoder(0).refusal())"
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_S, check=True)
    except subprocess.TimeoutExpired:
        return f"no photo is decoded within {_ASK_S:g} s"
    except subprocess.CalledProcessError as error:
        said: list[str] = error.stderr.strip().splitlines()
        return said[-1] if said else f"its process ends with {error.returncode}"
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class _Job:
    index: int
    photo: Photo
    data: NDArray[np.uint8]
    factor: int


class DaliDecoder:
    """Pipelines by shape class, so that one large photo does not keep its buffers for all that follow.

    `device`: a GPU's number, or None for the CPU (the same pipeline, for tests). `batch`: photos decoded at
    once.
    """

    def __init__(self, device: int | None, batch: int = BATCH, threads: int = 2) -> None:
        self._device, self._batch, self._threads = device, batch, threads
        self._pipelines: OrderedDict[int, Any] = OrderedDict()
        self.fallbacks = 0
        """Photos that Pillow was asked for."""

    def refusal(self) -> str:
        """Why not even a tiny photo can be decoded, so that each would be left to Pillow; "" where it can."""
        try:
            _outputs(_build(self._device, 1, self._threads), [tiny_photo()], [1])
        except RuntimeError as error:
            return str(error).strip().split("\n")[0]
        return ""

    def decode(self, photos: Sequence[Photo], long_sides: Sequence[int]) -> list[Decoded]:
        """Per photo an upright image, reduced as `decode_pillow.decode` does, or why there is none."""
        results: list[Decoded | None] = [None] * len(photos)
        classes: dict[int, list[_Job]] = {}
        for index, (photo, long_side) in enumerate(zip(photos, long_sides, strict=True)):
            job = self._job(index, photo, long_side)
            if isinstance(job, _Job):
                classes.setdefault(photo.stored.pixels.bit_length(), []).append(job)
            else:
                results[index] = job
        for shape_class, jobs in classes.items():
            for start in range(0, len(jobs), self._batch):
                for job, image in self._run(shape_class, jobs[start : start + self._batch]):
                    results[job.index] = upright(image, job.photo.orientation)
        return [
            self._by_pillow(photo, side) if result is None else result
            for photo, side, result in zip(photos, long_sides, results, strict=True)
        ]

    def _job(
        self, index: int, photo: Photo, long_side: int
    ) -> _Job | PhotoFailedError | PhotoRefusedError | None:
        """What DALI shall decode; None for what it shall not."""
        if photo.format is not ImageFormat.JPEG or photo.stored.pixels > _WHOLE_PIXELS:
            return None
        try:
            data = strip(_read(photo))
        except (PhotoFailedError, PhotoRefusedError) as error:
            return error
        factor = reduction(photo.stored, long_side)
        return _Job(index, photo, np.frombuffer(data, np.uint8), factor)

    def _run(self, shape_class: int, jobs: Sequence[_Job]) -> list[tuple[_Job, Image]]:
        """Images of those that DALI can decode; the others are left out."""
        try:
            images = self._images(self._pipeline(shape_class), jobs)
        except RuntimeError:
            self._pipelines.pop(shape_class, None)
            if len(jobs) == 1:
                return []
            middle = len(jobs) // 2
            return [*self._run(shape_class, jobs[:middle]), *self._run(shape_class, jobs[middle:])]
        # another size than the header's: DALI found another image in the file than the probe did
        return [(job, image) for job, image in zip(jobs, images, strict=True) if image is not None]

    def _images(self, pipeline: Any, jobs: Sequence[_Job]) -> list[Image | None]:
        images, shapes = _outputs(pipeline, [job.data for job in jobs], [job.factor for job in jobs])
        images = images.as_cpu() if self._device is not None else images
        found: list[Image | None] = []
        for row, job in enumerate(jobs):
            height, width = (int(value) for value in np.asarray(shapes.at(row))[:2])
            found.append(np.array(images.at(row)) if Size(width, height) == job.photo.stored else None)
        return found

    def _pipeline(self, shape_class: int) -> Any:
        """The pipeline of a shape class; the least recently used one makes room."""
        if shape_class in self._pipelines:
            self._pipelines.move_to_end(shape_class)
            return self._pipelines[shape_class]
        while len(self._pipelines) >= _PIPELINES:
            self._pipelines.popitem(last=False)
        self._pipelines[shape_class] = _build(self._device, self._batch, self._threads)
        return self._pipelines[shape_class]

    def _by_pillow(self, photo: Photo, long_side: int) -> Decoded:
        self.fallbacks += 1
        try:
            return decode_pillow.decode(photo, long_side=long_side)
        except (PhotoFailedError, PhotoRefusedError) as error:
            return error


def _read(photo: Photo) -> bytes:
    with decode_pillow.opened(photo) as file:
        if not decode_pillow.has_end(file):
            raise PhotoFailedError("is cut off in its data")
        file.seek(0)
        return file.read()


def _outputs(pipeline: Any, encoded: Sequence[NDArray[np.uint8]], factors: Sequence[int]) -> Any:
    pipeline.feed_input("image_data", list(encoded))
    pipeline.feed_input("factor", [np.array(factor, np.int64) for factor in factors])
    return pipeline.run()


def _build(device: int | None, batch: int, threads: int) -> Any:
    """A pipeline that holds one batch: it is bounded by what is fed to it."""
    from sidecar_faces.engine import dali_graphs  # noqa: PLC0415 - imports DALI, which takes a second

    pipeline = dali_graphs.Pipeline(
        batch_size=batch,
        num_threads=threads,
        device_id=device,
        prefetch_queue_depth=1,
    )
    with pipeline:
        pipeline.set_outputs(*dali_graphs.reduced("cpu" if device is None else "mixed"))
    pipeline.build()
    return pipeline
