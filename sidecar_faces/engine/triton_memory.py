"""System shared memory between a client and a Triton server on the same machine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, shared_memory

_WORTHWHILE = 1 << 16
_ALIGN = 64


class SharedArea:
    """One region, as large as the largest request so far, that holds the inputs of one request at a time.

    A server that cannot see this machine's memory (it runs in a container) refuses to register it; then
    nothing is shared with it again.
    """

    def __init__(self) -> None:
        self._name = f"sidecar-faces-{os.getpid()}-{secrets.token_hex(4)}"
        self._region: Any = None
        self._size = 0
        self._registered = False
        self._refused = False

    def place(self, client: Any, inputs: Sequence[Any], values: Sequence[NDArray[Any]]) -> bool:
        """Put the values where the server reads them; False where they must be sent instead."""
        starts = np.cumsum([0, *(-(-value.nbytes // _ALIGN) * _ALIGN for value in values)])
        total = int(starts[-1])
        if self._refused or total < _WORTHWHILE or not self._ready(client, total):
            return False
        for tensor, value, start in zip(inputs, values, starts.tolist(), strict=False):
            shared_memory.set_shared_memory_region(self._region, [value], offset=start)
            tensor.set_shared_memory(self._name, value.nbytes, start)
        return True

    def forget(self) -> None:
        """The server may have restarted: register again."""
        self._registered = False

    def close(self) -> None:
        """Give the memory back; a server that still has it registered keeps it until it ends."""
        if self._region is not None:
            shared_memory.destroy_shared_memory_region(self._region)
            self._region = None

    def _ready(self, client: Any, total: int) -> bool:
        if total > self._size:
            self._replace(client, total)
        if not self._registered:
            self._registered = self._register(client)
        return self._registered

    def _replace(self, client: Any, total: int) -> None:
        if self._registered:
            client.unregister_system_shared_memory(self._name)
        self.close()
        self._registered = False
        self._name = f"sidecar-faces-{os.getpid()}-{secrets.token_hex(4)}"
        self._region = shared_memory.create_shared_memory_region(self._name, f"/{self._name}", total)
        self._size = total

    def _register(self, client: Any) -> bool:
        try:
            client.register_system_shared_memory(self._name, f"/{self._name}", self._size, client_timeout=5)
        except InferenceServerException as error:
            self._refused = str(error.status()) in ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL")
            return False
        return True
