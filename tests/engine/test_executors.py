"""Executors: what a batch does to its process costs that batch alone, and in it the culprit alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import Batch, FaceResult, FailureKind, FileSignature, ImageFormat, Photo
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.executors import InlineExecutor, ProcessExecutor
from sidecar_faces.engine.worker import LocalWorker
from sidecar_faces.errors import ModelError
from tests.engine.conftest import MakePhoto
from tests.engine.faulty import FaultyWorker

Start = Callable[..., ProcessExecutor]


def batch(*names: str) -> Batch:
    return Batch(
        tuple(Photo(f"/photos/{n}", FileSignature(1, 1), ImageFormat.JPEG, Size(9, 9), 1) for n in names)
    )


def pids(results: tuple[FaceResult, ...]) -> list[int]:
    return [int(result.faces[0].box.x) if result.faces else 0 for result in results]


@pytest.fixture
def start() -> Iterator[Start]:
    opened: list[ProcessExecutor] = []

    def make(workers: int = 1, deadline: float = 60.0, models: str = "") -> ProcessExecutor:
        opened.append(ProcessExecutor(EngineSettings(models), workers, deadline, FaultyWorker))
        return opened[-1]

    yield make
    for executor in opened:
        executor.close()


@pytest.mark.parametrize(
    ("culprit", "reason"),
    [
        ("abort", "ends the worker process (SIGABRT)"),
        ("kill", "ends the worker process (SIGKILL)"),
        ("exit", "ends the worker process (exit code 7)"),
        ("raise", "ends the worker process (exit code 1)"),
    ],
)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_crash_costs_the_culprit_alone(start: Start, culprit: str, reason: str, place: int) -> None:
    names = [f"{number}.jpg" for number in range(7)]
    names[place] = f"{culprit}.jpg"
    executor = start()
    results = executor.submit(batch(*names)).result()
    assert [result.photo.path for result in results] == [f"/photos/{name}" for name in names]
    bad = results[place].failure
    assert bad is not None
    assert (bad.kind, bad.reason) == (FailureKind.FAILED, reason)
    assert all(result.faces and result.failure is None for n, result in enumerate(results) if n != place)
    assert pids(executor.submit(batch("after.jpg")).result())[0] > 0


def test_several_culprits_in_one_batch(start: Start) -> None:
    results = start().submit(batch("abort1", "a", "exit", "b", "c", "abort2")).result()
    assert [result.failure is not None for result in results] == [True, False, True, False, False, True]


def test_a_hang_ends_at_the_deadline(start: Start) -> None:
    results = start(deadline=0.5).submit(batch("a", "hang", "b")).result()
    assert [bool(result.faces) for result in results] == [True, False, True]
    assert results[1].failure is not None
    assert results[1].failure.reason == "takes longer than 0.5 s"


def test_one_child_per_worker_which_serves_many_batches(start: Start) -> None:
    executor = start(workers=2)
    assert executor.capacity == 4
    futures = [executor.submit(batch(str(number))) for number in range(30)]
    used = {pids(future.result())[0] for future in futures}
    assert 1 <= len(used) <= 2
    assert os.getpid() not in used


def test_children_start_only_when_there_is_work(start: Start) -> None:
    before = len(psutil.Process().children())
    executor = start(workers=4)
    assert len(psutil.Process().children()) == before
    executor.close()


def test_a_child_that_died_while_idle_is_nobodys_fault(start: Start) -> None:
    executor = start()
    (pid,) = pids(executor.submit(batch("a")).result())
    victim = psutil.Process(pid)
    victim.kill()
    while victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:
        os.sched_yield()
    results = executor.submit(batch("b", "c")).result()
    assert all(result.failure is None for result in results)
    assert pids(results)[0] not in (0, pid)


def test_a_child_that_grew_is_replaced_after_its_batch(start: Start) -> None:
    executor = start()
    (first,) = pids(executor.submit(batch("a")).result())
    assert pids(executor.submit(batch("b")).result()) == [first]
    assert pids(executor.submit(batch("grow")).result()) == [first]
    assert pids(executor.submit(batch("c")).result()) != [first]
    assert not psutil.pid_exists(first)


@pytest.mark.parametrize(
    ("models", "said"),
    [("missing", "models install"), ("broken", "ZeroDivisionError: broken"), ("dies", "exit code 3")],
)
def test_a_worker_that_cannot_start_ends_the_run_with_the_reason(
    start: Start, models: str, said: str
) -> None:
    executor = start(workers=2, models=models)
    futures = [executor.submit(batch(str(number))) for number in range(6)]
    for future in futures:
        with pytest.raises(ModelError, match=said):
            future.result()


def test_children_leave_interrupts_to_their_parent(start: Start) -> None:
    (result,) = start().submit(batch("interrupt")).result()
    assert result.failure is None


def test_closing_cancels_what_waits_and_what_runs(start: Start) -> None:
    executor = start(deadline=600)
    running = executor.submit(batch("hang"))
    waiting = [executor.submit(batch(str(number))) for number in range(5)]
    while not running.running():
        os.sched_yield()
    executor.close()
    for future in (running, *waiting):
        with pytest.raises(CancelledError):
            future.result(timeout=10)


def test_closing_while_a_child_starts(start: Start) -> None:
    for _ in range(3):
        executor = start(workers=2)
        futures = [executor.submit(batch("a")) for _ in range(4)]
        executor.close()
        for future in futures:
            assert future.done()


def test_a_future_that_was_cancelled_is_not_run(start: Start) -> None:
    executor = start()
    first = executor.submit(batch("a", "b", "c"))
    second = executor.submit(batch("abort"))
    assert second.cancel()
    assert first.result()
    assert executor.submit(batch("d")).result()


PARENT = """
import os, sys
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.executors import ProcessExecutor
from tests.engine.faulty import FaultyWorker
from tests.engine.test_executors import batch, pids

if __name__ == "__main__":
    executor = ProcessExecutor(EngineSettings(""), 1, 600, FaultyWorker)
    print(*pids(executor.submit(batch("a")).result()), flush=True)
    executor.submit(batch("hang"))
    sys.stdin.read()
"""


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = os.path.join(tmp_path, "parent.py")
    with open(script, "w", encoding="ascii") as file:
        file.write(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    gone, alive = psutil.wait_procs([child], timeout=20)
    assert not alive, "the child outlived its parent"
    assert gone


def test_inline_and_in_children_are_the_same(
    engine: EngineSettings, photo: MakePhoto, portrait: Image.Image
) -> None:
    photos = Batch((photo(portrait, "a.jpg"), photo(Image.new("RGB", (300, 200)), "b.jpg")))
    inline = InlineExecutor(LocalWorker(engine))
    with closing(ProcessExecutor(engine, 2, 60)) as executor:
        futures = [executor.submit(photos) for _ in range(4)]
        for future in futures:
            assert future.result() == inline.submit(photos).result()
    inline.close()
    assert [len(result.faces) for result in inline.submit(photos).result()] == [1, 0]


def test_children_import_nothing_from_the_current_folder(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "multiprocessing", "numpy", "sidecar_faces", "tests"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    (result,) = start().submit(batch("a")).result()
    assert result.failure is None
    assert not (tmp_path / "canary").exists()


def test_a_missing_model_is_named(engine: EngineSettings, tmp_path: Path) -> None:
    absent = replace(engine, models=os.fspath(tmp_path))
    with (
        closing(ProcessExecutor(absent, 1, 60)) as executor,
        pytest.raises(ModelError, match="sidecar-faces models install"),
    ):
        executor.submit(batch("a")).result()


def test_inline_hands_on_what_the_worker_raises() -> None:
    future: Future[tuple[FaceResult, ...]] = InlineExecutor(FaultyWorker(EngineSettings(""))).submit(
        batch("raise")
    )
    with pytest.raises(ZeroDivisionError):
        future.result()
