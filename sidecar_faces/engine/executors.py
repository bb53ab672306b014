"""Where the worker runs: in this process, or in supervised child processes.

Each child has a pipe and a supervising thread of its own, so that a child that dies at any point of a
conversation can confuse nobody else; pools that share one channel between their processes cannot promise
that. A batch that kills or hangs its child is cut in halves until the photo that does it is alone.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import CancelledError, Future

from sidecar_faces.core.types import Batch, FaceResult, Failure, FailureKind
from sidecar_faces.engine.base import EngineSettings, Worker
from sidecar_faces.engine.child import Child, ChildLostError, Factory, Results
from sidecar_faces.engine.worker import LocalWorker


class InlineExecutor:
    """Runs batches at once, in the caller's thread. For tests and for debugging."""

    capacity = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def submit(self, batch: Batch) -> Future[Results]:
        """A future that is done."""
        future: Future[Results] = Future()
        try:
            future.set_result(self._worker.process(batch))
        except Exception as error:  # as from any executor, it is raised where the result is asked for
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing is held."""


class ProcessExecutor:
    """Spawned child processes, one batch at a time each; they start when the first batch comes.

    `deadline`: seconds that one batch may take. A child that cannot start (its models are missing) ends the
    run: its ModelError is what every future then raises. Children ignore SIGINT and SIGTERM, which this
    process answers for them, and end when it ends, however it ends.
    """

    def __init__(
        self, settings: EngineSettings, workers: int, deadline: float, factory: Factory = LocalWorker
    ) -> None:
        self.capacity = 2 * workers
        self._tasks: queue.SimpleQueue[tuple[Batch, Future[Results]] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._broken: Exception | None = None
        self._children = [Child(settings, deadline, factory) for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(child,), daemon=True) for child in self._children
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, batch: Batch) -> Future[Results]:
        """Results in the batch's order. A crash or a hang becomes a failure of the culprit alone."""
        future: Future[Results] = Future()
        self._tasks.put((batch, future))
        return future

    def close(self) -> None:
        """End children; what is in flight is cancelled."""
        self._closed.set()
        for child in self._children:
            child.end()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, child: Child) -> None:
        """One thread per child: it starts the child, hands it batches, and outlives it."""
        while (task := self._tasks.get()) is not None:
            batch, future = task
            if not self._closed.is_set() and future.set_running_or_notify_cancel():
                self._settle(child, batch, future)
            else:
                future.cancel()

    def _settle(self, child: Child, batch: Batch, future: Future[Results]) -> None:
        if self._broken is not None:
            return future.set_exception(self._broken)
        try:
            future.set_result(self._run(child, batch))
        except CancelledError as error:
            future.set_exception(error)
        except Exception as error:
            self._broken = error
            future.set_exception(error)
        return None

    def _run(self, child: Child, batch: Batch) -> Results:
        try:
            return child.run(batch)
        except ChildLostError as lost:
            if self._closed.is_set():
                raise CancelledError from None
            reason = str(lost)
        photos = batch.photos
        if len(photos) == 1:
            return (FaceResult(photos[0], failure=Failure(FailureKind.FAILED, reason)),)
        middle = len(photos) // 2
        return (*self._run(child, Batch(photos[:middle])), *self._run(child, Batch(photos[middle:])))
