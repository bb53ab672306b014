"""What a watched library is doing, in words and counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from sidecar_faces.log import printable


class State(str, Enum):
    """What a library is doing; `detail` of its status says why."""

    STARTING = "starting"
    WORKING = "working"
    IDLE = "idle"
    OFFLINE = "offline"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(slots=True)
class Counts:
    """Since the daemon started."""

    indexed: int = 0
    faces: int = 0
    unchanged: int = 0
    quarantined: int = 0
    refused: int = 0
    scans: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """One library at one moment. `waiting`: files that are waited for until they are complete."""

    root: str
    state: State
    detail: str
    mode: str
    note: str
    waiting: int
    in_flight: int
    counts: Counts
    last_scan: float | None

    def as_json(self) -> dict[str, Any]:
        """For the store; paths are not in it."""
        counts = {name: getattr(self.counts, name) for name in Counts.__dataclass_fields__}
        return {
            "state": self.state.value,
            "detail": self.detail,
            "mode": self.mode,
            "note": self.note,
            "waiting": self.waiting,
            "in_flight": self.in_flight,
            "last_scan": self.last_scan,
            **counts,
        }


def sentence(statuses: list[Status]) -> str:
    """All libraries in one line, for systemd's status."""
    indexed = sum(status.counts.indexed for status in statuses)
    busy = sum(status.waiting + status.in_flight for status in statuses)
    odd = [s for s in statuses if s.state in (State.OFFLINE, State.PAUSED)]
    told = "".join(f"; {printable(s.root)} is {s.state.value}: {s.detail}" for s in odd)
    plural = "library" if len(statuses) == 1 else "libraries"
    return f"{len(statuses)} {plural}, {indexed} photos indexed, {busy} at work or waiting{told}"
