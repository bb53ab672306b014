"""Workers that rest when there is nothing to do, and start anew after a failure of the whole engine."""

from __future__ import annotations

import time
from concurrent.futures import Future

import pytest

from sidecar_faces.core.types import Batch, FaceResult
from sidecar_faces.daemon.rest import RestingExecutor

EMPTY = Batch(())


class Engine:
    """Answers when told to."""

    capacity = 2

    def __init__(self) -> None:
        self.futures: list[Future[tuple[FaceResult, ...]]] = []
        self.closed = 0

    def submit(self, _batch: Batch) -> Future[tuple[FaceResult, ...]]:
        self.futures.append(Future())
        return self.futures[-1]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made() -> list[Engine]:
    return []


@pytest.fixture
def executor(made: list[Engine]) -> RestingExecutor:
    def make() -> Engine:
        made.append(Engine())
        return made[-1]

    return RestingExecutor(make, capacity=2, rest_after=60)


def test_it_starts_with_the_first_batch_and_rests_when_nothing_is_asked(
    executor: RestingExecutor, made: list[Engine]
) -> None:
    assert executor.is_resting
    assert made == []
    future = executor.submit(EMPTY)
    executor.rest(time.monotonic() + 1000)
    assert not executor.is_resting  # something is asked still
    made[0].futures[0].set_result(())
    assert future.result() == ()
    executor.rest(time.monotonic() + 30)
    assert not executor.is_resting
    executor.rest(time.monotonic() + 61)
    assert executor.is_resting
    assert made[0].closed == 1
    executor.submit(EMPTY)
    assert len(made) == 2


def test_an_engine_that_failed_is_dropped(executor: RestingExecutor, made: list[Engine]) -> None:
    first, second = executor.submit(EMPTY), executor.submit(EMPTY)
    made[0].futures[0].set_exception(ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        first.result()
    assert executor.is_resting
    executor.submit(EMPTY)
    assert len(made) == 2
    made[0].futures[1].set_exception(ConnectionError("gone"))  # late: it is not the new one's fault
    with pytest.raises(ConnectionError):
        second.result()
    assert not executor.is_resting
    deadline = time.monotonic() + 20
    while not made[0].closed:
        assert time.monotonic() < deadline
    assert made[1].closed == 0


def test_a_batch_that_was_cancelled_is_no_failure(executor: RestingExecutor, made: list[Engine]) -> None:
    executor.submit(EMPTY)
    made[0].futures[0].cancel()
    assert not executor.is_resting
    executor.close()
    assert executor.is_resting
    assert made[0].closed == 1
    executor.close()
