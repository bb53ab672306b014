"""A worker that does to its process what a photo's name says: faults that the real one does not show."""

from __future__ import annotations

import os
import signal
import threading

from sidecar_faces.core.frames import StoredBox
from sidecar_faces.core.types import Batch, Face, FaceResult, Photo
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.errors import ModelError

GROWTH = bytearray()


class FaultyWorker:
    """`settings.models` says how it starts; the box of each face holds the process id."""

    def __init__(self, settings: EngineSettings) -> None:
        if settings.models == "missing":
            raise ModelError("No model; run `sidecar-faces models install`.")
        if settings.models == "broken":
            raise ZeroDivisionError("broken")
        if settings.models == "dies":
            os._exit(3)

    def process(self, batch: Batch) -> tuple[FaceResult, ...]:
        return tuple(map(self._one, batch.photos))

    def _one(self, photo: Photo) -> FaceResult:
        name = os.path.basename(photo.path)
        if name.startswith("abort"):
            os.abort()
        if name.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith("exit"):
            os._exit(7)
        if name.startswith("hang"):
            threading.Event().wait()
        if name.startswith("raise"):
            raise ZeroDivisionError(name)
        if name.startswith("interrupt"):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        if name.startswith("grow"):
            GROWTH.extend(b"x" * (1200 << 20))
        return FaceResult(photo, (Face(StoredBox(os.getpid(), 0, 1, 1), 1.0, None),))
