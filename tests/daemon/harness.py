"""A daemon in this process: everything is real but the network, whose place a fixed answer takes.

Load and fault tests need thousands of photos; what is tested is what happens around the inference.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from sidecar_faces.core.frames import StoredBox
from sidecar_faces.core.settle import Timing
from sidecar_faces.core.types import Batch, Face, FaceResult, Failure, FailureKind
from sidecar_faces.daemon.library import Engine, Library, Options
from sidecar_faces.daemon.notify import Notifier
from sidecar_faces.daemon.rest import RestingExecutor
from sidecar_faces.daemon.state import State, Status
from sidecar_faces.daemon.supervisor import Daemon
from sidecar_faces.library.scan import DEFAULT_EXCLUDES
from sidecar_faces.pipeline import Writer
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.sidecar.layout import SidecarLayout
from sidecar_faces.sidecar.writer import SidecarWriter
from sidecar_faces.store import Store

FAST = Options(
    excludes=DEFAULT_EXCLUDES,
    timing=Timing(quiet=0.2, unmarked=0.5, longest=5, give_up=30),
    min_free=0,
    linger=0.2,
    backoff=(0.2, 0.5),
    check_every=0.2,
    look_every=0.2,
    look_deadline=1.0,
)


class FixedExecutor:
    """One face in every photo, none where the name says "none"; `down` stands for a dead server."""

    capacity = 4

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.down = False
        self.fails = ""
        self.gate = threading.Event()
        self.gate.set()
        self.on_read: Callable[[str], None] = lambda _: None

    def submit(self, batch: Batch) -> Future[tuple[FaceResult, ...]]:
        future: Future[tuple[FaceResult, ...]] = Future()
        self.gate.wait()
        if self.down:
            future.set_exception(ConnectionError("the server does not answer"))
            return future
        results = []
        for photo in batch.photos:
            if self.fails:
                results.append(FaceResult(photo, failure=Failure(FailureKind.FAILED, self.fails)))
                continue
            self.on_read(photo.path)
            self.seen.append(os.path.basename(photo.path))
            box = StoredBox(photo.stored.width * 0.4, photo.stored.height * 0.4, 20, 20)
            results.append(FaceResult(photo, () if "none" in photo.path else (Face(box, 0.9, None),)))
        future.set_result(tuple(results))
        return future

    def close(self) -> None:
        pass


@dataclass
class Watched:
    """A running daemon and what a test wants to know of it."""

    store: Store
    executor: FixedExecutor
    daemon: Daemon
    libraries: list[Library]
    written: list[str]

    def until(self, true: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something is true."""
        pause, deadline = threading.Event(), time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, (self.daemon.statuses(), self.executor.seen[-20:])
            pause.wait(0.01)

    def status(self, number: int = 0) -> Status:
        return self.daemon.statuses()[number]

    def until_idle(self, number: int = 0, seconds: float = 30) -> None:
        """Wait until nothing is waited for and nothing is at work, and a scan has ended."""

        def idle() -> bool:
            status = self.status(number)
            busy = status.waiting or status.in_flight or self.libraries[number]._feed.box._hints
            return status.state is State.IDLE and not busy and status.counts.scans > 0

        self.until(idle, seconds)

    def until_settled(self, seconds: float = 1.0, number: int = 0) -> None:
        """Wait until it was idle all the time for so long."""
        since = time.monotonic()

        def settled() -> bool:
            nonlocal since
            status = self.status(number)
            if status.state is not State.IDLE or status.waiting or status.in_flight:
                since = time.monotonic()
            return time.monotonic() - since > seconds

        self.until(settled)


@contextmanager
def watched(
    state: Path,
    *roots: Path,
    options: Options = FAST,
    executor: FixedExecutor | None = None,
    notifier: Notifier | None = None,
    shared: RestingExecutor | None = None,
) -> Iterator[Watched]:
    """Watch until the block ends; `shared` takes the place of the fixed answers."""
    executor = executor or FixedExecutor()
    renew = shared.renew if shared else lambda: None
    store = Store(state / "state.sqlite3", commit_every=1)

    @contextmanager
    def open_writer(root: str) -> Iterator[Writer]:
        with ExifTool() as exiftool:
            yield SidecarWriter(SidecarLayout(root), exiftool, "models-1")

    engine = Engine(store, shared or executor, "models-1", lambda photo: photo.stored, open_writer)
    written: list[str] = []
    libraries = [Library(str(root), engine, options, written.append) for root in roots]
    daemon = Daemon(libraries, store, drain=20, notifier=notifier, on_hung=renew)
    result = Watched(store, executor, daemon, libraries, written)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            daemon.run()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield result
    finally:
        executor.gate.set()
        daemon.stop()
        thread.join(60)
        store.close()
    assert not thread.is_alive()
    assert not failure, failure


def jpeg(width: int = 64, height: int = 48, color: tuple[int, int, int] = (90, 120, 150)) -> bytes:
    """A small photo."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "JPEG")
    return buffer.getvalue()


def often(**changes: object) -> Options:
    """The fast options with changes."""
    return replace(FAST, **changes)  # type: ignore[arg-type]
