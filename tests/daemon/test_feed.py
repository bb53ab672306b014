"""The feed alone: what goes in as hints or by a scan comes out once, complete, and nothing is missed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar_faces.core.settle import Timing
from sidecar_faces.core.types import FileSignature
from sidecar_faces.daemon.feed import Feed, Knowledge
from sidecar_faces.library.scan import DEFAULT_EXCLUDES, Candidate
from tests.daemon.harness import jpeg

DATA = jpeg(16, 16)


class Bench:
    """A feed whose clock only moves when it is told to; `pull` takes what is ready, as a run does."""

    def __init__(self, root: Path, **timing: float) -> None:
        self.root = root
        self.now = 1000.0
        self.known: dict[str, FileSignature | None] = {}
        self.forgotten: list[str] = []
        self.broken: set[str] = set()
        self.feed = Feed(
            str(root),
            Knowledge(
                lambda candidate: self.known.get(candidate.path, False) == candidate.signature,
                self.broken.__contains__,
                self.forgotten.append,
            ),
            excludes=DEFAULT_EXCLUDES,
            timing=Timing(**{"quiet": 2, "unmarked": 10, "longest": 60, "give_up": 300, **timing}),
            scan_every=3600,
            linger=0,
            clock=lambda: self.now,
        )

    def pull(self) -> list[str]:
        """Names of the candidates until nothing is ready; all of them end well."""
        names = []
        for candidate in self.feed.candidates(lambda: False):
            names.append(os.path.relpath(candidate.path, self.root))
            self.end(candidate)
        return names

    def end(self, candidate: Candidate) -> None:
        self.known[candidate.path] = candidate.signature
        self.feed.ended(candidate.path)

    def write(self, name: str, data: bytes = DATA) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def hint(self, name: str, *, renamed: bool = False) -> None:
        self.feed.box.changed(str(self.root / name), renamed=renamed)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path / "photos")
    made.root.mkdir()
    assert made.pull() == []  # the first scan
    return made


def test_a_hinted_file_comes_out_after_the_quiet_time(bench: Bench) -> None:
    bench.write("a.jpg")
    bench.hint("a.jpg")
    assert bench.pull() == []
    assert bench.feed.waiting == 1
    bench.now += 2
    assert bench.pull() == ["a.jpg"]
    assert bench.feed.waiting == bench.feed.in_flight == 0
    bench.now += 100
    assert bench.pull() == []


def test_what_is_excluded_stays_out(bench: Bench) -> None:
    for name in ("@eaDir/a.jpg", ".hidden.jpg", "private/.nomedia", "private/b.jpg"):
        bench.write(name)
        bench.hint(name)
    bench.feed.box.changed_folder(str(bench.root / "@eaDir"))
    bench.now += 100
    assert bench.pull() == []


def test_a_folder_that_appears_is_scanned_with_all_below(bench: Bench) -> None:
    bench.write("new/deep/a.jpg")
    bench.write("new/b.jpg")
    bench.feed.box.changed_folder(str(bench.root / "new"))
    bench.feed.take_hints()
    bench.now += 2
    assert bench.pull() == []  # found, and too young
    bench.now += 2
    assert sorted(bench.pull()) == ["new/b.jpg", "new/deep/a.jpg"]


def test_many_hints_become_a_scan_of_the_folder_alone(bench: Bench) -> None:
    bench.write("elsewhere/z.jpg")
    for number in range(400):
        bench.write(f"{number}.jpg")
        bench.hint(f"{number}.jpg")
    bench.feed.take_hints()
    bench.now += 2
    assert bench.pull() == []
    assert bench.feed.waiting == 400
    bench.now += 2
    assert len(bench.pull()) == 400
    assert bench.feed.scans == 1  # of everything
    bench.feed.scan_soon()
    bench.pull()
    bench.now += 2
    assert bench.pull() == ["elsewhere/z.jpg"]
    assert bench.feed.scans == 2


def test_lost_hints_lead_to_a_scan(bench: Bench) -> None:
    bench.write("a.jpg")
    bench.feed.box.lose()
    bench.feed.take_hints()
    bench.now += 2
    bench.pull()
    bench.now += 2
    assert bench.pull() == ["a.jpg"]


def test_hints_that_are_lost_without_end_do_not_put_the_scan_off_for_ever(bench: Bench) -> None:
    bench.write("a.jpg")
    scans = bench.feed.scans
    for _ in range(100):
        bench.feed.box.lose()
        bench.now += 1
        bench.pull()
    assert scans + 2 <= bench.feed.scans <= scans + 5
    assert bench.known


def test_very_many_folders_become_one_scan(bench: Bench) -> None:
    bench.write("a.jpg")
    for number in range(6):
        for deeper in range(1000):
            bench.feed.box.changed_folder(str(bench.root / f"{number}/{deeper}"))
        bench.feed.take_hints()
    assert len(bench.feed._folders) < 4096
    bench.now += 2
    bench.pull()
    bench.now += 2
    assert bench.pull() == ["a.jpg"]
    assert bench.feed.scans == 2


def test_a_scan_comes_at_its_interval_and_takes_old_files_at_once(bench: Bench) -> None:
    bench.write("a.jpg")
    assert bench.pull() == []
    bench.now += 3600
    bench.feed._timing = Timing(quiet=0, unmarked=0, give_up=0)  # as if the file were old
    assert bench.pull() == ["a.jpg"]


def test_what_is_known_passes_whatever_its_age(bench: Bench) -> None:
    path = bench.write("a.jpg")
    status = os.stat(path)
    bench.known[path] = FileSignature(status.st_size, status.st_mtime_ns)
    bench.feed.scan_soon()
    assert bench.pull() == ["a.jpg"]


def test_a_half_copied_file_waits_whoever_finds_it(bench: Bench) -> None:
    bench.write("hinted.jpg", DATA[:-1])
    bench.write("scanned.jpg", DATA[:-1])
    bench.hint("hinted.jpg")
    bench.feed.scan_soon()
    for _ in range(100):
        bench.now += 2
        assert bench.pull() == []
    bench.write("scanned.jpg")
    bench.write("hinted.jpg")
    for _ in range(100):  # without a hint
        bench.now += 2
        if bench.feed.waiting == 0:
            break
        bench.pull()
    assert {os.path.basename(path) for path in bench.known} == {"hinted.jpg", "scanned.jpg"}


def test_a_photo_on_its_way_is_not_sent_twice_and_its_change_is_not_lost(bench: Bench) -> None:
    bench.write("a.jpg")
    bench.hint("a.jpg", renamed=True)
    run = bench.feed.candidates(lambda: False)
    candidate = next(run)
    bench.write("a.jpg", DATA + b"more")
    bench.hint("a.jpg")
    bench.feed.scan_soon()
    bench.now += 20
    assert list(run) == []
    bench.end(candidate)
    bench.feed.take_hints()
    bench.now += 20
    (again,) = bench.feed.candidates(lambda: False)
    assert again.path == candidate.path
    assert again.signature != candidate.signature


def test_after_a_run_that_broke_off_everything_comes_again(bench: Bench) -> None:
    bench.write("a.jpg")
    bench.hint("a.jpg", renamed=True)
    assert len(list(bench.feed.candidates(lambda: False))) == 1
    assert bench.feed.in_flight == 1
    bench.feed.restart()
    bench.now += 5
    bench.pull()
    bench.now += 5
    assert bench.pull() == ["a.jpg"]


def test_vanished_paths_are_forgotten_unless_they_are_back(bench: Bench) -> None:
    gone = str(bench.root / "gone.jpg")
    back = bench.write("back.jpg")
    bench.feed.box.vanished(gone)
    bench.feed.box.vanished(back)
    bench.feed.take_hints()
    assert bench.forgotten == [gone]


def test_a_sidecar_concerns_us_where_its_photo_failed_on_it(bench: Bench) -> None:
    for name in ("a.jpg", "b.JPG", "c.jpeg"):
        bench.write(name)
    bench.broken |= {str(bench.root / "a.jpg"), str(bench.root / "b.JPG")}
    for name in ("a.jpg.xmp", "b.xmp", "c.jpeg.xmp", "absent.xmp"):
        bench.hint(name)
    bench.feed.take_hints()
    bench.now += 2
    assert sorted(bench.pull()) == ["a.jpg", "b.JPG"]


def test_it_stops_when_told(bench: Bench) -> None:
    for number in range(5):
        bench.write(f"{number}.jpg")
        bench.hint(f"{number}.jpg", renamed=True)
    run = bench.feed.candidates(lambda: bench.feed.in_flight >= 2)
    assert len(list(run)) >= 2
    assert list(bench.feed.candidates(lambda: True)) == []


operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "half", "finish", "delete", "move", "wait", "lose"]),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(steps=operations)
def test_in_the_end_every_complete_file_is_known_as_it_is(
    steps: list[tuple[str, int, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever happens, with or without hints: after a scan the store knows the last version of each file."""
    bench = Bench(tmp_path_factory.mktemp("photos"))
    version = 0
    for what, number, hinted in steps:
        name, other, version = f"{number}.jpg", f"{(number + 1) % 5}.jpg", version + 1
        if what in ("write", "half", "finish"):
            data = jpeg(16 + version, 16)
            bench.write(name, data[:-1] if what == "half" else data)
        elif what == "delete" and (bench.root / name).exists():
            (bench.root / name).unlink()
        elif what == "move" and (bench.root / name).exists():
            (bench.root / name).rename(bench.root / other)
            name = other
        elif what == "lose":
            bench.feed.box.lose()
        if hinted:
            bench.hint(name, renamed=what == "move")
        bench.now += 5 if what == "wait" else 0.5
        bench.pull()
    bench.feed.scan_soon()
    for _ in range(200):
        bench.pull()
        bench.now += 10
    assert bench.feed.in_flight == bench.feed.waiting == 0
    for entry in os.scandir(bench.root):
        status = entry.stat()
        assert bench.known[entry.path] == FileSignature(status.st_size, status.st_mtime_ns)


def test_a_clock_that_is_ahead_delays_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose clock is an hour ahead makes files that are younger than now."""
    bench.write("a.jpg")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    bench.feed.scan_soon()
    assert bench.pull() == []
    bench.now += 2
    assert bench.pull() == ["a.jpg"]


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Bench]:
    yield Bench(tmp_path / "photos", quiet=2)


def test_memory_is_bounded_by_the_files_that_are_waited_for(many: Bench) -> None:
    many.feed._settling._limit = 50
    for number in range(200):
        many.write(f"{number % 4}/{number}.jpg")
    found: set[str] = set()
    for _ in range(30):
        found |= set(many.pull())
        assert many.feed.waiting <= 50
        many.now += 3
    assert len(found) == 200
