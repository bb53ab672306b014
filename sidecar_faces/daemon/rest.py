"""An executor that ends its workers when there is nothing to do for long, and starts anew when there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from sidecar_faces.core.types import Batch, FaceResult
from sidecar_faces.engine.base import Executor


class RestingExecutor:
    """Makes the executor when the first batch comes; used by the threads of all libraries.

    One that failed as a whole (its models are missing, its server is gone) is dropped, so that the next batch
    starts with a new one.
    """

    def __init__(self, make: Callable[[], Executor], capacity: int, rest_after: float) -> None:
        self.capacity = capacity
        self._make = make
        self._rest_after = rest_after
        self._lock = threading.Lock()
        self._inner: Executor | None = None
        self._pending = 0
        self._used = time.monotonic()

    @property
    def is_resting(self) -> bool:
        return self._inner is None

    def submit(self, batch: Batch) -> Future[tuple[FaceResult, ...]]:
        """As any executor."""
        with self._lock:
            if self._inner is None:
                self._inner = self._make()
            self._pending += 1
            executor = self._inner
        future = executor.submit(batch)
        future.add_done_callback(lambda done: self._ended(executor, done))
        return future

    def _ended(self, executor: Executor, future: Future[tuple[FaceResult, ...]]) -> None:
        failed = not future.cancelled() and future.exception() is not None
        with self._lock:
            self._pending -= 1
            self._used = time.monotonic()
            dropped = executor if failed and executor is self._inner else None
            if dropped is not None:
                self._inner = None
        _close_aside(dropped)

    def renew(self) -> None:
        """Give up what is in flight, which hangs for one library and keeps the others waiting."""
        with self._lock:
            given_up, self._inner = self._inner, None
        _close_aside(given_up)

    def rest(self, now: float) -> None:
        """End the workers if nothing was asked of them for long; `now` in monotonic seconds."""
        with self._lock:
            if self._inner is None or self._pending or now - self._used < self._rest_after:
                return
            resting, self._inner = self._inner, None
        resting.close()

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            closing, self._inner = self._inner, None
        if closing is not None:
            closing.close()


def _close_aside(executor: Executor | None) -> None:
    """In another thread: this one may be of the executor that is to end, or must not wait for it."""
    if executor is not None:
        threading.Thread(target=executor.close, daemon=True).start()
