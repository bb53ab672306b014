"""What stands between a run and a library that may go away at any moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sidecar_faces.core.types import FaceResult, FileSignature, Outcome
from sidecar_faces.errors import DiskFullError
from sidecar_faces.library.mounts import free_bytes
from sidecar_faces.library.presence import Sentry
from sidecar_faces.log import printable
from sidecar_faces.pipeline import Ended, Writer

_FRESH_S = 5.0
_LOOK_S = 15.0
_POLL_S = 0.1
_MOST_SUSPECTS = 10_000


class OfflineError(Exception):
    """The library went away; what was under way is dropped, and no photo is blamed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Folders that are written to, and how many bytes must stay free there."""

    folders: tuple[str, ...]
    min_free: int

    def check(self) -> None:
        """Raises DiskFullError where less is free."""
        for folder in self.folders:
            free = free_bytes(_existing(folder))
            if free < self.min_free:
                told = f"{free >> 20} MiB are free, less than the {self.min_free >> 20} MiB to keep"
                raise DiskFullError(f"{printable(folder)}: {told}.")


def _existing(folder: str) -> str:
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


@dataclass(frozen=True, slots=True)
class GuardedWriter:
    """Writes only where the library is still there and room is left; tells what was written."""

    inner: Writer
    sentry: Sentry
    place: Place
    on_written: Callable[[str], None]

    def write(self, result: FaceResult) -> int:
        """As Writer; raises OfflineError and DiskFullError, too."""
        path = result.photo.path
        if not self.sentry.is_here():
            raise OfflineError(path)
        self.place.check()
        before = self.inner.stamp(path)
        faces = self.inner.write(result)
        if self.inner.stamp(path) != before:
            self.on_written(path)
        return faces

    def stamp(self, path: str) -> str:
        return self.inner.stamp(path)

    def recall(self, path: str, signature: FileSignature) -> int | None:
        return self.inner.recall(path, signature)

    def is_incomplete(self, path: str) -> bool:
        return self.inner.is_incomplete(path)


@dataclass(frozen=True, slots=True)
class Blame:
    """A stage before the store: a photo is to blame for a second failure, while its library is there.

    For a failure a fresh look is asked for, at most one in five seconds: a share that stopped answering fails
    photo after photo before anybody else notices. The first failure of a version is not remembered: `again`
    is told to bring the photo back, as the library may have been away for a moment that nobody saw.
    """

    sentry: Sentry
    again: Callable[[str], None]
    suspects: dict[str, FileSignature | None]

    def __call__(self, items: Iterator[Ended]) -> Iterator[Ended]:
        for ended in items:
            if ended.record is not None and ended.outcome is Outcome.QUARANTINED:
                self._confirm()
                if self._is_first(ended.path, ended.record.signature):
                    self.again(ended.path)
                    continue
            yield ended

    def _is_first(self, path: str, signature: FileSignature | None) -> bool:
        if path in self.suspects and self.suspects.pop(path) == signature:
            return False
        if len(self.suspects) >= _MOST_SUSPECTS:
            self.suspects.pop(next(iter(self.suspects)))
        self.suspects[path] = signature
        return True

    def _confirm(self) -> None:
        asked = time.monotonic()
        if asked - self.sentry.looked_at > _FRESH_S:
            self.sentry.hurry()
            while self.sentry.looked_at < asked and time.monotonic() < asked + _LOOK_S:
                time.sleep(_POLL_S)
        if not self.sentry.is_here():
            raise OfflineError(self.sentry.root)
