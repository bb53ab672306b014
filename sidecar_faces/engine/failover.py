"""An executor for an engine that may go away: it waits until it is back, or goes on elsewhere meanwhile.

No photo is lost, none is looked at twice in vain, and no photo's tries are spent on the engine's troubles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass

from sidecar_faces.core.types import Batch, FaceResult, Failure, FailureKind
from sidecar_faces.engine.base import Executor
from sidecar_faces.errors import EngineUnavailableError

Results = tuple[FaceResult, ...]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: how long an outage may last, between two looks (the first and the longest pause), and how long
    to stay elsewhere before the engine is looked at again.
    """

    total: float = 600.0
    first: float = 0.2
    longest: float = 5.0
    elsewhere: float = 30.0


class FailoverExecutor:
    """Runs batches on `remote`; what it reports as unavailable is run again once `is_back` says so.

    `elsewhere` makes an executor to go on with meanwhile; without it the run waits. `say` is told once when
    the engine goes and once when it is back, however many batches it took down: an outage begins with the
    first batch that is lost and ends with the first that is done by an engine that seems well again. Raises
    EngineUnavailableError, as every future's result, where one is longer than `patience`.
    """

    def __init__(
        self,
        remote: Executor,
        is_back: Callable[[], bool],
        say: Callable[[str], None],
        elsewhere: Callable[[], Executor] | None = None,
        patience: Patience = Patience(),
    ) -> None:
        self.capacity = remote.capacity
        self._remote, self._is_back, self._say = remote, is_back, say
        self._make_elsewhere = elsewhere
        self._elsewhere: Executor | None = None
        self._patience = patience
        self._gate = threading.Lock()
        self._closed = threading.Event()
        self._is_down = False
        self._down_until = 0.0
        self._returns = 0
        """How often the engine seemed well again: a batch sent before the last time tells of the past."""
        self._outage_ends_by: float | None = None
        self._pause = 0.0
        self._threads = ThreadPoolExecutor(self.capacity, thread_name_prefix="failover")

    def submit(self, batch: Batch) -> Future[Results]:
        """Results in the batch's order; none of them is unavailable."""
        return self._threads.submit(self._run, batch)

    def close(self) -> None:
        """End everything; what waits is cancelled."""
        self._closed.set()
        self._remote.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._elsewhere is not None:
            self._elsewhere.close()

    def _run(self, batch: Batch) -> Results:
        done: dict[int, FaceResult] = {}
        todo = list(range(len(batch.photos)))
        while todo:
            executor = self._executor()
            returns = self._returns
            results = executor.submit(Batch(tuple(batch.photos[i] for i in todo))).result()
            for index, result in zip(todo, results, strict=True):
                done[index] = result
            todo = [i for i, result in zip(todo, results, strict=True) if _is_unavailable(result)]
            if todo:
                self._lost(done[todo[0]].failure, returns)
            elif executor is self._remote and self._outage_ends_by is not None:
                self._won(returns)
        return tuple(done[index] for index in range(len(batch.photos)))

    def _executor(self) -> Executor:
        """Where the next batch goes; waits where there is only one place and it is down."""
        if not self._is_down:
            return self._remote
        with self._gate:
            if self._is_down and self._make_elsewhere is None:
                self._wait()
            elif self._is_down and time.monotonic() >= self._down_until:
                self._look_again()
            if not self._is_down:
                return self._remote
            if self._elsewhere is None and self._make_elsewhere is not None:
                self._elsewhere = self._make_elsewhere()
            return self._elsewhere or self._remote

    def _lost(self, failure: Failure | None, returns: int) -> None:
        with self._gate:
            if returns != self._returns:
                return
            now = time.monotonic()
            if self._outage_ends_by is None:
                self._outage_ends_by, self._pause = now + self._patience.total, 0.0
                reason = failure.reason if failure else ""
                self._say(f"{reason} {'Going on locally.' if self._make_elsewhere else 'Waiting for it.'}")
            self._is_down = True
            self._down_until = now + self._patience.elsewhere

    def _won(self, returns: int) -> None:
        with self._gate:
            if returns == self._returns and not self._is_down and self._outage_ends_by is not None:
                self._outage_ends_by = None
                self._say("The engine is back.")

    def _look_again(self) -> None:
        if self._is_back():
            self._is_down = False
            self._returns += 1
        self._down_until = time.monotonic() + self._patience.elsewhere

    def _wait(self) -> None:
        """Look at once, then with pauses that grow, also where the engine seems well and is not."""
        while not self._closed.wait(self._pause):
            if time.monotonic() >= (self._outage_ends_by or 0.0):
                raise EngineUnavailableError(
                    f"No engine for {self._patience.total:g} s: the run ends here, nothing is lost."
                )
            self._pause = min(max(self._pause * 2, self._patience.first), self._patience.longest)
            self._look_again()
            if not self._is_down:
                return
        raise CancelledError


def _is_unavailable(result: FaceResult) -> bool:
    return result.failure is not None and result.failure.kind is FailureKind.UNAVAILABLE
