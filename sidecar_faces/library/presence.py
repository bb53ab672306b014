"""Whether a library is there: a missing one never means "all deleted", and nothing is written in its place.

A mount that hangs would take with it whoever looks. So the looking is done by a child process that is given
up after a deadline; the mount table, which never hangs, tells at once when a library is unmounted.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from sidecar_faces.library.mounts import TABLE, Mount, mount_at

_LOOK = (
    'cd -P -- "$1" || exit 3; test -w . && printf w; '
    "find . -mindepth 1 -maxdepth 1 -printf n -quit || exit 3; pwd -P"
)
"""Prints "w" if the folder is writable, "n" if it is not empty, and its path without links."""


_POLL_S = 0.02


class Presence(str, Enum):
    """What a library looks like from outside; it is worked on only while it is HERE."""

    UNKNOWN = "not looked at yet"
    HERE = "here"
    MISSING = "the folder is missing or cannot be entered"
    EMPTY = "the folder is empty"
    UNMOUNTED = "its file system is not mounted"
    HUNG = "its file system does not answer"
    READ_ONLY = "it may not be written to"


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a library; `resolved` is its path without links."""

    presence: Presence
    resolved: str = ""
    mount: Mount | None = None


class Sentry:
    """Looks at one library now and then; no call of it blocks.

    `home`: the mount point that the library lay on before, None if it was never seen. A library whose mount
    point is nearer to the root than that is unmounted, whatever lies in its folder. `looked_at`: when the
    look began that `sight` comes from.
    """

    def __init__(
        self,
        root: str,
        *,
        home: str | None = None,
        needs_writing: bool = True,
        every: float = 15.0,
        deadline: float = 10.0,
        table: str = TABLE,
    ) -> None:
        self.root = root
        self.home = home
        self.sight = Sight(Presence.UNKNOWN)
        self.looked_at = float("-inf")
        self._needs_writing = needs_writing
        self._every = every
        self._deadline = deadline
        self._table = table
        self._child: subprocess.Popen[bytes] | None = None
        self._started = float("-inf")
        self._hung: list[subprocess.Popen[bytes]] = []

    @property
    def is_looking(self) -> bool:
        return self._child is not None

    def poll(self, now: float) -> Sight:
        """Start a look where one is due, take in what a look that ended saw; `now` in monotonic seconds."""
        self._hung = [child for child in self._hung if child.poll() is None]
        if self._child is None:
            if now - self._started >= self._every and len(self._hung) < 2:
                self._start(now)
            return self.sight
        if self._child.poll() is not None:
            self.sight, self.looked_at = self._take(self._child), self._started
            self._child = None
        elif now - self._started >= self._deadline:
            self._child.kill()  # which a hung file system may delay, so that nobody waits for it
            self._hung.append(self._child)
            self._child = None
            self.sight, self.looked_at = replace(self.sight, presence=Presence.HUNG), self._started
        return self.sight

    def hurry(self) -> None:
        """Let the next poll start a look, however recent the last one is."""
        if self._child is None:
            self._started = float("-inf")

    def is_here(self) -> bool:
        """Whether the library was there at the last look and its mount still is; cheap, before each write."""
        return self.sight.presence is Presence.HERE and not self._is_unmounted(
            self._mount(self.sight.resolved)
        )

    def close(self) -> None:
        """End a look that is under way."""
        if self._child is not None:
            self._child.kill()
            self._hung.append(self._child)
            self._child = None

    def _start(self, now: float) -> None:
        self._started = now
        self._child = subprocess.Popen(
            ["/bin/sh", "-c", _LOOK, "sh", os.fsencode(self.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _take(self, child: subprocess.Popen[bytes]) -> Sight:
        assert child.stdout is not None  # noqa: S101 - it was opened as a pipe
        with child.stdout as output:
            flags, slash, path = output.read().partition(b"/")
        if child.returncode != 0 or not slash:
            return Sight(Presence.MISSING)
        resolved = os.fsdecode(slash + path[:-1])
        mount = self._mount(resolved)
        return Sight(self._judge(flags, mount), resolved, mount)

    def _judge(self, flags: bytes, mount: Mount) -> Presence:
        if self._is_unmounted(mount):
            return Presence.UNMOUNTED
        if b"n" not in flags:
            return Presence.EMPTY
        if self._needs_writing and (mount.read_only or b"w" not in flags):
            return Presence.READ_ONLY
        return Presence.HERE

    def _mount(self, resolved: str) -> Mount:
        return mount_at(resolved, self._table)

    def _is_unmounted(self, mount: Mount) -> bool:
        return self.home is not None and len(mount.point) < len(self.home)


def first_sights(roots: Iterable[str], deadline: float = 10.0) -> dict[str, Sight]:
    """Look at several libraries at once and wait for it, no longer than the deadline for all of them."""
    sentries = [Sentry(root, needs_writing=False, deadline=deadline) for root in roots]
    while waiting := [sentry for sentry in sentries if sentry.sight.presence is Presence.UNKNOWN]:
        for sentry in waiting:
            sentry.poll(time.monotonic())
        time.sleep(_POLL_S)
    return {sentry.root: sentry.sight for sentry in sentries}
