"""One run per library: a lock file that says who holds it, for a folder and all folders within."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sidecar_faces.errors import LockedError


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a library."""

    root: str
    pid: int
    host: str
    since: str
    command: str

    def overlaps(self, root: str) -> bool:
        """Whether one of the two folders lies in the other."""
        ours, theirs = os.path.join(root, ""), os.path.join(self.root, "")
        return ours.startswith(theirs) or theirs.startswith(ours)


@contextmanager
def hold(
    root: str, folder: Path, command: str, resolve: Callable[[str], str] = os.path.realpath
) -> Iterator[Holder]:
    """Hold the library below `root`; lock files lie in `folder`.

    `resolve` takes links out of a path: who must not hang on a file system passes what it knows already.
    The kernel frees the lock when the process ends, however it ends. Raises LockedError naming the holder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = resolve(root)
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
    lock = FileLock(folder / f"{name}.lock", blocking=False)
    card = folder / f"{name}.json"
    me = Holder(root, os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), command)
    with FileLock(folder / "all.lock"):  # so that two overlapping starts cannot both look, then both lock
        for other in _holders(folder, skip=name):
            if other.overlaps(root):
                raise _locked(root, other)
        try:
            lock.acquire()
        except Timeout:
            raise _locked(root, _read(card)) from None
        card.write_text(json.dumps(asdict(me)))
    try:
        yield me
    finally:
        card.unlink(missing_ok=True)
        lock.release()


def holders(folder: Path) -> list[Holder]:
    """Who holds libraries now."""
    if not folder.is_dir():
        return []
    with FileLock(folder / "all.lock"):
        return list(_holders(folder, skip=""))


def _holders(folder: Path, skip: str) -> Iterator[Holder]:
    """Holders of libraries whose lock is really held, except for one library."""
    for card in sorted(folder.glob("*.json")):
        holder = None if card.stem == skip else _read(card)
        if holder is None:
            continue
        try:
            with FileLock(folder / f"{card.stem}.lock", blocking=False):
                card.unlink(missing_ok=True)  # left by a process that was killed
        except Timeout:
            yield holder


def _read(card: Path) -> Holder | None:
    try:
        return Holder(**json.loads(card.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _locked(root: str, holder: Holder | None) -> LockedError:
    if holder is None:
        return LockedError(f"{root}: another run is at work on this library; wait for it to end.")
    return LockedError(
        f"{root}: '{holder.command}' (process {holder.pid} on {holder.host}) has been at work on "
        f"{holder.root} since {holder.since}; wait for it to end or stop it."
    )
