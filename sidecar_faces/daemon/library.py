"""One watched library: a thread that runs the pipeline when there is work, and never dies of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from sidecar_faces.core.batching import Batcher
from sidecar_faces.core.settle import Timing
from sidecar_faces.core.types import FileSignature, Outcome, Photo
from sidecar_faces.daemon.feed import Feed, Knowledge
from sidecar_faces.daemon.guard import Blame, GuardedWriter, OfflineError, Place
from sidecar_faces.daemon.state import Counts, State, Status
from sidecar_faces.engine.base import Executor
from sidecar_faces.errors import SidecarFacesError
from sidecar_faces.library.presence import Presence, Sentry
from sidecar_faces.library.probe import Limits
from sidecar_faces.library.scan import Candidate, ScanProblem
from sidecar_faces.library.watch import Mode, Watcher, mode_for
from sidecar_faces.log import printable
from sidecar_faces.pipeline import (
    Ended,
    Infer,
    Select,
    Stage,
    Write,
    Writer,
    batch_up,
    forget_vanished,
    remember,
    run_threaded,
)
from sidecar_faces.store import Store

log = structlog.get_logger()

_CLOSE_AFTER_S = 60.0
_QUEUE = 16
"""Short, so that what was hinted at overtakes what a long scan finds."""
_POLL_SHARE = 20
"""Polling takes at most one part in so many of the time."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What all libraries share.

    `shape`: photos of the same are one batch. `open_writer` makes the writer of one library, used by one
    thread. `between`: stages that change results before they are written.
    """

    store: Store
    executor: Executor
    models: str
    shape: Callable[[Photo], Hashable]
    open_writer: Callable[[str], AbstractContextManager[Writer]]
    between: tuple[Stage, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """How to watch; seconds, bytes. `written_to`: folders outside of the library that sidecars go to."""

    excludes: tuple[str, ...] = ()
    timing: Timing = field(default_factory=Timing)
    mode: Mode | None = None
    scan_every: float = 3600.0
    poll_every: float = 30.0
    linger: float = 1.0
    min_free: int = 200 << 20
    max_tries: int = 2
    stall: float = 300.0
    backoff: tuple[float, ...] = (5.0, 10.0, 30.0, 60.0)
    check_every: float = 10.0
    look_every: float = 15.0
    look_deadline: float = 10.0
    written_to: tuple[str, ...] = ()
    writes_beside: bool = True


class Library(threading.Thread):
    """Keeps one library indexed until it is told to stop.

    Whatever happens in a run ends that run only: the library waits, longer from time to time, and scans.
    """

    def __init__(
        self, root: str, engine: Engine, options: Options, on_written: Callable[[str], None]
    ) -> None:
        super().__init__(name=f"library {printable(root)}", daemon=True)
        self.root = root
        self.progress = time.monotonic()
        self.sentry = Sentry(
            root,
            home=engine.store.home(root),
            needs_writing=options.writes_beside,
            every=options.look_every,
            deadline=options.look_deadline,
        )
        self._engine = engine
        self._options = options
        self._on_written = on_written
        self._feed = Feed(
            root,
            Knowledge(self._is_known, self._failed_on_sidecar, self._forget),
            excludes=options.excludes,
            timing=options.timing,
            scan_every=options.scan_every,
            linger=options.linger,
            on_problem=self._say_problem,
        )
        self._watcher: Watcher | None = None
        self._open = ExitStack()
        self._inner: Writer | None = None
        self._checked = self._worked = 0.0
        self._stopping = threading.Event()
        self._state, self._detail, self._note = State.STARTING, "", ""
        self._counts = Counts()
        self._last_scan: float | None = None
        self._failures = 0
        self._said: set[str] = set()
        self._suspects: dict[str, FileSignature | None] = {}

    def status(self) -> Status:
        """What it is doing now; may be called from any thread."""
        gone = self._gone()
        offline = gone is not None and self._state is not State.STOPPED  # in mid-work, perhaps
        return Status(
            root=self.root,
            state=State.OFFLINE if offline else self._state,
            detail=gone.value if offline and gone else self._detail,
            mode="" if self._watcher is None else self._watcher.mode.value,
            note=self._note,
            waiting=self._feed.waiting,
            in_flight=self._feed.in_flight,
            counts=replace(self._counts),
            last_scan=self._last_scan,
        )

    def stop(self) -> None:
        """Finish what is in flight, then end."""
        self._stopping.set()
        self._feed.box.wake()

    def look_again(self) -> None:
        """The library was seen to come or go."""
        self._feed.box.wake()

    def is_stuck(self, now: float) -> bool:
        """Whether it made no progress for too long while its file system answers."""
        if self._stopping.is_set() or self.sentry.sight.presence is not Presence.HERE:
            return False
        return not self.is_alive() or now - self.progress > self._options.stall

    def run(self) -> None:
        """The thread."""
        while not self._stopping.is_set():
            self.progress = time.monotonic()
            try:
                self._cycle()
                self._failures = 0
            except (OfflineError, CancelledError):  # the library is gone, or the workers were started anew
                self._feed.restart()
            except SidecarFacesError as error:
                self._pause(str(error))
            except Exception as error:
                log.exception("a run broke off", library=printable(self.root))
                self._pause(f"{type(error).__name__}: {error}")
        self._rest()
        self._set(State.STOPPED)

    def _cycle(self) -> None:
        if not self.sentry.is_here():
            self._rest()
            if gone := self._gone():
                self._set(State.OFFLINE, gone.value)
            self._feed.box.wait(self._options.check_every)
            return
        self._place().check()
        self._remember_home()
        self._keep_watching()
        pause = self._feed.next_at() - time.monotonic()
        if pause > 0:
            self._set(State.IDLE)
            if time.monotonic() - self._worked > _CLOSE_AFTER_S:
                self._open.close()
            self._feed.box.wait(min(pause, self._options.check_every))
        self._feed.take_hints()
        if self._feed.next_at() <= time.monotonic() and not self._stopping.is_set():
            self._work()

    def _gone(self) -> Presence | None:
        """Why the library cannot be worked on; None while it can, or nobody has looked yet."""
        presence = self.sentry.sight.presence
        if presence is Presence.UNKNOWN or self.sentry.is_here():
            return None
        return Presence.UNMOUNTED if presence is Presence.HERE else presence

    def _remember_home(self) -> None:
        """The mount that the library lies on; one nearer to the root will mean that it is not mounted."""
        mount, sentry = self.sentry.sight.mount, self.sentry
        if mount is not None and mount.point != sentry.home:
            self._engine.store.register(self.root)
            self._engine.store.set_home(self.root, mount.point)
            sentry.home = mount.point

    def _work(self) -> None:
        """One run of the pipeline, until nothing more is expected for a moment."""
        self._set(State.WORKING)
        scans = self._feed.scans
        for ended in run_threaded(self._candidates(), self._stages(self._writer()), _QUEUE):
            self._account(ended)
            self._keep_watching()
        self._worked = time.monotonic()
        if self._feed.scans > scans and not self._stopping.is_set():
            self._finish_scan()

    def _writer(self) -> Writer:
        """Opened when it is needed first, closed when it was not needed for a while."""
        if self._inner is None:
            self._inner = self._open.enter_context(self._engine.open_writer(self.root))
            self._open.callback(self._forget_writer)
        return GuardedWriter(self._inner, self.sentry, self._place(), self._on_written)

    def _forget_writer(self) -> None:
        self._inner = None

    def _candidates(self) -> Iterator[Candidate]:
        for candidate in self._feed.candidates(self._stopping.is_set):
            self.progress = time.monotonic()
            yield candidate

    def _stages(self, writer: Writer) -> list[Stage]:
        engine, options, stopped = self._engine, self._options, self._stopping.is_set
        return [
            Select(engine.store, writer, engine.models, Limits()),
            batch_up(partial(Batcher, engine.shape), stopped, options.linger),
            Infer(engine.executor, options.max_tries, stopped),
            *engine.between,
            Write(writer, engine.models, options.max_tries),
            Blame(self.sentry, self._feed.again, self._suspects),
            remember(engine.store),
        ]

    def _account(self, ended: Ended) -> None:
        self.progress = time.monotonic()
        self._feed.ended(ended.path)
        counts = self._counts
        match ended.outcome:
            case Outcome.DONE:
                counts.indexed += 1
                counts.faces += ended.faces
                log.debug("indexed", photo=printable(ended.path), faces=ended.faces)
            case Outcome.UNCHANGED:
                counts.unchanged += 1
            case Outcome.QUARANTINED | Outcome.REFUSED:
                name = ended.outcome.value
                setattr(counts, name, getattr(counts, name) + 1)
                if ended.record is not None:
                    log.warning(name, photo=printable(ended.path), reason=ended.reason)

    def _finish_scan(self) -> None:
        """A scan saw everything, and all that it found was dealt with."""
        store = self._engine.store
        if self.sentry.is_here():
            store.register(self.root)
            forget_vanished(store, self.root, self.sentry.is_here)
        self._counts.scans = self._feed.scans
        self._last_scan = time.time()
        counts = store.counts(self.root)
        store.finish_run(
            self.root, {**counts, "photos": counts["done"] + counts["quarantined"] + counts["refused"]}
        )

    def _keep_watching(self) -> None:
        """See to it that hints come; a scan follows whenever some may have been lost."""
        now = time.monotonic()
        if self._watcher is not None:
            if now - self._checked < self._options.check_every:
                return
            trouble = self._watcher.trouble()
            if trouble is not None:
                log.warning("watching is started again", library=printable(self.root), reason=trouble)
                self._unwatch()
        self._checked = now
        if self._watcher is None:
            self._watch()
            self._feed.scan_soon()
        self._keep_scanning()

    def _keep_scanning(self) -> None:
        """Where some folders cannot be watched, or none, scans take their place: said once."""
        if self._watcher is not None and self._watcher.is_partial():
            self._say_once(
                "the limit of inotify watches is reached (fs.inotify.max_user_watches): scanning often"
            )
            self._note = "watch limit reached"
        if self._note or (self._watcher is not None and self._watcher.mode is Mode.SCANS):
            self._feed.scan_within(self._poll_every())

    def _poll_every(self) -> float:
        return max(self._options.poll_every, _POLL_SHARE * self._feed.last_scan_s)

    def _watch(self) -> None:
        mount, store = self.sentry.sight.mount, self._engine.store
        mode = self._options.mode
        if mode is None:
            mode = Mode.SCANS if mount is None else mode_for(mount, store.counts(self.root)["done"])
        self._note = ""
        try:
            watcher = Watcher(self.root, self._feed.box, mode, self._poll_every())
            watcher.start()
        except OSError as error:
            self._note = "cannot be watched"
            self._say_once(f"cannot be watched ({os.strerror(error.errno or 0)}): scanning often")
            watcher = Watcher(self.root, self._feed.box, Mode.SCANS)
        self._watcher = watcher

    def _rest(self) -> None:
        """Hold nothing open in the library."""
        self._unwatch()
        self._open.close()

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None

    def _place(self) -> Place:
        beside = (self.root,) if self._options.writes_beside else ()
        return Place((*beside, *self._options.written_to), self._options.min_free)

    def _pause(self, reason: str) -> None:
        """Wait before the next try, longer and longer while it goes on; then scan."""
        if self._detail != reason:
            log.error("paused", library=printable(self.root), reason=reason)
        self._set(State.PAUSED, reason)
        pauses = self._options.backoff
        pause = pauses[min(self._failures, len(pauses) - 1)]
        self._failures += 1
        until = time.monotonic() + pause
        while not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            self.progress = time.monotonic()
            self._stopping.wait(min(left, self._options.check_every))
        self._feed.restart()

    def _set(self, state: State, detail: str = "") -> None:
        if (state, detail) != (self._state, self._detail):
            level = log.warning if state is State.OFFLINE else log.info
            if state in (State.OFFLINE, State.STOPPED) or self._state in (State.OFFLINE, State.PAUSED):
                level(state.value, library=printable(self.root), **({"reason": detail} if detail else {}))
            self._state, self._detail = state, detail

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning(sentence, library=printable(self.root))

    def _say_problem(self, problem: ScanProblem) -> None:
        if len(self._said) < 1000:
            self._say_once(f"folder not read: {printable(problem.path)}: {problem.reason}")

    def _is_known(self, candidate: Candidate) -> bool:
        record = self._engine.store.get(candidate.path)
        return record is not None and record.signature == candidate.signature

    def _failed_on_sidecar(self, path: str) -> bool:
        record = self._engine.store.get(path)
        return record is not None and record.outcome is Outcome.QUARANTINED and bool(record.sidecar)

    def _forget(self, path: str) -> None:
        if self.sentry.is_here():
            store = self._engine.store
            store.forget([record.path for record in store.below(path)])
