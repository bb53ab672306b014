"""The daemon: all libraries, what systemd hears of them, and an orderly end."""

from __future__ import annotations

import os
import queue
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum

import structlog

from sidecar_faces import __version__
from sidecar_faces.daemon.library import Library
from sidecar_faces.daemon.notify import Notifier
from sidecar_faces.daemon.state import State, Status, sentence
from sidecar_faces.library.presence import Presence
from sidecar_faces.log import printable
from sidecar_faces.store import Store

log = structlog.get_logger()

_TICK_S = 1.0
_LOOKING_TICK_S = 0.05
_REPORT_S = 5.0


class Ending(Enum):
    """Why `run` returned."""

    STOPPED = "stopped"
    RELOAD = "reload"


class Daemon:
    """Runs libraries, each in its own thread, until told to stop.

    The thread that calls `run` never touches a library's file system, so that it answers whatever hangs.
    """

    def __init__(
        self,
        libraries: Iterable[Library],
        store: Store,
        *,
        drain: float = 60.0,
        notifier: Notifier | None = None,
        on_tick: Callable[[float], None] = lambda _: None,
        on_hung: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_hung` is called when a library stops answering while photos of it are at work."""
        self._libraries = list(libraries)
        self._store = store
        self._drain = drain
        self._notifier = notifier or Notifier()
        self._on_tick = on_tick
        self._on_hung = on_hung
        self._asked: queue.SimpleQueue[Ending] = queue.SimpleQueue()  # a signal handler may put into it
        self._reported: dict[str, Status] = {}
        self._told = ""
        self._is_store_well = True
        self._pinged = self._reported_at = float("-inf")

    def stop(self) -> None:
        """Let `run` finish what is in flight and return; may be called by a signal handler."""
        self._asked.put(Ending.STOPPED)

    def reload(self) -> None:
        """The same, so that the caller can start again with other settings."""
        self._asked.put(Ending.RELOAD)

    def statuses(self) -> list[Status]:
        """What the libraries are doing now."""
        return [library.status() for library in self._libraries]

    def run(self) -> Ending:
        """Work until told to stop."""
        for library in self._libraries:
            library.start()
        log.info(
            "watching",
            libraries=[printable(library.root) for library in self._libraries],
            version=__version__,
        )
        self._notifier.send(READY="1", STATUS="starting")
        ending = None
        while ending is None:
            self._tick(time.monotonic())
            looking = any(library.sentry.is_looking for library in self._libraries)
            with suppress(queue.Empty):
                ending = self._asked.get(timeout=_LOOKING_TICK_S if looking else _TICK_S)
        if ending is Ending.RELOAD:
            self._notifier.send(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        else:
            self._notifier.send(STOPPING="1", STATUS="finishing what is in flight")
        self._finish()
        return ending

    def _tick(self, now: float) -> None:
        for library in self._libraries:
            self._look(library, now)
        if now - self._reported_at >= _REPORT_S:
            self._reported_at = now
            statuses = self.statuses()
            self._tell(statuses)
            self._report(statuses)
            self._on_tick(now)
        self._ping(now)

    def _look(self, library: Library, now: float) -> None:
        before = library.sentry.sight.presence
        sight = library.sentry.poll(now)
        if sight.presence is before:
            return
        if sight.presence is Presence.HUNG and library.status().in_flight:
            self._on_hung()
        library.look_again()

    def _report(self, statuses: list[Status]) -> None:
        """Write what changed to the store: nothing while all are idle, so that disks can sleep."""
        try:
            for status in statuses:
                if self._reported.get(status.root) != status:
                    self._store.report_watch(status.root, {**status.as_json(), "pid": os.getpid()})
                    self._reported[status.root] = status
            self._is_store_well = True
        except sqlite3.Error as error:  # a full disk, perhaps: the libraries pause by themselves
            if self._is_store_well:
                log.warning("the state database cannot be written", reason=str(error))
            self._is_store_well = False

    def _tell(self, statuses: list[Status]) -> None:
        told = sentence(statuses)
        if told != self._told:
            self._told = told
            self._notifier.send(STATUS=told)

    def _ping(self, now: float) -> None:
        """A sign of life only while every library moves that can."""
        every = self._notifier.watchdog_every
        if every is None or now - self._pinged < every:
            return
        stuck = [library for library in self._libraries if library.is_stuck(now)]
        for library in stuck:
            log.critical("no progress", library=printable(library.root), status=library.status().as_json())
        if not stuck:
            self._pinged = now
            self._notifier.send(WATCHDOG="1")

    def _finish(self) -> None:
        """Within the drain time; what hangs longer is left behind, which loses nothing but that work."""
        deadline = time.monotonic() + self._drain
        for library in self._libraries:
            library.stop()
        for library in self._libraries:
            while library.is_alive() and (left := deadline - time.monotonic()) > 0:
                library.join(min(left, _TICK_S))
                self._ping(time.monotonic())
            if library.is_alive():
                log.warning("left behind in mid-work", library=printable(library.root))
        for library in self._libraries:
            library.sentry.close()
        self._report([status for status in self.statuses() if status.state is State.STOPPED])
