"""Group photos by shape, so that a batch becomes one tensor."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from sidecar_faces.core.types import Batch, Photo


class Batcher:
    """Collects photos by key; a group leaves when it is full, or is the fullest when too many wait.

    Holds at most `max_waiting` photos, whatever the library holds. Times are passed in, in seconds.
    """

    def __init__(self, key: Callable[[Photo], Hashable], size: int = 8, max_waiting: int = 256) -> None:
        self._key = key
        self._size = size
        self._max_waiting = max_waiting
        self._groups: dict[Hashable, list[Photo]] = {}  # the oldest group first
        self._since: dict[Hashable, float] = {}
        self._waiting = 0

    def add(self, photo: Photo, now: float = 0.0) -> Batch | None:
        """Take a photo; a batch where one is due."""
        key = self._key(photo)
        group = self._groups.setdefault(key, [])
        self._since.setdefault(key, now)
        group.append(photo)
        self._waiting += 1
        if len(group) >= self._size:
            return self._take(key)
        if self._waiting >= self._max_waiting:
            return self._take(max(self._groups, key=lambda other: len(self._groups[other])))
        return None

    def overdue(self, before: float) -> Iterator[Batch]:
        """Groups whose first photo came before that time and waits still."""
        while self._groups and self._since[key := next(iter(self._groups))] < before:
            yield self._take(key)

    def flush(self) -> Iterator[Batch]:
        """All that still waits, group by group."""
        for key in list(self._groups):
            yield self._take(key)

    def _take(self, key: Hashable) -> Batch:
        photos = self._groups.pop(key)
        del self._since[key]
        self._waiting -= len(photos)
        return Batch(tuple(photos))
