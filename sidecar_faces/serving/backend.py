"""The frame of our python models: one request at a time, other models of the server, photos from memory.

Run by Triton's python backend. A request that cannot be answered gets an error of its own, and the others of
its batch are none the worse.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as backend
from numpy.typing import NDArray

from sidecar_faces.core.types import Photo
from sidecar_faces.errors import SidecarFacesError
from sidecar_faces.library.probe import Limits, probe

Tensors = dict[str, NDArray[Any]]


class UpstreamError(Exception):
    """Another model of this server did not answer: the server is not well, the request is."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request: tensors by name, the outputs that are wanted, and its parameters."""

    tensors: Tensors
    wanted: list[str]
    parameters: dict[str, Any]


class Model:
    """What Triton calls. A subclass answers one request: tensors by name in, tensors by name out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called once, when the model is loaded; the python backend documents `args`."""
        config = json.loads(args["model_config"])
        self.config = config
        self.folder = os.path.join(args["model_repository"], args["model_version"])
        self.parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.open()

    def open(self) -> None:
        """Load what the model needs."""

    def answer(self, asked: Question) -> Tensors:
        """Raises SidecarFacesError or ValueError for a request that cannot be answered."""
        raise NotImplementedError

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called for each batch."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        wanted = request.requested_output_names()
        tensors = {name: backend.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        try:
            found = self.answer(Question(tensors, wanted, json.loads(request.parameters() or "{}")))
        except (SidecarFacesError, ValueError) as error:
            return _error(error, backend.TritonError.INVALID_ARG)
        except UpstreamError as error:
            return _error(error, backend.TritonError.UNAVAILABLE)
        made = [backend.Tensor(name, np.ascontiguousarray(found[name])) for name in wanted]
        return backend.InferenceResponse(output_tensors=made)


def log(message: str) -> None:
    """A warning in the server's log."""
    backend.Logger.log_warn(message)


def _error(error: Exception, code: Any) -> Any:
    return backend.InferenceResponse(error=backend.TritonError(str(error), code))


def ask(model: str, tensors: Tensors, outputs: Sequence[str]) -> list[NDArray[Any]]:
    """The outputs of another model of this server, in main memory. Raises UpstreamError."""
    response = backend.InferenceRequest(
        model_name=model,
        inputs=[backend.Tensor(name, value) for name, value in tensors.items()],
        requested_output_names=list(outputs),
        preferred_memory=backend.PreferredMemory(backend.TRITONSERVER_MEMORY_CPU, 0),
    ).exec()
    if response.has_error():
        raise UpstreamError(f"{model}: {response.error().message()}")
    return [backend.get_output_tensor_by_name(response, output).as_numpy() for output in outputs]


def remote(model: str, name: str, outputs: Sequence[str]) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    """A model with one input, called `name`, as a function."""
    return lambda tensor: ask(model, {name: tensor}, outputs)


@contextmanager
def in_memory(encoded: NDArray[np.uint8]) -> Iterator[Photo]:
    """Encoded bytes (n,) as a photo that can be decoded as if it were a file. Raises as `probe`."""
    fd = os.memfd_create("photo", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(encoded.tobytes())
        yield probe(f"/proc/self/fd/{fd}", Limits())
    finally:
        os.close(fd)


def stacked(rows: Sequence[NDArray[Any]], width: tuple[int, ...]) -> NDArray[np.float32]:
    """(b, n, *width) of arrays (n_i, *width): those with fewer rows are padded by zeros."""
    most = max((len(row) for row in rows), default=0)
    out = np.zeros((len(rows), most, *width), np.float32)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row.reshape(len(row), *width)
    return out
