"""When a file is complete enough to be read; time is passed in, in seconds of any clock that never goes back.

A file is ready once it kept still for a quiet time and holds its end marker. Without an end marker it has
much longer to finish; a file that something touches again and again is looked at after a maximum delay.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from sidecar_faces.core.types import FileSignature

K = TypeVar("K", bound=Hashable)


class End(str, Enum):
    """Whether a file ends as its format ends; UNKNOWN where the format has no such mark."""

    SEEN = "seen"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `quiet`: without a change, for a file with an end marker; `unmarked`: for others.

    `longest`: a file that keeps being touched is taken when it has held its end marker for so long.
    `give_up`: after so long without a change a file that lacks its end marker is taken as it is.
    """

    quiet: float = 2.0
    unmarked: float = 10.0
    longest: float = 120.0
    give_up: float = 300.0


class Schedule(Generic[K]):
    """Keys with the time at which each is due; setting a key again replaces its time."""

    def __init__(self) -> None:
        self._times: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._times)

    def __contains__(self, key: object) -> bool:
        return key in self._times

    def set(self, key: K, time: float) -> None:
        """Make a key due at a time."""
        self._times[key] = time
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, key))
        if len(self._heap) > 2 * len(self._times) + 64:  # most of it is times that were replaced
            self._heap = [entry for entry in self._heap if self._times.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def drop(self, key: K) -> None:
        """Forget a key, if it is known."""
        self._times.pop(key, None)

    def next(self) -> float | None:
        """When the first key is due."""
        while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[K]:
        """Take out the keys that are due, the earliest first."""
        while (time := self.next()) is not None and time <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._times[key]
            yield key


class Debounce(Generic[K]):
    """Keys that are due `quiet` seconds after their last touch, at the latest `longest` after their first."""

    def __init__(self, quiet: float, longest: float) -> None:
        self._quiet = quiet
        self._longest = longest
        self._first: dict[K, float] = {}
        self._schedule: Schedule[K] = Schedule()

    def __len__(self) -> int:
        return len(self._first)

    def touch(self, key: K, now: float) -> None:
        """Something happened to a key."""
        first = self._first.setdefault(key, now)
        self._schedule.set(key, min(now + self._quiet, max(now, first + self._longest)))

    def clear(self) -> None:
        """Forget all keys."""
        self._first.clear()
        self._schedule = Schedule()

    def next(self) -> float | None:
        """When the first key is due."""
        return self._schedule.next()

    def pop(self, now: float) -> K | None:
        """Take out the key that has been due for longest; None where none is due."""
        key = next(self._schedule.due(now), None)
        if key is not None:
            del self._first[key]
        return key


@dataclass(slots=True)
class _Waiting:
    first: float
    changed: float
    signature: FileSignature
    renamed: bool


class Settling:
    """Files that changed and are waited for; holds at most `limit` of them.

    Call `touch` for every hint of a change, `due` for the files that are worth a look, and `look` with what
    was seen of each: it says whether to take the file now.
    """

    def __init__(self, timing: Timing, limit: int = 10_000) -> None:
        self._timing = timing
        self._limit = limit
        self._files: dict[str, _Waiting] = {}
        self._looks: Schedule[str] = Schedule()

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, path: object) -> bool:
        return path in self._files

    def touch(self, path: str, now: float, signature: FileSignature, *, renamed: bool = False) -> bool:
        """A file changed, or was renamed into place, which is looked at at once. False: no room for it."""
        waiting = self._files.get(path)
        if waiting is None and len(self._files) >= self._limit:
            return False
        first = now if waiting is None else waiting.first
        self._files[path] = _Waiting(first, now, signature, renamed)
        wanted = now if renamed else now + self._timing.quiet
        self._looks.set(path, min(wanted, max(now, first + self._timing.longest)))
        return True

    def drop(self, path: str) -> None:
        """A file is gone."""
        self._files.pop(path, None)
        self._looks.drop(path)

    def next(self) -> float | None:
        """When the next file is worth a look."""
        return self._looks.next()

    def due(self, now: float) -> Iterator[str]:
        """Files worth a look now; each must be given to `look`."""
        return self._looks.due(now)

    def look(self, path: str, now: float, signature: FileSignature | None, end: End) -> bool:
        """Take what was seen of a file; True where it is ready, and is then no longer waited for.

        `signature` is None for a file that is gone, which is dropped.
        """
        waiting = self._files.get(path)
        if waiting is None or signature is None:
            self.drop(path)
            return False
        if signature != waiting.signature:
            waiting.signature, waiting.changed, waiting.renamed = signature, now, False
        if end is not End.SEEN:
            waiting.first = now
        ready_at = self._ready_at(waiting, end)
        if now >= ready_at:
            self.drop(path)
            return True
        self._looks.set(path, self._next_look(waiting, now, ready_at))
        return False

    def _ready_at(self, waiting: _Waiting, end: End) -> float:
        timing = self._timing
        if end is End.MISSING:
            return waiting.changed + timing.give_up
        if end is End.UNKNOWN:
            return waiting.changed + timing.unmarked
        if waiting.renamed:
            return waiting.changed
        return min(waiting.changed + timing.quiet, waiting.first + timing.longest)

    def _next_look(self, waiting: _Waiting, now: float, ready_at: float) -> float:
        """Rarer and rarer while nothing happens: a hint may have been lost, so that some looks are needed."""
        pause = max(self._timing.quiet, (now - waiting.changed) / 2)
        return min(now + pause, ready_at)
