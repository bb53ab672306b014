"""Hints about changes in a library, from inotify or by polling; hints may be lost, a scan is the truth.

What watchdog cannot tell is found out here: a queue that overflowed, a watch limit that was reached, a root
folder that was deleted and made again, a thread that died.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver
from watchdog.observers.polling import PollingObserver

from sidecar_faces.library.mounts import Mount
from sidecar_faces.library.scan import is_photo_name

try:
    from watchdog.observers.inotify_c import InotifyEvent, InotifyFD
except ImportError:  # watchdog 6 (Python 3.10): its overflows are met by the collapse of many hints alone
    InotifyFD = None  # type: ignore[assignment, misc]

SIDECAR_SUFFIX = ".xmp"
_OWN_PREFIX = ".sidecar-faces-"
_FOLDER_LIMIT = 256
_FILE_LIMIT = 4_096
_FOLDERS_LIMIT = 1_024
_JOIN_S = 5.0
_SELF = 0x400 | 0x800  # IN_DELETE_SELF | IN_MOVE_SELF; IN_UNMOUNT and IN_IGNORED come unasked


class Mode(str, Enum):
    """Where hints come from; SCANS: from nowhere, the library is scanned often."""

    INOTIFY = "inotify"
    POLLING = "polling"
    SCANS = "scans"


def mode_for(mount: Mount, photos: int, most_polled: int = 100_000) -> Mode:
    """Inotify where the mount has it; polling keeps a list of all files in memory, so it is for few."""
    if mount.has_inotify:
        return Mode.INOTIFY
    return Mode.POLLING if photos <= most_polled else Mode.SCANS


@dataclass(slots=True)
class Hints:
    """What may have changed. `files`: path -> renamed into place; `folders`: path -> with all below.

    `gone`: files and folders that were deleted or moved away. `lost`: it may be anything, scan it all.
    """

    files: dict[str, bool] = field(default_factory=dict)
    folders: dict[str, bool] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    lost: bool = False

    def __bool__(self) -> bool:
        return bool(self.files or self.folders or self.gone or self.lost)


class HintBox:
    """Hints between the threads that see events and the one that acts on them; its size is bounded.

    Many files of one folder become a hint for the folder, too many hints become a hint for everything. An
    inotify queue can only overflow behind more hints than that, so nothing else is needed to notice it.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._hints = Hints()
        self._per_folder: Counter[str] = Counter()
        self._woken = False

    def changed(self, path: str, *, renamed: bool = False) -> None:
        """A file was created or changed."""
        folder = os.path.dirname(path)
        with self._condition:
            hints = self._hints
            if hints.lost or folder in hints.folders:
                return
            if path not in hints.files:
                self._per_folder[folder] += 1
            hints.files[path] = renamed and hints.files.get(path, True)
            hints.gone.discard(path)
            if self._per_folder[folder] > _FOLDER_LIMIT:
                hints.folders[folder] = False
                hints.files = {p: r for p, r in hints.files.items() if os.path.dirname(p) != folder}
            self._bound()

    def changed_folder(self, path: str) -> None:
        """A folder appeared, with whatever is in it."""
        with self._condition:
            if not self._hints.lost:
                self._hints.folders[path] = True
                self._bound()

    def vanished(self, path: str) -> None:
        """A file or folder was deleted or moved away."""
        with self._condition:
            if not self._hints.lost:
                self._hints.files.pop(path, None)
                self._hints.gone.add(path)
                self._bound()

    def lose(self) -> None:
        """Hints were lost."""
        with self._condition:
            self._forget()

    def _bound(self) -> None:
        hints = self._hints
        if len(hints.files) + len(hints.gone) > _FILE_LIMIT or len(hints.folders) > _FOLDERS_LIMIT:
            self._forget()
        self._condition.notify_all()

    def _forget(self) -> None:
        self._hints = Hints(lost=True)
        self._per_folder.clear()
        self._condition.notify_all()

    def take(self) -> Hints:
        """All hints since the last time."""
        with self._condition:
            hints, self._hints = self._hints, Hints()
            self._per_folder.clear()
            return hints

    def wake(self) -> None:
        """Let `wait` return now."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def wait(self, seconds: float) -> None:
        """Return when there are hints, when woken, or after so long."""
        with self._condition:
            self._condition.wait_for(lambda: self._woken or bool(self._hints), seconds)
            self._woken = False


_FILE_CHANGES = (FileMovedEvent, FileCreatedEvent, FileClosedEvent, FileModifiedEvent)


class _Handler(FileSystemEventHandler):
    """`real` is what is watched, `root` what the library is called: they differ where the root is a link."""

    def __init__(self, box: HintBox, real: str, root: str) -> None:
        self._box = box
        self._real = real
        self._root = root

    def _called(self, path: str | bytes) -> str:
        name = os.fsdecode(path)
        return name if self._real == self._root else self._root + name[len(self._real) :]

    def on_any_event(self, event: FileSystemEvent) -> None:
        source, target = (
            self._called(event.src_path),
            self._called(event.dest_path) if event.dest_path else "",
        )
        if isinstance(event, (DirCreatedEvent, DirMovedEvent)):
            self._box.changed_folder(target or source)
        elif isinstance(event, _FILE_CHANGES) and _matters(target or source):
            self._box.changed(target or source, renamed=bool(target))
        if isinstance(event, (FileMovedEvent, DirMovedEvent, FileDeletedEvent, DirDeletedEvent)) and (
            event.is_directory or is_photo_name(os.path.basename(source))
        ):
            self._box.vanished(source)


def _matters(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(_OWN_PREFIX) and (is_photo_name(name) or name.lower().endswith(SIDECAR_SUFFIX))


_WANTED: list[type[FileSystemEvent]] = [
    *(DirCreatedEvent, DirMovedEvent, DirDeletedEvent),
    *(FileCreatedEvent, FileClosedEvent, FileMovedEvent, FileDeletedEvent),
]
"""Not opening, reading and single writes: what is read here must not raise events, and a close is enough."""


class Watcher:
    """Hints about one library, put into a box. Start it before a scan, so that nothing falls between."""

    def __init__(self, root: str, box: HintBox, mode: Mode, poll_interval: float = 30.0) -> None:
        self.mode = mode
        self._root = root
        self._observer = None if mode is Mode.SCANS else _observer(mode, box, poll_interval)
        if self._observer is not None:
            wanted = [*_WANTED, FileModifiedEvent] if mode is Mode.POLLING else _WANTED
            real = os.path.realpath(root)  # a watch on a link would hear of the link alone
            self._observer.schedule(_Handler(box, real, root), real, recursive=True, event_filter=wanted)
        self._identity = _identity(root)
        self._canary = _canary(root) if mode is Mode.INOTIFY else None

    def start(self) -> None:
        """Watch every folder there is. Raises OSError where the root cannot be watched (then use SCANS)."""
        if self._observer is None:
            return
        try:
            self._observer.start()
        except OSError:
            self._observer.on_thread_stop()
            self._close_canary()
            raise

    def stop(self) -> None:
        """Stop watching; what hangs in a file system is left behind."""
        self._close_canary()
        if self._observer is not None and self._observer.is_alive():
            self._observer.stop()
            self._observer.join(_JOIN_S)

    def _close_canary(self) -> None:
        if self._canary is not None:
            os.close(self._canary)
            self._canary = None

    def trouble(self) -> str | None:
        """Why this watcher sees nothing any more; None while it does."""
        if _identity(self._root) != self._identity:
            return "its folder was replaced by another"
        if self._canary is not None and _is_dead(self._canary):
            return "its folder was unmounted, moved or deleted meanwhile"
        if self._observer is None:
            return None
        if not self._observer.is_alive() or not all(e.is_alive() for e in self._observer.emitters):
            return "its thread ended"
        if isinstance(self._observer, _OverflowTellingObserver) and not self._observer.is_reading:
            return "its reader ended"
        return None

    def is_partial(self) -> bool:
        """Whether the kernel's limit of watches is reached, so that some folders may go unwatched."""
        return self.mode is Mode.INOTIFY and watch_limit_reached()


def _identity(root: str) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _canary(root: str) -> int | None:
    """A watch on the root alone. It dies with the others when the file system is unmounted, and shows it."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(os.path.realpath(root)), _SELF) < 0:
        os.close(fd)
        return None
    return fd if fd >= 0 else None


def _is_dead(canary: int) -> bool:
    try:
        return bool(os.read(canary, 4096))  # about the watch itself: it hears of nothing else
    except BlockingIOError:
        return False


def _observer(mode: Mode, box: HintBox, poll_interval: float) -> BaseObserver:
    if mode is Mode.POLLING:
        return PollingObserver(timeout=poll_interval)
    return InotifyObserver() if InotifyFD is None else _OverflowTellingObserver(box.lose)


class _OverflowTellingObserver(BaseObserver):
    """One inotify instance for one library, which says when its queue overflowed."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        self._reader = _Reader(on_overflow)
        self._reader.start()
        super().__init__(InotifyEmitter, inotify_fd=self._reader)

    @property
    def is_reading(self) -> bool:
        return self._reader.is_alive()

    def on_thread_stop(self) -> None:
        super().on_thread_stop()
        self._reader.stop()


if InotifyFD is not None:

    class _Reader(InotifyFD):
        def __init__(self, on_overflow: Callable[[], None]) -> None:
            super().__init__()
            self._on_overflow = on_overflow

        def handle_event(self, event: InotifyEvent) -> None:
            super().handle_event(event)
            if event.is_queue_overflow:
                self._on_overflow()


def watch_limit_reached() -> bool:
    """Whether this user can add not even one more inotify watch."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    if fd < 0:
        return ctypes.get_errno() == errno.EMFILE
    try:
        return bool(libc.inotify_add_watch(fd, b"/", 0x400) < 0 and ctypes.get_errno() == errno.ENOSPC)
    finally:
        os.close(fd)
