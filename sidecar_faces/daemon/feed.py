"""Which photos of one library to look at next: hints and scans go in, complete files come out.

Hints only make it faster: whatever they miss, the next scan finds. Both give the same candidates, and a
photo is never on its way twice.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sidecar_faces.core.settle import Debounce, End, Settling, Timing
from sidecar_faces.core.types import FileSignature
from sidecar_faces.library.complete import end_of
from sidecar_faces.library.scan import PHOTO_SUFFIXES, Candidate, ScanProblem, is_photo_name, leaves_out, scan
from sidecar_faces.library.watch import SIDECAR_SUFFIX, HintBox

_LONGEST_FOLDER_DELAY = 30.0
_MOST_FOLDERS = 4_096


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the feed asks of the store.

    `is_known`: this version of the photo was dealt with. `failed_on_sidecar`: a photo that is quarantined
    because of its sidecar. `forget`: a photo or folder is gone.
    """

    is_known: Callable[[Candidate], bool]
    failed_on_sidecar: Callable[[str], bool]
    forget: Callable[[str], None]


class Feed:
    """The next photos of one library. One thread at a time may call it; hints may come from any."""

    def __init__(
        self,
        root: str,
        knowledge: Knowledge,
        *,
        excludes: tuple[str, ...],
        timing: Timing,
        scan_every: float,
        linger: float = 0.5,
        on_problem: Callable[[ScanProblem], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.box = HintBox()
        self.scans = 0
        self.last_scan_s = 0.0
        self._root = root
        self._knowledge = knowledge
        self._excludes = excludes
        self._timing = timing
        self._scan_every = scan_every
        self._linger = linger
        self._on_problem = on_problem
        self._clock = clock
        self._settling = Settling(timing)
        self._folders: Debounce[tuple[str, bool]] = Debounce(timing.quiet, _LONGEST_FOLDER_DELAY)
        self._everything: Debounce[str] = Debounce(timing.quiet, _LONGEST_FOLDER_DELAY)
        self._next_full = 0.0
        self._running: Iterator[Candidate] | None = None
        self._full_since: float | None = None
        self._in_flight: set[str] = set()
        self._changed_in_flight: set[str] = set()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Files that are waited for until they are complete."""
        return len(self._settling)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def scan_soon(self) -> None:
        """Scan the whole library as soon as possible, after a scan that is running."""
        self._next_full = 0.0
        self.box.wake()

    def scan_within(self, seconds: float) -> None:
        """Let the next scan of everything begin that soon at the latest."""
        self._next_full = min(self._next_full, self._clock() + seconds)

    def restart(self) -> None:
        """A run was broken off: nothing is in flight, and a scan finds what it left."""
        with self._lock:
            self._in_flight.clear()
            self._changed_in_flight.clear()
        self._running = self._full_since = None
        self.scan_soon()

    def ended(self, path: str) -> None:
        """A candidate was dealt with; one that changed meanwhile is looked at again."""
        with self._lock:
            self._in_flight.discard(path)
            changed = path in self._changed_in_flight
            self._changed_in_flight.discard(path)
        if changed:
            self.box.changed(path)

    def again(self, path: str) -> None:
        """A candidate was not dealt with, and shall come again if it is there."""
        with self._lock:
            self._in_flight.discard(path)
            self._changed_in_flight.discard(path)
        self.box.changed(path)

    def next_at(self) -> float:
        """When there is something to do without any further hint, in monotonic seconds."""
        times = (self._settling.next(), self._folders.next(), self._everything.next(), self._next_full)
        return min(time for time in times if time is not None)

    def take_hints(self) -> None:
        """Put what was hinted at into the time table."""
        hints = self.box.take()
        if not hints:
            return
        now = self._clock()
        if hints.lost:
            self._scan_all_at_leisure(now)
        for path in hints.gone:
            self._settling.drop(path)
            if not os.path.lexists(path):
                self._knowledge.forget(path)
        for folder, recursive in hints.folders.items():
            if not leaves_out(self._root, folder, self._excludes):
                self._folders.touch((folder, recursive), now)
        for path, renamed in hints.files.items():
            self._hint(path, now, renamed=renamed)
        if len(self._folders) > _MOST_FOLDERS:
            self._scan_all_at_leisure(now)

    def _scan_all_at_leisure(self, now: float) -> None:
        """One scan of everything, once it is quiet, in the place of many of its parts."""
        self._folders.clear()
        self._everything.touch(self._root, now)

    def _hint(self, path: str, now: float, *, renamed: bool) -> None:
        if path.lower().endswith(SIDECAR_SUFFIX):
            for photo in _photos_of(path):
                if self._knowledge.failed_on_sidecar(photo):  # else it is for the manager who wrote it
                    self._hint(photo, now, renamed=False)
        elif not leaves_out(self._root, path, self._excludes):
            signature, _ = _look(path)
            if signature is not None and not self._settling.touch(path, now, signature, renamed=renamed):
                self._folders.touch((os.path.dirname(path), False), now)

    def candidates(self, stopped: Callable[[], bool]) -> Iterator[Candidate]:
        """Complete photos that may be new; ends when none is expected within the linger time."""
        while not stopped():
            self.take_hints()
            found = False
            for candidate in self._settled():
                found = True
                yield candidate
            if found or stopped():
                continue
            if self._running is not None:
                yield from self._scanned()
            elif not self._start_due_scan():
                pause = self.next_at() - self._clock()
                if pause > self._linger:
                    return
                self.box.wait(max(pause, 0.0))

    def _settled(self) -> Iterator[Candidate]:
        now = self._clock()
        for path in self._settling.due(now):
            signature, _ = _look(path)
            end = end_of(path) if signature is not None else End.UNKNOWN
            if self._settling.look(path, now, signature, end) and self._claim(path):
                yield Candidate(path, signature)

    def _scanned(self) -> Iterator[Candidate]:
        """The next candidate of the scan that is running, or its end."""
        candidate = next(self._running or iter(()), None)
        if candidate is not None:
            if self._accepts(candidate) and self._claim(candidate.path):
                yield candidate
            return
        self._running = None
        if self._full_since is not None:
            self.last_scan_s = self._clock() - self._full_since
            self._full_since = None
            self.scans += 1

    def _start_due_scan(self) -> bool:
        now = self._clock()
        if self._next_full <= now or self._everything.pop(now) is not None:
            folder, recursive = self._root, True
            self._folders.clear()
            self._everything.clear()
        elif (due := self._folders.pop(now)) is not None:
            folder, recursive = due
        else:
            return False
        if folder == self._root and recursive:
            self._next_full = now + self._scan_every
            self._full_since = now
        self._running = scan(
            folder, self._excludes, self._on_problem, root=self._root, recursive=recursive
        )  # fmt: skip
        return True

    def _accepts(self, candidate: Candidate) -> bool:
        """Whether a scanned file can be taken now; one that may still be written is waited for."""
        path = candidate.path
        if path in self._settling:
            return False
        if candidate.signature is None or self._knowledge.is_known(candidate):
            return True
        signature, age = _look(path)
        if signature is None or age >= self._timing.give_up:
            return True
        end = end_of(path)
        needed = {End.SEEN: self._timing.quiet, End.UNKNOWN: self._timing.unmarked}
        if age >= needed.get(end, self._timing.give_up):
            return True
        now = self._clock()
        if not self._settling.touch(path, now, signature):
            self._folders.touch((os.path.dirname(path), False), now)
        return False

    def _claim(self, path: str) -> bool:
        """Whether it may go now; no while an older version of it is on its way."""
        with self._lock:
            if path in self._in_flight:
                self._changed_in_flight.add(path)
                return False
            self._in_flight.add(path)
            return True


def _look(path: str) -> tuple[FileSignature | None, float]:
    """Signature, and age in seconds by ctime, which nobody can set back; negative where a clock is ahead."""
    try:
        status = os.stat(path)
    except OSError:
        return None, 0.0
    return FileSignature(status.st_size, status.st_mtime_ns), time.time() - status.st_ctime


def _photos_of(sidecar: str) -> Iterator[str]:
    """Photos that a sidecar may be about: `IMG.jpg.xmp` names its photo, `IMG.xmp` only its stem."""
    stem = sidecar[: -len(SIDECAR_SUFFIX)]
    if is_photo_name(os.path.basename(stem)):
        yield stem
        return
    for suffix in sorted(PHOTO_SUFFIXES):
        for spelled in (suffix, suffix.upper()):
            if os.path.lexists(stem + spelled):
                yield stem + spelled
