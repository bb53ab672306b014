"""What needs no server: waiting and going on elsewhere, batches, addresses where nobody listens."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image as Pillow

from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import (
    Batch,
    FaceResult,
    Failure,
    FailureKind,
    FileSignature,
    ImageFormat,
    Photo,
)
from sidecar_faces.engine.base import Detections, EngineSettings, Image
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.engine.detectors import detector_fingerprint, open_detector
from sidecar_faces.engine.executors import InlineExecutor
from sidecar_faces.engine.failover import FailoverExecutor, Patience
from sidecar_faces.engine.pyramid import Pyramid
from sidecar_faces.engine.search import search
from sidecar_faces.engine.search_batch import search_batch
from sidecar_faces.engine.triton import RequestFailedError, ServerUnavailableError, TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.worker import worker_fingerprint
from sidecar_faces.errors import EngineUnavailableError
from tests.engine.conftest import MakePhoto

NOW = Patience(total=30, first=0.001, longest=0.002, elsewhere=0.0)


def batch(*names: str) -> Batch:
    return Batch(
        tuple(Photo(f"/{name}", FileSignature(1, 1), ImageFormat.JPEG, Size(9, 9), 1) for name in names)
    )


@dataclass
class Engine:
    """A worker whose engine goes away; it notes which photos it was given, and finished."""

    down: Callable[[Photo], bool] = lambda photo: False
    asked: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def process(self, batch: Batch) -> tuple[FaceResult, ...]:
        return tuple(self._one(photo) for photo in batch.photos)

    def _one(self, photo: Photo) -> FaceResult:
        self.asked.append(photo.path)
        if self.down(photo):
            return FaceResult(photo, failure=Failure(FailureKind.UNAVAILABLE, "Triton at x does not answer."))
        self.done.append(photo.path)
        return FaceResult(photo)


class Told(list[str]):
    """What was said."""

    def __call__(self, message: str) -> None:
        self.append(message)


def test_a_run_waits_until_the_engine_is_back_and_loses_nothing() -> None:
    engine, said, looks = Engine(), Told(), iter([False, False, True])
    back = threading.Event()
    engine.down = lambda photo: photo.path in ("/b", "/c") and not back.is_set()

    def is_back() -> bool:
        if next(looks):
            back.set()
        return back.is_set()

    executor = FailoverExecutor(InlineExecutor(engine), is_back, said, patience=NOW)
    results = executor.submit(batch("a", "b", "c", "d")).result(10)
    executor.close()
    assert [r.photo.path for r in results] == ["/a", "/b", "/c", "/d"]
    assert all(r.failure is None for r in results)
    assert sorted(engine.done) == ["/a", "/b", "/c", "/d"]  # each once
    assert said == ["Triton at x does not answer. Waiting for it.", "The engine is back."]


def test_with_another_engine_the_run_goes_on_there_and_comes_back() -> None:
    remote, local, said = Engine(down=lambda photo: True), Engine(), Told()
    well = threading.Event()
    executor = FailoverExecutor(
        InlineExecutor(remote), well.is_set, said, lambda: InlineExecutor(local), patience=NOW
    )
    assert all(r.failure is None for r in executor.submit(batch("a", "b")).result(10))
    executor.submit(batch("c")).result(10)
    assert local.done == ["/a", "/b", "/c"] and remote.done == []
    remote.down = lambda photo: False
    well.set()
    executor.submit(batch("d")).result(10)
    executor.close()
    assert remote.done == ["/d"]
    assert said == ["Triton at x does not answer. Going on locally.", "The engine is back."]


def test_while_elsewhere_the_engine_is_not_asked_again_for_a_while() -> None:
    remote, local = Engine(down=lambda photo: True), Engine()
    looks: list[str] = []

    def is_back() -> bool:
        looks.append("looked")
        return False

    executor = FailoverExecutor(
        InlineExecutor(remote), is_back, Told(), lambda: InlineExecutor(local), Patience(elsewhere=3600)
    )
    for name in "abcdef":
        executor.submit(batch(name)).result(10)
    executor.close()
    assert remote.asked == ["/a"] and looks == [] and len(local.done) == 6


@dataclass
class Batches:
    """An executor whose batches end when the test says so, and how."""

    capacity: int = 4
    flying: queue.SimpleQueue[tuple[Batch, Future[tuple[FaceResult, ...]]]] = field(
        default_factory=queue.SimpleQueue
    )

    def submit(self, batch: Batch) -> Future[tuple[FaceResult, ...]]:
        future: Future[tuple[FaceResult, ...]] = Future()
        self.flying.put((batch, future))
        return future

    def sent(self, count: int) -> list[tuple[Batch, Future[tuple[FaceResult, ...]]]]:
        """The next batches, once they are there."""
        return [self.flying.get(timeout=10) for _ in range(count)]

    def close(self) -> None: ...


def test_an_outage_is_said_once_however_many_batches_it_takes_down() -> None:
    """Losses that are heard of while somebody waits, and after the engine is back, are of the same outage."""
    remote, said, back, looking = Batches(), Told(), threading.Event(), threading.Event()

    def is_back() -> bool:
        looking.set()
        return back.wait(10)

    executor = FailoverExecutor(remote, is_back, said, patience=NOW)
    futures = [executor.submit(batch(name)) for name in "abcd"]
    *lost, late = remote.sent(4)
    for each in lost:
        end(each, Engine(down=lambda photo: True))
    assert looking.wait(10)
    back.set()
    again = remote.sent(3)
    end(late, Engine(down=lambda photo: True))
    for each in (*again, *remote.sent(1)):
        end(each, Engine())
    assert all(future.result(10)[0].failure is None for future in futures)
    assert said == ["Triton at x does not answer. Waiting for it.", "The engine is back."]

    last = executor.submit(batch("e"))
    for engine in (Engine(down=lambda photo: True), Engine()):
        (sent,) = remote.sent(1)
        end(sent, engine)
    assert last.result(10)[0].failure is None
    executor.close()
    assert said[2:] == said[:2]


def end(sent: tuple[Batch, Future[tuple[FaceResult, ...]]], engine: Engine) -> None:
    """A batch ends with what an engine makes of it."""
    sent[1].set_result(engine.process(sent[0]))


def test_an_engine_that_seems_well_and_is_not_is_one_outage() -> None:
    """Its probe passes, its work does not: nothing is said again, and patience ends all the same."""
    answers = iter([False, False, True])
    engine, said = Engine(), Told()
    engine.down = lambda photo: not next(answers)
    executor = FailoverExecutor(InlineExecutor(engine), lambda: True, said, patience=NOW)
    assert executor.submit(batch("a")).result(10)[0].failure is None
    assert engine.asked == ["/a"] * 3 and said[1:] == ["The engine is back."]

    engine.down = lambda photo: True
    patience = Patience(total=0.02, first=0.001, longest=0.002)
    executor = FailoverExecutor(InlineExecutor(engine), lambda: True, said, patience=patience)
    with pytest.raises(EngineUnavailableError, match="nothing is lost"):
        executor.submit(batch("b")).result(10)
    assert len(said) == 3
    executor.close()


def test_patience_ends() -> None:
    patience = Patience(total=0.01, first=0.001, longest=0.001)
    executor = FailoverExecutor(
        InlineExecutor(Engine(down=lambda photo: True)), lambda: False, Told(), patience=patience
    )
    with pytest.raises(EngineUnavailableError, match="nothing is lost"):
        executor.submit(batch("a")).result(10)
    executor.close()


def test_closing_cancels_those_who_wait() -> None:
    waiting = threading.Event()

    def is_back() -> bool:
        waiting.set()
        return False

    engine = Engine(down=lambda photo: True)
    executor = FailoverExecutor(InlineExecutor(engine), is_back, Told(), patience=Patience())
    future: Future[tuple[FaceResult, ...]] = executor.submit(batch("a"))
    assert waiting.wait(10)
    executor.close()
    with pytest.raises(CancelledError):
        future.result(10)


def test_failures_of_photos_are_nobodys_reason_to_wait() -> None:
    class Bad:
        def process(self, batch: Batch) -> tuple[FaceResult, ...]:
            return tuple(
                FaceResult(photo, failure=Failure(FailureKind.FAILED, "is bad")) for photo in batch.photos
            )

    executor = FailoverExecutor(InlineExecutor(Bad()), lambda: False, Told(), patience=NOW)
    (result,) = executor.submit(batch("a")).result(10)
    executor.close()
    assert result.failure is not None and result.failure.reason == "is bad"


@pytest.fixture
def crowd(photo: MakePhoto, portrait: Pillow.Image) -> list[Photo]:
    """Photos whose faces need several passes, of two shapes; one without a face."""
    made = []
    for number, size in enumerate([(1600, 1200), (1600, 1200), (900, 1500)]):
        canvas = Pillow.new("RGB", size, (90, 110, 120))
        for i in range(3 if number != 1 else 0):
            side = 60 + 90 * i + 20 * number
            canvas.paste(portrait.resize((side, side)), (100 + 260 * i, 80 + 300 * i))
        made.append(photo(canvas, f"{number}.jpg", quality=92))
    return made


@pytest.mark.parametrize("detail", ["fast", "normal", "fine"])
def test_a_batch_finds_what_single_photos_find(
    engine: EngineSettings, crowd: list[Photo], detail: str
) -> None:
    detector = open_detector(engine)
    single = [search(Pyramid(p, decode), detector, detail, 0.5) for p in crowd]
    together = search_batch([Pyramid(p, decode) for p in crowd], detector, detail, 0.5)
    assert [len(found.boxes) for found in single][1] == 0
    assert sum(len(found.boxes) for found in single) >= 2
    for one, other in zip(single, together, strict=True):
        np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-6)
        np.testing.assert_allclose(other.points, one.points, atol=1e-6)
    assert search_batch([], detector, detail, 0.5) == []


def test_no_more_tiles_are_held_at_once_than_fit(crowd: list[Photo]) -> None:
    most: list[int] = []

    class Counting:
        fingerprint = "x"

        def detect(self, images: Sequence[Image]) -> list[Detections]:
            most.append(len(images))
            return [Detections(np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2)))] * len(images)

    search_batch([Pyramid(p, decode) for p in crowd], Counting(), "fine", 0.5)
    assert max(most) == 8


@pytest.fixture
def nobody() -> Iterator[TritonClient]:
    """A client of an address where nobody listens."""
    client = TritonClient(TritonSettings(("localhost:1", "127.0.0.1:2"), timeout=2, attempts=3))
    yield client
    client.close()


def test_nobody_there_is_said_and_every_address_was_tried(nobody: TritonClient) -> None:
    seen = {nobody.url}
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        nobody.spec("faces_detect")
    seen.add(nobody.url)
    assert seen == {"localhost:1", "127.0.0.1:2"}
    assert not nobody.is_well()


def test_errors_tell_the_photo_from_the_server() -> None:
    assert issubclass(ServerUnavailableError, EngineUnavailableError)
    assert not issubclass(RequestFailedError, EngineUnavailableError)
    assert TritonSettings().longest >= 3 * TritonSettings().timeout


def test_facedetect_without_nvidias_weights_is_centerface_by_another_way(
    engine: EngineSettings, crowd: list[Photo]
) -> None:
    settings = replace(engine, detector="facedetect")
    assert detector_fingerprint(settings).startswith("facedetect-by-centerface/nms/rgb=")
    assert worker_fingerprint(settings) != worker_fingerprint(engine)
    assert worker_fingerprint(settings) != worker_fingerprint(replace(settings, color="gray"))
    found = search(Pyramid(crowd[0], decode), open_detector(settings), "normal", 0.5)
    known = search(Pyramid(crowd[0], decode), open_detector(engine), "normal", 0.5)
    assert len(found.boxes) == len(known.boxes) > 0
