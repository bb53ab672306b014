"""When a file is taken: never half-written, always in the end, whatever hints arrive; no clock, no files."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar_faces.core.settle import Debounce, End, Schedule, Settling, Timing
from sidecar_faces.core.types import FileSignature

TIMING = Timing(quiet=2, unmarked=10, longest=60, give_up=300)


def signature(size: int) -> FileSignature:
    return FileSignature(size, size)


@dataclass
class World:
    """One file and a clock; `run_until` looks whenever a look is due, as a caller does."""

    settling: Settling
    now: float = 0.0
    size: int = 1
    end: End = End.SEEN
    taken_at: float | None = None
    looks: int = 0

    def touch(self, *, renamed: bool = False) -> None:
        assert self.settling.touch("/a.jpg", self.now, signature(self.size), renamed=renamed)

    def run_until(self, time: float) -> None:
        while self.taken_at is None and (due := self.settling.next()) is not None and due <= time:
            self.now = max(self.now, due)
            for path in self.settling.due(self.now):
                self.looks += 1
                if self.settling.look(path, self.now, signature(self.size), self.end):
                    self.taken_at = self.now
        self.now = max(self.now, time)


@pytest.fixture
def world() -> World:
    return World(Settling(TIMING))


def test_a_complete_file_is_taken_after_the_quiet_time(world: World) -> None:
    world.touch()
    world.run_until(1.9)
    world.touch()
    world.run_until(100)
    assert world.taken_at == pytest.approx(3.9)


def test_a_file_renamed_into_place_is_taken_at_once(world: World) -> None:
    world.touch(renamed=True)
    world.run_until(0)
    assert world.taken_at == 0


def test_a_renamed_file_that_is_not_complete_waits(world: World) -> None:
    world.end = End.MISSING
    world.touch(renamed=True)
    world.run_until(50)
    assert world.taken_at is None
    world.size, world.end = 2, End.SEEN
    world.run_until(500)
    assert world.taken_at is not None
    assert 52 <= world.taken_at <= 100


def test_a_writer_that_pauses_is_waited_for(world: World) -> None:
    world.end = End.MISSING
    world.touch()
    for time in (30, 100, 250, 400):
        world.run_until(time)
        world.size += 1
        world.touch()
        assert world.taken_at is None
    world.end = End.SEEN
    world.run_until(1000)
    assert world.taken_at == pytest.approx(402)


def test_a_file_without_its_end_is_taken_as_it_is_after_long(world: World) -> None:
    world.end = End.MISSING
    world.touch()
    world.run_until(1000)
    assert world.taken_at == pytest.approx(300)
    assert world.looks < 20


def test_a_format_without_an_end_mark_waits_longer(world: World) -> None:
    world.end = End.UNKNOWN
    world.touch()
    world.run_until(1000)
    assert world.taken_at == pytest.approx(10)


def test_a_file_that_is_touched_for_ever_is_taken_after_the_longest_delay(world: World) -> None:
    while world.taken_at is None and world.now < 1000:
        world.size += 1
        world.touch()
        world.run_until(world.now + 1)
    assert world.taken_at == pytest.approx(60)


def test_a_file_that_grows_for_ever_without_an_end_is_never_taken(world: World) -> None:
    world.end = End.MISSING
    while world.now < 1000:
        world.size += 1
        world.touch()
        world.run_until(world.now + 1)
    assert world.taken_at is None


def test_a_change_that_no_hint_told_of_is_seen(world: World) -> None:
    world.touch()
    world.size = 2
    world.run_until(1000)
    assert world.taken_at == pytest.approx(4)


def test_a_file_that_is_gone_is_forgotten() -> None:
    settling = Settling(TIMING)
    settling.touch("/a.jpg", 0, signature(1))
    assert list(settling.due(2)) == ["/a.jpg"]
    assert not settling.look("/a.jpg", 2, None, End.MISSING)
    assert len(settling) == 0
    assert settling.next() is None
    settling.touch("/b.jpg", 3, signature(1))
    settling.drop("/b.jpg")
    assert "/b.jpg" not in settling
    assert not settling.look("/b.jpg", 9, signature(1), End.SEEN)


def test_no_more_files_are_held_than_agreed() -> None:
    settling = Settling(TIMING, limit=3)
    assert [settling.touch(f"/{n}", 0, signature(1)) for n in range(5)] == [True, True, True, False, False]
    assert settling.touch("/1", 1, signature(2))  # one that is held may be touched
    assert len(settling) == 3


steps = st.lists(
    st.tuples(st.floats(0.01, 200), st.booleans(), st.booleans()),  # pause, does a hint arrive, renamed
    min_size=1,
    max_size=30,
)


@given(steps)
def test_nothing_is_read_early_and_nothing_is_missed(writes: list[tuple[float, bool, bool]]) -> None:
    """A writer whose pauses stay below `give_up`; hints may be lost, renames may be claimed wrongly."""
    world = World(Settling(TIMING), end=End.MISSING)
    world.touch()
    for pause, hint, renamed in writes:
        world.run_until(world.now + pause)
        world.size += 1
        if hint:
            world.touch(renamed=renamed)
    assert world.taken_at is None
    finished = world.now
    world.size, world.end = world.size + 1, End.SEEN
    world.run_until(finished + 10_000)
    assert world.taken_at is not None
    assert finished <= world.taken_at <= finished + TIMING.give_up


@given(st.lists(st.floats(0.01, 1.9), max_size=200), st.sampled_from(End))
def test_the_last_hint_counts(pauses: list[float], end: End) -> None:
    world = World(Settling(Timing(longest=float("inf"))), end=end)
    world.touch()
    for pause in pauses:
        world.run_until(world.now + pause)
        world.size += 1
        world.touch()
    assert world.taken_at is None
    last = world.now
    world.run_until(last + 1000)
    wanted = {End.SEEN: 2, End.UNKNOWN: 10, End.MISSING: 300}[end]
    assert world.taken_at == pytest.approx(last + wanted)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=300))
def test_a_schedule_gives_each_key_once_at_its_last_time(entries: list[tuple[int, float]]) -> None:
    schedule: Schedule[int] = Schedule()
    for key, time in entries:
        schedule.set(key, time)
    wanted = dict(entries)
    assert len(schedule) == len(wanted)
    seen: list[int] = []
    while (due := schedule.next()) is not None:
        keys = list(schedule.due(due))
        assert all(wanted[key] == due and key not in schedule for key in keys)
        seen += keys
    assert sorted(seen) == sorted(wanted)


def test_a_schedule_does_not_grow_with_every_change() -> None:
    schedule: Schedule[str] = Schedule()
    for time in range(10_000):
        schedule.set("a", time)
    assert len(schedule._heap) < 200
    assert list(schedule.due(9_998)) == []
    assert list(schedule.due(9_999)) == ["a"]


def test_a_key_is_due_when_it_is_left_alone_or_after_the_longest_delay() -> None:
    debounce: Debounce[str] = Debounce(quiet=2, longest=5)
    for time in (0, 1, 2, 3, 4):
        debounce.touch("busy", time)
    debounce.touch("calm", 1)
    assert debounce.next() == 3
    assert debounce.pop(2.9) is None
    assert debounce.pop(4) == "calm"
    assert debounce.pop(5) == "busy"
    assert debounce.pop(99) is None
    debounce.touch("busy", 100)
    assert debounce.next() == 102
    debounce.clear()
    assert debounce.next() is None
