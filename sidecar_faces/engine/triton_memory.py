"""Shared memory between a client and a Triton server on the same machine: the system's, or a GPU's."""

from __future__ import annotations

import importlib
import mmap
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from sidecar_faces.engine.decode_dali import has_gpu

PREFIX = "sidecar-faces-client-"
_FOLDER = "/dev/shm"  # noqa: S108 - where POSIX shared memory is on Linux
_WORTHWHILE = 1 << 16
_SMALLEST = 1 << 22
_ALIGN = 64
_TIMEOUT_S = 5.0
_PATIENCE_S, _PAUSE_S = 2.0, 0.02
_DEVICE = 0
"""The GPU that `decode_dali` uses."""


class SharedArea:
    """One region, as large as the largest request so far, that holds the inputs of one request at a time.

    Its name is gone as soon as the server has mapped it, so that nothing is left behind however we end; what
    a killed client had registered is unregistered by the next one. A server that cannot see this machine's
    memory (it runs in a container) refuses to register it; then nothing is shared with it again.
    """

    def __init__(self) -> None:
        self.refused = ""
        """Why nothing is shared; empty as long as it may be."""
        self._name, self._size = "", 0
        self._memory: Any = None
        self._stale: dict[str, Any] = {}
        """What the server may still have mapped, by name."""

    def place(self, client: Any, inputs: Sequence[Any], values: Sequence[NDArray[Any]]) -> bool:
        """Put the values where the server reads them; False where they must be sent instead."""
        padded = [(value, np.zeros(-value.nbytes % _ALIGN, np.uint8)) for value in values]
        starts = [0, *accumulate(value.nbytes + pad.nbytes for value, pad in padded)]
        if self.refused or starts[-1] < _WORTHWHILE:
            return False
        try:
            if not self._reserve(client, starts[-1]):
                return False
            self._write([part for pair in padded for part in pair if part.size])
        except OSError as error:
            self.refused = str(error)
            return False
        for tensor, value, start in zip(inputs, values, starts, strict=False):
            tensor.set_shared_memory(self._name, value.nbytes, start)
        return True

    def forget(self) -> None:
        """The server may have restarted and know nothing of it, or still read from it."""
        if self._memory is not None:
            self._stale[self._name] = self._memory
            self._memory = None

    def close(self, client: Any) -> None:
        """Let the server give the memory back; it may hold it for a moment after it has answered."""
        self.forget()
        self._drop_stale(client)
        end = time.monotonic() + _PATIENCE_S
        while self._stale and time.monotonic() < end:
            time.sleep(_PAUSE_S)
            self._drop_stale(client)

    def _reserve(self, client: Any, total: int) -> bool:
        """Have a region of that size; False where the server does not take one. Raises OSError."""
        if self._memory is not None and self._size < total:
            self.forget()
        self._drop_stale(client)
        if self._memory is not None:
            return True
        self._sweep(client)
        name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        size = max(_SMALLEST, 1 << (total - 1).bit_length())
        try:
            self._memory = self._created(client, name, size)
        except InferenceServerException as error:
            if str(error.status()) in ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL"):
                self.refused = str(error)
            self._drop_stale(client)
            return False
        self._name, self._size = name, size
        return True

    def _drop_stale(self, client: Any) -> None:
        """A region that the server still reads from cannot be unregistered yet; one of a server that is
        gone need not be.
        """
        for name, memory in list(self._stale.items()):
            try:
                self._unregister(client, name)
            except InferenceServerException as error:
                if "in use" in str(error) or str(error.status()) == "StatusCode.DEADLINE_EXCEEDED":
                    continue
            del self._stale[name]
            self._free(memory)

    def _sweep(self, client: Any) -> None:
        """Unregister what clients on this machine left behind that were killed."""
        with suppress(InferenceServerException):
            for name in self._status(client).regions:
                owner = name.removeprefix(PREFIX).partition("-")[0]
                if name.startswith(PREFIX) and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                    self._unregister(client, name)

    def _created(self, client: Any, name: str, size: int) -> Any:
        """Memory that the server has mapped. Raises OSError or InferenceServerException."""
        path = f"{_FOLDER}/{name}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)  # a full /dev/shm shall fail here, not while it is written
            memory = mmap.mmap(fd, size)
            client.register_system_shared_memory(name, f"/{name}", size, client_timeout=_TIMEOUT_S)
        finally:
            os.close(fd)
            os.unlink(path)
        return memory

    def _write(self, parts: Sequence[NDArray[Any]]) -> None:
        """One after the other, from the beginning on. Raises OSError."""
        self._memory.seek(0)
        for part in parts:
            self._memory.write(part)

    def _status(self, client: Any) -> Any:
        return client.get_system_shared_memory_status(client_timeout=_TIMEOUT_S)

    def _unregister(self, client: Any, name: str) -> None:
        client.unregister_system_shared_memory(name, client_timeout=_TIMEOUT_S)

    def _free(self, memory: Any) -> None:
        """It is unmapped with its last reference."""


class CudaArea(SharedArea):
    """The same in a GPU's memory, for models that run on that GPU. Its memory is freed only after the server
    has let go of it. `cuda` is the module `tritonclient.utils.cuda_shared_memory`.
    """

    def __init__(self, cuda: Any) -> None:
        super().__init__()
        self._cuda = cuda

    def _created(self, client: Any, name: str, size: int) -> Any:
        try:
            memory = self._cuda.create_shared_memory_region(name, size, _DEVICE)
            handle = self._cuda.get_raw_handle(memory)
        except Exception as error:  # of CUDA, or of bindings that do not fit
            raise OSError(str(error)) from None
        try:
            client.register_cuda_shared_memory(name, handle, _DEVICE, size, client_timeout=_TIMEOUT_S)
        except InferenceServerException:
            self._stale[name] = memory  # it may have been mapped all the same
            raise
        return memory

    def _write(self, parts: Sequence[NDArray[Any]]) -> None:
        try:
            self._cuda.set_shared_memory_region(self._memory, list(parts))
        except Exception as error:
            raise OSError(str(error)) from None

    def _status(self, client: Any) -> Any:
        return client.get_cuda_shared_memory_status(client_timeout=_TIMEOUT_S)

    def _unregister(self, client: Any, name: str) -> None:
        client.unregister_cuda_shared_memory(name, client_timeout=_TIMEOUT_S)

    def _free(self, memory: Any) -> None:
        self._cuda.destroy_shared_memory_region(memory)


def cuda_area() -> CudaArea | None:
    """None where there is no GPU, or nothing to reach its memory with (the package `cuda-python`)."""
    if not has_gpu():
        return None
    try:
        return CudaArea(importlib.import_module("tritonclient.utils.cuda_shared_memory"))
    except (ImportError, RuntimeError, OSError):  # the bindings are missing, or their libraries
        return None
