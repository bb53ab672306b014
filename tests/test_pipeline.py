"""Stages and runners: the same results in both runners, exceptions in each position, queues of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sidecar_faces.core.batching import Batcher
from sidecar_faces.core.frames import Size, StoredBox
from sidecar_faces.core.types import (
    Batch,
    Face,
    FaceResult,
    Failure,
    FailureKind,
    FileSignature,
    ImageFormat,
    Outcome,
    Photo,
)
from sidecar_faces.errors import DiskFullError, SidecarError, ToolMissingError
from sidecar_faces.library.probe import Limits
from sidecar_faces.library.scan import scan
from sidecar_faces.pipeline import (
    Ended,
    Infer,
    Select,
    Stage,
    Summary,
    Write,
    batch_up,
    forget_vanished,
    remember,
    run_sequential,
    run_threaded,
)
from sidecar_faces.store import Store

Runner = Callable[[Any, list[Stage]], Iterator[Any]]
RUNNERS = [run_sequential, run_threaded, partial(run_threaded, queue_size=1)]
runners = pytest.mark.parametrize("run", RUNNERS, ids=["sequential", "threaded", "queue-of-one"])


def double(items: Iterator[int]) -> Iterator[int]:
    for item in items:
        yield item
        yield item


def add_one(items: Iterator[int]) -> Iterator[int]:
    for item in items:
        yield item + 1


@runners
def test_runners_keep_order(run: Runner) -> None:
    assert list(run(range(100), [double, add_one])) == [n + 1 for n in range(100) for _ in "ab"]


@runners
@pytest.mark.parametrize("position", range(4))
def test_an_exception_anywhere_ends_the_run(run: Runner, position: int) -> None:
    def fail(items: Iterator[int]) -> Iterator[int]:
        for number, item in enumerate(items):
            if number == 30:
                raise RuntimeError("stage failed")
            yield item

    stages: list[Stage] = [add_one, add_one, add_one]
    source: Iterator[int] = iter(range(1000))
    if position == 3:
        source = fail(source)
    else:
        stages.insert(position, fail)
    with pytest.raises(RuntimeError, match="stage failed"):
        list(run(source, stages))


@runners
def test_a_consumer_that_leaves_early_stops_the_run(run: Runner) -> None:
    results = run(iter(range(10**9)), [add_one])
    assert next(results) == 1
    results.close()  # type: ignore[attr-defined]


class Inline:
    """An executor that answers at once: what fails is in the file's name."""

    capacity = 2

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.on_each: Callable[[Photo], None] = lambda _: None

    def submit(self, batch: Batch) -> Future[tuple[FaceResult, ...]]:
        future: Future[tuple[FaceResult, ...]] = Future()
        future.set_result(tuple(map(self._one, batch.photos)))
        return future

    def _one(self, photo: Photo) -> FaceResult:
        self.seen.append(os.path.basename(photo.path))
        self.on_each(photo)
        if "bad" in photo.path:
            return FaceResult(photo, failure=Failure(FailureKind.FAILED, "is truncated"))
        if "no" in photo.path:
            return FaceResult(photo, failure=Failure(FailureKind.REFUSED, "is odd"))
        return FaceResult(photo, (Face(StoredBox(1, 1, 5, 5), 0.9, None),))

    def close(self) -> None:
        pass


@dataclass
class Memory:
    """A writer that remembers."""

    written: list[str] = field(default_factory=list)
    stamps: str = "1"
    recalled: int | None = None
    error: Exception | None = None

    def write(self, result: FaceResult) -> int:
        if self.error is not None:
            raise self.error
        self.written.append(os.path.basename(result.photo.path))
        return len(result.faces)

    def stamp(self, path: str) -> str:
        return self.stamps

    def recall(self, path: str, signature: FileSignature) -> int | None:
        return self.recalled

    def is_incomplete(self, path: str) -> bool:
        return path.endswith("a.jpg")


@dataclass
class Bench:
    root: Path
    store: Store
    writer: Memory
    executor: Inline
    run: Runner

    def __call__(self, models: str = "m1", **options: bool) -> Summary:
        stages: list[Stage] = [
            Select(self.store, self.writer, models, Limits(), **options),
            batch_up(lambda: Batcher(lambda p: p.stored, 2), lambda: False),
            Infer(self.executor),
            Write(self.writer, models),
            remember(self.store),
        ]
        summary = Summary()
        for ended in self.run(scan(str(self.root)), stages):
            assert isinstance(ended, Ended)
            summary.add(ended)
        return summary


@pytest.fixture(params=RUNNERS, ids=["sequential", "threaded", "queue-of-one"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    root = tmp_path / "photos"
    root.mkdir()
    for name in ("a.jpg", "b.jpg", "bad.jpg", "c.jpg", "no.jpg"):
        Image.new("RGB", (20, 10)).save(root / name)
    (root / "text.jpg").write_text("not a photo")
    store = Store(tmp_path / "state")
    yield Bench(root, store, Memory(), Inline(), request.param)
    store.close()


def counts(summary: Summary) -> tuple[int, ...]:
    return (summary.unchanged, summary.indexed, summary.quarantined, summary.refused)


def test_every_photo_ends_once_and_a_second_run_does_nothing(bench: Bench) -> None:
    first = bench()
    assert counts(first) == (0, 3, 1, 2)
    assert (first.seen, first.with_faces, first.faces) == (6, 3, 3)
    assert bench.executor.seen.count("bad.jpg") == 2  # tried again, alone
    bench.writer.written.clear()
    assert counts(bench()) == (3, 0, 1, 2)
    assert bench.writer.written == []
    assert bench.executor.seen.count("bad.jpg") == 2


def test_changed_photos_other_models_and_force_are_indexed_again(bench: Bench) -> None:
    bench()
    Image.new("RGB", (20, 11)).save(bench.root / "a.jpg")
    assert counts(bench()) == (2, 1, 1, 2)
    assert counts(bench("m2")) == (0, 3, 1, 2)
    assert counts(bench("m2", force=True)) == (0, 3, 1, 2)
    assert counts(bench("m2", restore=True)) == (2, 1, 1, 2)


def test_a_sidecar_that_was_mended_is_tried_again(bench: Bench) -> None:
    bench.writer.error = SidecarError("does not parse")
    assert counts(bench()) == (0, 0, 4, 2)
    bench.writer.error = None
    assert counts(bench()) == (0, 0, 4, 2)
    bench.writer.stamps = "2"
    assert counts(bench()) == (0, 3, 1, 2)


def test_a_full_disk_ends_the_run_and_blames_no_photo(bench: Bench) -> None:
    bench.writer.error = DiskFullError("full")
    with pytest.raises(DiskFullError):
        bench()
    assert bench.store.counts(str(bench.root))["quarantined"] == 0


def test_a_missing_tool_ends_the_run_and_blames_no_photo(bench: Bench) -> None:
    bench.writer.error = ToolMissingError("exiftool is gone")
    with pytest.raises(ToolMissingError):
        bench()
    assert bench.store.counts(str(bench.root))["quarantined"] == 0


def test_a_failure_of_a_photo_that_changed_meanwhile_does_not_count(bench: Bench) -> None:
    def touch(photo: Photo) -> None:
        os.utime(photo.path, ns=(1, 1)) if "bad" in photo.path else None

    bench.executor.on_each = touch
    assert counts(bench()) == (0, 3, 1, 2)
    bench.executor.seen.clear()
    assert counts(bench()) == (3, 0, 1, 2)
    assert "bad.jpg" in bench.executor.seen


def test_batches_that_wait_are_left_when_stopped() -> None:
    ended = Ended("/x", Outcome.UNCHANGED)
    executor = Inline()
    photo = Photo("/y", FileSignature(1, 1), ImageFormat.JPEG, Size(4, 3), 1)
    assert list(Infer(executor, stopped=lambda: True)(iter([Batch((photo,)), ended]))) == [ended]
    assert executor.seen == []


def test_a_lost_store_is_rebuilt_from_landmark_files(bench: Bench) -> None:
    bench.writer.recalled = 4
    assert counts(bench()) == (6, 0, 0, 0)
    assert bench.store.counts(str(bench.root))["faces"] == 24


def test_vanished_photos_are_forgotten_only_while_the_library_is_there(bench: Bench, tmp_path: Path) -> None:
    bench()
    (bench.root / "a.jpg").unlink()
    assert forget_vanished(bench.store, str(bench.root)) == 1
    bench.root.rename(tmp_path / "elsewhere")
    assert forget_vanished(bench.store, str(bench.root)) == 0
    bench.root.mkdir()
    assert forget_vanished(bench.store, str(bench.root)) == 0


def test_a_photo_that_lingers_leaves_when_anything_comes_by() -> None:
    photos = [Photo(f"/{n}", FileSignature(1, 1), ImageFormat.JPEG, Size(n, 1), 1) for n in (1, 2)]
    ended = Ended("/x", Outcome.UNCHANGED)
    stage = batch_up(lambda: Batcher(lambda p: p.stored, 8), lambda: False, linger=0)
    assert list(stage(iter([photos[0], ended, photos[1]]))) == [
        Batch((photos[0],)),
        ended,
        Batch((photos[1],)),
    ]
    patient = batch_up(lambda: Batcher(lambda p: p.stored, 8), lambda: False)
    assert next(patient(iter([photos[0], ended]))) == ended


def test_what_waits_for_a_batch_is_left_when_stopped() -> None:
    stage = batch_up(lambda: Batcher(lambda p: 0, 8), lambda: True)
    ended = Ended("/x", Outcome.UNCHANGED)
    assert list(stage(iter([ended]))) == [ended]
