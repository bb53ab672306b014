"""The stages of a run, and two runners for them.

A stage is a function from an iterator to an iterator. `run_sequential` chains the stages in one thread
(tests, debugging); `run_threaded` gives each a thread, with bounded queues between them, so that reading
headers, detecting and writing overlap. An exception in any stage ends the run and is raised again.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sidecar_faces.core.batching import Batcher
from sidecar_faces.core.types import Batch, FaceResult, Failure, FailureKind, FileSignature, Outcome, Photo
from sidecar_faces.engine.base import Executor
from sidecar_faces.errors import (
    DiskFullError,
    LibraryError,
    PhotoRefusedError,
    SidecarFacesError,
    ToolMissingError,
)
from sidecar_faces.library.probe import Limits, probe
from sidecar_faces.library.scan import Candidate, signature_of
from sidecar_faces.store import Record, Store

Stage = Callable[[Iterator[Any]], Iterator[Any]]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one photo ended; `record` is what the store shall remember, None where it knows already."""

    path: str
    outcome: Outcome
    reason: str = ""
    faces: int = 0
    record: Record | None = None


@dataclass(slots=True)
class Summary:
    """The counts of a run; every photo seen is in exactly one of the first four."""

    unchanged: int = 0
    indexed: int = 0
    quarantined: int = 0
    refused: int = 0
    with_faces: int = 0
    faces: int = 0

    @property
    def seen(self) -> int:
        return self.unchanged + self.indexed + self.quarantined + self.refused

    def add(self, ended: Ended) -> None:
        """Count one photo."""
        match ended.outcome:
            case Outcome.UNCHANGED:
                self.unchanged += 1
            case Outcome.DONE:
                self.indexed += 1
                self.faces += ended.faces
                self.with_faces += ended.faces > 0
            case Outcome.QUARANTINED:
                self.quarantined += 1
            case Outcome.REFUSED:
                self.refused += 1


class Writer(Protocol):
    """Merges what was found into the sidecar; the one place that writes into a library."""

    def write(self, result: FaceResult) -> int:
        """Faces of the photo that stand in its sidecar afterwards. Raises SidecarFacesError."""
        ...

    def stamp(self, path: str) -> str:
        """What tells one state of the photo's sidecar from another, without reading it."""
        ...

    def recall(self, path: str, signature: FileSignature) -> int | None:
        """Faces written by an earlier run with the same models, where only the store was lost."""
        ...

    def is_incomplete(self, path: str) -> bool:
        """Whether a region of ours is missing from the sidecar (for `--restore`)."""
        ...


@dataclass(frozen=True, slots=True)
class Select:
    """Leave out what is known; read the headers of the rest."""

    store: Store
    writer: Writer
    models: str
    limits: Limits
    force: bool = False
    restore: bool = False

    def __call__(self, candidates: Iterator[Candidate]) -> Iterator[Photo | Ended]:
        for candidate in candidates:
            known = None if self.force else self._known(candidate)
            yield known or self._probe(candidate)

    def _known(self, candidate: Candidate) -> Ended | None:
        path, signature = candidate.path, candidate.signature
        record = self.store.get(path)
        if record is None or record.signature != signature or signature is None:
            return self._recalled(candidate) if record is None else None
        if record.outcome is Outcome.REFUSED:
            return Ended(path, Outcome.REFUSED, record.reason)
        if record.models != self.models:
            return None
        if record.outcome is Outcome.QUARANTINED:
            fixed = record.sidecar and record.sidecar != self.writer.stamp(path)
            return None if fixed else Ended(path, Outcome.QUARANTINED, record.reason)
        if self.restore and self.writer.is_incomplete(path):
            return None
        return Ended(path, Outcome.UNCHANGED, faces=record.faces)

    def _recalled(self, candidate: Candidate) -> Ended | None:
        if candidate.signature is None or self.restore:
            return None
        faces = self.writer.recall(candidate.path, candidate.signature)
        if faces is None:
            return None
        record = Record(candidate.path, candidate.signature, self.models, Outcome.DONE, faces=faces)
        return Ended(candidate.path, Outcome.UNCHANGED, faces=faces, record=record)

    def _probe(self, candidate: Candidate) -> Photo | Ended:
        try:
            return probe(candidate.path, self.limits)
        except LibraryError as error:
            refused = isinstance(error, PhotoRefusedError)
            outcome = Outcome.REFUSED if refused else Outcome.QUARANTINED
            # models="" matches no run: what could not be read is looked at again each time, which is cheap
            record = Record(candidate.path, candidate.signature, "", outcome, str(error), tries=1)
            return Ended(candidate.path, outcome, str(error), record=record)


def batch_up(
    make_batcher: Callable[[], Batcher], stopped: Callable[[], bool], linger: float = float("inf")
) -> Stage:
    """Group photos by shape; once stopped, photos that wait are left to the next run.

    A group that is not full leaves after `linger` seconds if anything else comes by, or at the end.
    """

    def stage(items: Iterator[Photo | Ended]) -> Iterator[Batch | Ended]:
        batcher = make_batcher()
        for item in items:
            now = time.monotonic()
            yield from batcher.overdue(now - linger)
            if isinstance(item, Ended):
                yield item
            elif (batch := batcher.add(item, now)) is not None:
                yield batch
        if not stopped():
            yield from batcher.flush()

    return stage


@dataclass(frozen=True, slots=True)
class Infer:
    """Hand batches to the executor, a bounded number in flight; try failed photos again, alone.

    Once `stopped`, what is in flight is finished, and batches that wait are left to the next run.
    """

    executor: Executor
    max_tries: int = 2
    stopped: Callable[[], bool] = lambda: False

    def __call__(self, items: Iterator[Batch | Ended]) -> Iterator[FaceResult | Ended]:
        flying: deque[Any] = deque()
        for item in items:
            if isinstance(item, Ended):
                yield item
                continue
            if self.stopped():
                continue
            flying.append(self.executor.submit(item))
            while flying and (len(flying) >= self.executor.capacity or flying[0].done()):
                yield from self._settled(flying.popleft().result())
        while flying:
            yield from self._settled(flying.popleft().result())

    def _settled(self, results: Iterable[FaceResult]) -> Iterator[FaceResult]:
        for first in results:
            result = first
            for _ in range(self.max_tries - 1):
                if not _may_pass(result.failure):
                    break
                (result,) = self.executor.submit(Batch((result.photo,))).result()
            yield result


def _may_pass(failure: Failure | None) -> bool:
    return failure is not None and failure.kind is FailureKind.FAILED


@dataclass(frozen=True, slots=True)
class Write:
    """Merge results into sidecars."""

    writer: Writer
    models: str
    max_tries: int = 2

    def __call__(self, items: Iterator[FaceResult | Ended]) -> Iterator[Ended]:
        for item in items:
            yield item if isinstance(item, Ended) else self._write(item)

    def _write(self, result: FaceResult) -> Ended:
        photo = result.photo
        if result.failure is not None:
            refused = result.failure.kind is FailureKind.REFUSED
            return self._end(
                photo, Outcome.REFUSED if refused else Outcome.QUARANTINED, result.failure.reason
            )
        try:
            faces = self.writer.write(result)
        except (DiskFullError, ToolMissingError):
            raise  # no photo's fault: none would fare better
        except SidecarFacesError as error:
            stamp = self.writer.stamp(photo.path)
            return self._end(photo, Outcome.QUARANTINED, str(error), sidecar=stamp)
        return self._end(photo, Outcome.DONE, faces=faces)

    def _end(
        self, photo: Photo, outcome: Outcome, reason: str = "", faces: int = 0, sidecar: str = ""
    ) -> Ended:
        tries = self.max_tries if outcome is Outcome.QUARANTINED else 1
        # a failure says nothing about a photo that changed or vanished meanwhile: it is looked at again
        stands = outcome is Outcome.DONE or signature_of(photo.path) == photo.signature
        models = self.models if stands else ""
        record = Record(photo.path, photo.signature, models, outcome, reason, tries, faces, sidecar)
        return Ended(photo.path, outcome, reason, faces, record)


def remember(store: Store) -> Stage:
    """Record how photos ended."""

    def stage(items: Iterator[Ended]) -> Iterator[Ended]:
        for ended in items:
            if ended.record is not None:
                store.put(ended.record)
            yield ended

    return stage


def forget_vanished(store: Store, root: str, is_here: Callable[[], bool] = lambda: True) -> int:
    """Drop records of photos that are gone from a library that is there; returns how many.

    `is_here` is asked after looking: a library may go away meanwhile.
    """
    if not os.path.isdir(root) or not os.listdir(root):
        return 0  # an unmounted library looks like this: a missing library never means "all deleted"
    gone = [record.path for record in store.below(root) if not os.path.lexists(record.path)]
    if not is_here():
        return 0
    store.forget(gone)
    return len(gone)


def run_sequential(source: Iterable[Any], stages: Iterable[Stage]) -> Iterator[Any]:
    """Chain the stages in this thread."""
    items = iter(source)
    for stage in stages:
        items = stage(items)
    yield from items


class _AbortedError(Exception):
    """Another stage failed; its exception is the one to raise."""


_END = object()
_POLL_S = 0.1


def _drain(inbox: queue.Queue[Any], abort: threading.Event) -> Iterator[Any]:
    while True:
        try:
            item = inbox.get(timeout=_POLL_S)
        except queue.Empty:
            if abort.is_set():
                raise _AbortedError from None
            continue
        if item is _END:
            return
        yield item


def _fill(outbox: queue.Queue[Any], item: object, abort: threading.Event) -> None:
    while not abort.is_set():
        try:
            return outbox.put(item, timeout=_POLL_S)
        except queue.Full:
            continue
    raise _AbortedError


def run_threaded(source: Iterable[Any], stages: Iterable[Stage], queue_size: int = 64) -> Iterator[Any]:
    """Give the source and each stage a thread; results are yielded in the caller's thread."""
    abort, errors = threading.Event(), queue.SimpleQueue[BaseException]()

    def work(items: Iterator[Any], outbox: queue.Queue[Any]) -> None:
        try:
            for item in items:
                _fill(outbox, item, abort)
            _fill(outbox, _END, abort)
        except _AbortedError:
            pass
        except BaseException as error:
            errors.put(error)
            abort.set()

    boxes: list[queue.Queue[Any]] = [queue.Queue(queue_size)]
    sources = [iter(source)]
    for stage in stages:
        sources.append(stage(_drain(boxes[-1], abort)))
        boxes.append(queue.Queue(queue_size))
    threads = [
        threading.Thread(target=work, args=(items, box), daemon=True)
        for items, box in zip(sources, boxes, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield from _drain(boxes[-1], abort)
    except _AbortedError:
        pass
    finally:
        abort.set()
        for thread in threads:
            thread.join()
    if not errors.empty():
        raise errors.get()
