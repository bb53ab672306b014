"""System shared memory between a client and a Triton server on the same machine."""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

PREFIX = "sidecar-faces-client-"
_FOLDER = "/dev/shm"  # noqa: S108 - where POSIX shared memory is on Linux
_WORTHWHILE = 1 << 16
_SMALLEST = 1 << 22
_ALIGN = 64
_TIMEOUT_S = 5.0
_PATIENCE_S, _PAUSE_S = 2.0, 0.02


class SharedArea:
    """One region, as large as the largest request so far, that holds the inputs of one request at a time.

    Its name is gone as soon as the server has mapped it, so that nothing is left behind however we end; what
    a killed client had registered is unregistered by the next one. A server that cannot see this machine's
    memory (it runs in a container) refuses to register it; then nothing is shared with it again.
    """

    def __init__(self) -> None:
        self._name = ""
        self._memory: mmap.mmap | None = None
        self._stale: list[str] = []
        self._refused = False

    def place(self, client: Any, inputs: Sequence[Any], values: Sequence[NDArray[Any]]) -> bool:
        """Put the values where the server reads them; False where they must be sent instead."""
        starts = np.cumsum([0, *(-(-value.nbytes // _ALIGN) * _ALIGN for value in values)]).tolist()
        if self._refused or starts[-1] < _WORTHWHILE:
            return False
        if (memory := self._at_least(client, starts[-1])) is None:
            return False
        for tensor, value, start in zip(inputs, values, starts, strict=False):
            memory[start : start + value.nbytes] = value.tobytes()
            tensor.set_shared_memory(self._name, value.nbytes, start)
        return True

    def forget(self) -> None:
        """The server may have restarted and know nothing of it."""
        self._memory, self._stale = None, []

    def close(self, client: Any) -> None:
        """Let the server give the memory back; it may hold it for a moment after it has answered."""
        self._retire(client)
        end = time.monotonic() + _PATIENCE_S
        while self._stale and time.monotonic() < end:
            time.sleep(_PAUSE_S)
            self._drop_stale(client)

    def _retire(self, client: Any) -> None:
        if self._memory is not None:
            self._stale.append(self._name)
            self._memory = None
        self._drop_stale(client)

    def _at_least(self, client: Any, total: int) -> mmap.mmap | None:
        if self._memory is not None and len(self._memory) >= total:
            return self._memory
        self._retire(client)
        sweep(client)
        self._memory = self._made(client, max(_SMALLEST, 1 << (total - 1).bit_length()))
        return self._memory

    def _made(self, client: Any, size: int) -> mmap.mmap | None:
        name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        path = f"{_FOLDER}/{name}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)  # a full /dev/shm shall fail here, not while it is written
                memory = mmap.mmap(fd, size)
                client.register_system_shared_memory(name, f"/{name}", size, client_timeout=_TIMEOUT_S)
            finally:
                os.close(fd)
                os.unlink(path)
        except OSError:
            self._refused = True
            return None
        except InferenceServerException as error:
            self._refused = str(error.status()) in ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL")
            return None
        self._name = name
        return memory

    def _drop_stale(self, client: Any) -> None:
        """A region that the server still reads from cannot be unregistered yet; one of a server that is
        gone need not be.
        """
        waiting = []
        for name in self._stale:
            try:
                client.unregister_system_shared_memory(name, client_timeout=_TIMEOUT_S)
            except InferenceServerException as error:
                if "in use" in str(error):
                    waiting.append(name)
        self._stale = waiting


def sweep(client: Any) -> None:
    """Unregister what clients on this machine left behind that were killed."""
    with suppress(InferenceServerException):
        for name in client.get_system_shared_memory_status(client_timeout=_TIMEOUT_S).regions:
            owner = name.removeprefix(PREFIX).partition("-")[0]
            if name.startswith(PREFIX) and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                client.unregister_system_shared_memory(name, client_timeout=_TIMEOUT_S)
