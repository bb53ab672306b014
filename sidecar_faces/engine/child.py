"""One child process that runs a worker: what happens in it, and the handle by which its parent holds it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe

from sidecar_faces.core.types import Batch, FaceResult
from sidecar_faces.engine.base import EngineSettings, Worker
from sidecar_faces.errors import ModelError, SidecarFacesError

Results = tuple[FaceResult, ...]
Factory = Callable[[EngineSettings], Worker]
"""Makes the worker, in the child; a function or class at the top of a module, so that it can be pickled."""

_START_TIMEOUT_S = 120.0
_START_TRIES = 3
_LAST_WORDS_S = 5.0
"""How long a child whose pipe has ended may take until its exit code is known."""
_MAX_GROWTH = 1 << 30
"""Resident bytes, beyond those at its start, from which a child is replaced once its batch is done."""
_PR_SET_PDEATHSIG = 1
_SAME_PATH = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_RUN_MAIN = "from sidecar_faces.engine.child import main; main(int(sys.argv[2]), int(sys.argv[3]))"


class ChildLostError(Exception):
    """A child died or hung over a batch; the message is a phrase that follows the photo's name."""


def fresh_interpreter(code: str, *arguments: str) -> list[str]:
    """The command of an interpreter that imports what this one does and nothing from the current folder: that
    may be the library. The arguments start at `sys.argv[2]`.
    """
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    return [sys.executable, "-I", "-c", _SAME_PATH + code, path, *arguments]


def main(descriptor: int, parent: int) -> None:
    """Run in the child: make the worker, say so, then answer batch after batch until the pipe ends.

    `descriptor`: our end of the pipe, on which settings and factory come first; `parent`: id of its process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # systemd stops a whole group; our parent decides for us
        signal.signal(number, signal.SIG_IGN)
    _die_with(parent)
    warnings.simplefilter("ignore")  # of libraries, on odd metadata; stderr belongs to our parent's messages
    connection = Connection(descriptor)
    try:
        settings, factory = connection.recv()
        worker: Worker = factory(settings)
    except EOFError:
        return None
    except SidecarFacesError as error:
        return connection.send(error)
    except Exception as error:
        return connection.send(ModelError(f"The worker cannot start ({error.__class__.__name__}: {error})."))
    connection.send(_resident())
    while True:
        try:
            batch = connection.recv()
        except EOFError:
            return None
        connection.send((worker.process(batch), _resident()))


def _die_with(parent: int) -> None:
    """Be killed when the parent ends, even in the middle of a batch; elsewhere than on Linux the pipe's end
    does that, after the batch."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _resident() -> int:
    """Resident bytes of this process; 0 where that cannot be told."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Child:
    """Runs batches in a child process, which is started when one comes and none runs.

    `deadline`: seconds per batch. Only one thread may call `run`; `end` may be called from any. Linux kills
    the child when the *thread* that started it ends, so that thread must live as long as the child.
    """

    def __init__(self, settings: EngineSettings, deadline: float, factory: Factory) -> None:
        self._settings, self._deadline, self._factory = settings, deadline, factory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._limit = 0
        self._ended = False

    def run(self, batch: Batch) -> Results:
        """Raises ChildLostError where the batch kills or hangs the child, ModelError where none can start."""
        connection = self._hand_over(batch)
        if not connection.poll(self._deadline):
            self._stop()
            raise ChildLostError(f"takes longer than {self._deadline:g} s")
        try:
            results, resident = connection.recv()
        except (EOFError, OSError):
            raise ChildLostError(f"ends the worker process ({self._stop(_LAST_WORDS_S)})") from None
        if resident > self._limit:
            self._stop()
        return tuple(results)

    def end(self) -> None:
        """Kill the child for good: whatever is asked of it from now on raises ChildLostError."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def _hand_over(self, batch: Batch) -> Connection:
        """Send the batch to a child that lives; one that died while it was idle is no batch's fault."""
        for _ in range(_START_TRIES):
            connection = self._connection or self._start()
            try:
                connection.send(batch)
            except OSError:
                self._stop()
            else:
                return connection
        raise ModelError("Worker processes keep ending before they are given any work.")

    def _start(self) -> Connection:
        ended = ""
        for _ in range(_START_TRIES):
            try:
                connection = self._spawn()
                said = connection.recv() if connection.poll(_START_TIMEOUT_S) else TimeoutError()
            except (EOFError, OSError) as error:
                ended = self._stop(_LAST_WORDS_S) or str(error)
                continue
            if isinstance(said, int):
                self._limit = said + _MAX_GROWTH
                return connection
            self._stop()
            if isinstance(said, SidecarFacesError):
                raise said
            ended = f"not ready within {_START_TIMEOUT_S:g} s"
        raise ModelError(f"The worker process cannot start ({ended}).")

    def _spawn(self) -> Connection:
        """Start a fresh interpreter. A session of its own keeps a terminal's Ctrl-C away from it."""
        ours, theirs = Pipe()
        descriptor = theirs.fileno()
        command = fresh_interpreter(_RUN_MAIN, str(descriptor), str(os.getpid()))
        with theirs, self._lock:
            if self._ended:
                raise ChildLostError("was not finished")
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(descriptor,), start_new_session=True
            )
            self._process, self._connection = process, ours
        ours.send((self._settings, self._factory))
        return ours

    def _stop(self, patience: float = 0) -> str:
        """End this child, which may take `patience` seconds to do so itself; says how it ended."""
        process, connection = self._process, self._connection
        if process is None or connection is None:
            return ""
        connection.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        process.kill()
        code = process.wait()
        with self._lock:
            self._process = self._connection = None
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
