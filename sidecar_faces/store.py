"""The state database: a cache of what was done. Delete it at any time; the sidecars are the truth."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar_faces.core.types import FileSignature, Outcome

_MIGRATIONS = (
    """
    CREATE TABLE photos (
        path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, models TEXT NOT NULL, outcome TEXT NOT NULL,
        reason TEXT NOT NULL, tries INTEGER NOT NULL, faces INTEGER NOT NULL, sidecar TEXT NOT NULL,
        updated REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE libraries (id INTEGER PRIMARY KEY, root BLOB UNIQUE NOT NULL);
    CREATE TABLE runs (root BLOB PRIMARY KEY, finished REAL NOT NULL, summary TEXT NOT NULL);
    """,
    """
    ALTER TABLE libraries ADD COLUMN mount BLOB;
    CREATE TABLE watches (root BLOB PRIMARY KEY, updated REAL NOT NULL, status TEXT NOT NULL);
    """,
)
_COMMIT_EVERY = 64


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a photo. `sidecar` is the stamp of the sidecar that it failed on, or empty."""

    path: str
    signature: FileSignature | None
    models: str
    outcome: Outcome
    reason: str = ""
    tries: int = 0
    faces: int = 0
    sidecar: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """The last finished run on a library."""

    root: str
    finished: float
    summary: dict[str, Any]


class Store:
    """One connection, guarded by a lock, used by the stages of one run.

    Writes are committed in groups of `commit_every`: what a crash loses is found again by the next scan. A
    long-running process commits each, so that others are never kept from writing.
    """

    def __init__(self, file: Path, commit_every: int = _COMMIT_EVERY) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._commit_every = commit_every
        self._lock = threading.RLock()
        self._pending = 0
        try:
            self._db = _open(file)
        except sqlite3.DatabaseError:
            file.replace(file.with_name(f"{file.name}.corrupt-{time.time_ns()}"))
            for suffix in ("-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
            self._db = _open(file)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit and close."""
        with self._lock:
            self._db.commit()
            self._db.close()

    def get(self, path: str) -> Record | None:
        """What is known of a photo."""
        with self._lock:
            row = self._db.execute(f"{_SELECT} WHERE path = ?", (os.fsencode(path),)).fetchone()
        return _record(row) if row else None

    def put(self, record: Record) -> None:
        """Remember what became of a photo."""
        signature = record.signature
        row = (
            os.fsencode(record.path),
            signature and signature.size,
            signature and signature.mtime_ns,
            record.models,
            record.outcome.value,
            record.reason,
            record.tries,
            record.faces,
            record.sidecar,
            time.time(),
        )
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO photos VALUES (?,?,?,?,?,?,?,?,?,?)", row)
            self._pending += 1
            if self._pending >= self._commit_every:
                self._db.commit()
                self._pending = 0

    def forget(self, paths: Iterable[str]) -> None:
        """Drop photos, so that the next run takes them as new."""
        with self._lock:
            self._db.executemany("DELETE FROM photos WHERE path = ?", ((os.fsencode(p),) for p in paths))
            self._db.commit()

    def below(self, root: str, outcome: Outcome | None = None) -> Iterator[Record]:
        """Records of a photo or of all photos below a folder, in the order of their paths."""
        own = self.get(root)
        if own is not None and outcome in (None, own.outcome):
            yield own
        chosen, values = ("", ()) if outcome is None else (" AND outcome = ?", (outcome.value,))
        query = f"{_SELECT} WHERE path > ? AND path < ?{chosen} ORDER BY path LIMIT 500"
        last = prefix = os.path.join(os.fsencode(root), b"")
        while True:  # page by page: the lock is not held while the caller works on them
            with self._lock:
                rows = self._db.execute(query, (last, prefix[:-1] + b"0", *values)).fetchall()
            if not rows:
                return
            yield from map(_record, rows)
            last = rows[-1][0]

    def counts(self, root: str) -> dict[str, int]:
        """Photos by outcome, with the faces of all of them under "faces"."""
        where, values = _below(root)
        query = f"{_COUNT} WHERE {where} GROUP BY outcome"
        result = {"done": 0, "quarantined": 0, "refused": 0, "with_faces": 0, "faces": 0}
        with self._lock:
            for outcome, photos, faces, with_faces in self._db.execute(query, values):
                result[outcome] = photos
                result["faces"] += faces
                result["with_faces"] += with_faces
        return result

    def register(self, root: str) -> None:
        """Remember a folder as a library."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO libraries (root) VALUES (?)", (os.fsencode(root),))
            self._db.commit()

    def libraries(self) -> list[str]:
        """Folders that were indexed, the first registered first."""
        with self._lock:
            return [os.fsdecode(row[0]) for row in self._db.execute("SELECT root FROM libraries ORDER BY id")]

    def home(self, root: str) -> str | None:
        """The mount point that a library lay on when it was last worked on; None if that is not known."""
        with self._lock:
            query = "SELECT mount FROM libraries WHERE root = ?"
            row = self._db.execute(query, (os.fsencode(root),)).fetchone()
        return None if row is None or row[0] is None else os.fsdecode(row[0])

    def set_home(self, root: str, mount: str) -> None:
        """Remember the mount point of a library that is registered."""
        with self._lock:
            values = (os.fsencode(mount), os.fsencode(root))
            self._db.execute("UPDATE libraries SET mount = ? WHERE root = ?", values)
            self._db.commit()

    def report_watch(self, root: str, status: dict[str, Any]) -> None:
        """Say what the process that watches a library is doing."""
        with self._lock:
            row = (os.fsencode(root), time.time(), json.dumps(status))
            self._db.execute("INSERT OR REPLACE INTO watches VALUES (?,?,?)", row)
            self._db.commit()

    def watch(self, root: str) -> dict[str, Any] | None:
        """What was said last, with the time under "updated"; the process may have ended since."""
        with self._lock:
            query = "SELECT updated, status FROM watches WHERE root = ?"
            row = self._db.execute(query, (os.fsencode(root),)).fetchone()
        return {**json.loads(row[1]), "updated": row[0]} if row else None

    def finish_run(self, root: str, summary: dict[str, Any]) -> None:
        """Remember how a run ended, in place of the one before."""
        with self._lock:
            row = (os.fsencode(root), time.time(), json.dumps(summary))
            self._db.execute("INSERT OR REPLACE INTO runs VALUES (?,?,?)", row)
            self._db.commit()

    def last_run(self, root: str) -> Run | None:
        """The last finished run on a library."""
        query = "SELECT root, finished, summary FROM runs WHERE root = ?"
        with self._lock:
            row = self._db.execute(query, (os.fsencode(root),)).fetchone()
        return Run(os.fsdecode(row[0]), row[1], json.loads(row[2])) if row else None


_COUNT = "SELECT outcome, count(*), sum(faces), sum(faces > 0) FROM photos"
_SELECT = "SELECT path, size, mtime_ns, models, outcome, reason, tries, faces, sidecar FROM photos"


def _below(root: str) -> tuple[str, tuple[bytes | str, ...]]:
    """A range of the primary key: the path itself, or everything that starts with it and a slash."""
    raw = os.fsencode(root)
    prefix = os.path.join(raw, b"")
    return "(path = ? OR (path >= ? AND path < ?))", (raw, prefix, prefix[:-1] + b"0")


def _record(row: tuple[Any, ...]) -> Record:
    path, size, mtime_ns, models, outcome, reason, tries, faces, sidecar = row
    signature = None if size is None else FileSignature(size, mtime_ns)
    return Record(os.fsdecode(path), signature, models, Outcome(outcome), reason, tries, faces, sidecar)


def _open(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, timeout=30, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(_MIGRATIONS[version:], version + 1):
        db.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
    return db
