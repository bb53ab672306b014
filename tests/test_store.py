"""The state database: a cache that survives kills and may be lost."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sidecar_faces.core.types import FileSignature, Outcome
from sidecar_faces.store import _MIGRATIONS, Record, Store

ODD = os.fsdecode(b"/p/\xe9\n.jpg")


def record(path: str, outcome: Outcome = Outcome.DONE, faces: int = 0) -> Record:
    return Record(path, FileSignature(3, 1_700_000_000_123_456_789), "m", outcome, "why", 1, faces, "s")


def test_what_is_put_is_got_after_reopening(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "state.sqlite3")
    store.put(record(ODD, faces=2))
    store.close()
    store = Store(tmp_path / "deep" / "state.sqlite3")
    assert store.get(ODD) == record(ODD, faces=2)
    assert store.get("/other") is None
    store.close()


def test_a_photo_without_signature(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.put(Record("/broken", None, "", Outcome.REFUSED, "is a broken link"))
    assert store.get("/broken") == Record("/broken", None, "", Outcome.REFUSED, "is a broken link")
    store.close()


def test_below_is_a_folder_not_a_prefix(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    for path in ("/p/a.jpg", "/p/b/c.jpg", "/pq.jpg", "/p.jpg", ODD):
        store.put(record(path, faces=1))
    store.put(record("/p/q.jpg", Outcome.QUARANTINED))
    assert {r.path for r in store.below("/p")} == {"/p/a.jpg", "/p/b/c.jpg", "/p/q.jpg", ODD}
    assert [r.path for r in store.below("/p/a.jpg")] == ["/p/a.jpg"]
    assert [r.path for r in store.below("/p", Outcome.QUARANTINED)] == ["/p/q.jpg"]
    assert len(list(store.below("/"))) == 6
    assert store.counts("/p") == {"done": 3, "quarantined": 1, "refused": 0, "with_faces": 3, "faces": 3}
    store.forget(["/p/a.jpg"])
    assert store.get("/p/a.jpg") is None
    store.close()


def test_many_records_are_read_page_by_page_while_others_write(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    for number in range(1201):
        store.put(record(f"/p/{number:04}.jpg"))
    seen = []
    for found in store.below("/p"):
        seen.append(found.path)
        store.forget([found.path])
    assert seen == [f"/p/{number:04}.jpg" for number in range(1201)]
    assert list(store.below("/p")) == []
    store.close()


def test_two_processes_write_at_once_where_each_put_is_committed(tmp_path: Path) -> None:
    daemon, command = Store(tmp_path / "s", commit_every=1), Store(tmp_path / "s")
    daemon.put(record("/p/a.jpg"))
    command.forget(["/p/a.jpg"])
    assert daemon.get("/p/a.jpg") is None
    daemon.close()
    command.close()


def test_a_library_has_a_home_and_a_watch(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    assert store.home("/p") is None
    store.register("/p")
    assert store.home("/p") is None
    store.set_home("/p", "/mnt")
    assert store.home("/p") == "/mnt"
    store.register("/p")
    assert store.home("/p") == "/mnt"
    assert store.watch("/p") is None
    store.report_watch("/p", {"state": "idle"})
    watch = store.watch("/p")
    assert watch is not None
    assert watch["state"] == "idle"
    assert watch["updated"] > 0
    store.close()


def test_a_database_of_an_older_version_is_kept(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "s")
    old.executescript(f"BEGIN; {_MIGRATIONS[0]}; PRAGMA user_version = 1; COMMIT;")
    old.execute("INSERT INTO libraries (root) VALUES (?)", (b"/p",))
    old.commit()
    old.close()
    store = Store(tmp_path / "s")
    assert store.libraries() == ["/p"]
    assert store.home("/p") is None
    store.close()


def test_a_corrupt_database_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_bytes(b"this is not a database, but it is long enough to look at" * 50)
    store = Store(file)
    store.put(record("/a"))
    store.close()
    assert any(".corrupt-" in name for name in os.listdir(tmp_path))


def test_runs_and_libraries(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.register("/b")
    store.register("/a")
    store.register("/b")
    assert store.libraries() == ["/b", "/a"]
    store.finish_run("/b", {"photos": 1})
    store.finish_run("/b", {"photos": 2})
    run = store.last_run("/b")
    assert run is not None
    assert run.summary == {"photos": 2}
    assert store.last_run("/a") is None
    store.close()
