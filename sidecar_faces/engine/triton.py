"""A client of Triton servers that survives what servers do: restart, hang, be slow, answer garbage.

One `TritonClient` belongs to one thread. What may pass is tried again, with jitter and at the next address;
what remains is told apart: `ServerUnavailableError` (no photo is to blame) or `RequestFailedError` (the
server is well and this request is what it cannot do).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import numpy as np
import stamina.instrumentation
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from sidecar_faces.engine.base import ModelSpec, TensorSpec
from sidecar_faces.engine.encoded import tiny_photo
from sidecar_faces.engine.onnx import check
from sidecar_faces.engine.triton_memory import CudaArea, SharedArea, cuda_area
from sidecar_faces.engine.triton_settings import PATIENCE, PROBE_TIMEOUT_S, TritonSettings
from sidecar_faces.errors import EngineUnavailableError, ModelError, PhotoFailedError, ToolFailedError

T = TypeVar("T")
Tensors = Mapping[str, NDArray[Any]]

_UNLIMITED = 2**31 - 1


class ServerUnavailableError(EngineUnavailableError):
    """No server answers, or what answers is not well; waiting may help, and no photo is to blame."""


class RequestFailedError(PhotoFailedError):
    """A server that is well cannot do this request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One inference: the outputs named are all that is sent back."""

    model: str
    inputs: Tensors
    outputs: tuple[str, ...]
    parameters: Mapping[str, str] | None = None


class TritonClient:
    """Talks to one server at a time; made and used in one thread. `close` it."""

    def __init__(self, settings: TritonSettings) -> None:
        stamina.instrumentation.set_on_retry_hooks(())  # what is worth saying is said by who gives up
        self._settings = settings
        self._turn = 0
        self._client: Any = None
        self._area: SharedArea | None = None
        self._cuda: CudaArea | None = None
        self._on_gpu: dict[str, bool] = {}
        self.sent = 0
        """Bytes of input tensors that went through the network."""

    @property
    def url(self) -> str:
        """The address in use."""
        return self._settings.urls[self._turn % len(self._settings.urls)]

    def infer(self, request: Request) -> dict[str, NDArray[Any]]:
        """The outputs by name. Raises ServerUnavailableError or RequestFailedError."""
        try:
            return self._insist(lambda: self._infer(request, self._settings.timeout))
        except _TransientError as error:
            if self.is_well():
                raise RequestFailedError(f"cannot be processed by the server ({error})") from None
            raise self._unavailable(error) from None

    def is_well(self) -> bool:
        """Whether a real photo passes through all models: a server whose health is fine may be stuck."""
        request = Request("faces_ensemble", {"input_image_data": tiny_photo()[None]}, ("true_proba",))
        try:
            self._infer(request, min(self._settings.timeout, PROBE_TIMEOUT_S))
        except (_TransientError, RequestFailedError):
            self._drop()
            return False
        return True

    def spec(self, model: str) -> ModelSpec:
        """What the server says of a model. Raises ServerUnavailableError or ModelError where it has none."""
        metadata = self._asked(lambda client: client.get_model_metadata(model, **self._call()), model)
        inputs, outputs = (
            tuple(TensorSpec(t.name, _numpy_name(t.datatype), tuple(t.shape)) for t in tensors)
            for tensors in (metadata.inputs, metadata.outputs)
        )
        return ModelSpec(model, inputs, outputs)

    def parameters(self, model: str) -> dict[str, str]:
        """The parameters in a model's configuration. Raises as `spec`."""
        answer = self._asked(lambda client: client.get_model_config(model, **self._call()), model)
        return {key: value.string_value for key, value in answer.config.parameters.items()}

    def verify(self, specs: Sequence[ModelSpec]) -> None:
        """Compare the server with the interfaces that the code expects; raises ModelError with the
        difference.
        """
        for wanted in specs:
            check(wanted, self.spec(wanted.name), f"Triton at {self.url}, model {wanted.name!r}")

    def close(self) -> None:
        """Close the connection and let the server give shared memory back."""
        for area in (self._area, self._cuda):
            if area is not None and self._client is not None:
                area.close(self._client)
        self._drop()

    def _asked(self, question: Callable[[Any], T], model: str) -> T:
        try:
            return self._insist(lambda: _translated(lambda: question(self._connection())))
        except _TransientError as error:
            if str(error).startswith(("NOT_FOUND", "UNIMPLEMENTED")):
                raise ModelError(f"Triton at {self.url}: model {model!r}: {error}.") from None
            raise self._unavailable(error) from None
        except RequestFailedError as error:
            raise ModelError(f"Triton at {self.url}: model {model!r}: {error}.") from None

    def _unavailable(self, error: Exception) -> ServerUnavailableError:
        return ServerUnavailableError(f"Triton at {self.url} does not answer ({error}).")

    def _insist(self, action: Callable[[], T]) -> T:
        """Try again what may pass, at the next address, with growing, jittered pauses.

        A server that lets a request time out is asked something easy first: one that is stuck is not waited
        for.
        """
        for attempt in stamina.retry_context(
            on=_TransientError,
            attempts=self._settings.attempts,
            timeout=PATIENCE * self._settings.timeout,
            wait_initial=0.05,
            wait_max=2,
            wait_jitter=0.2,
        ):
            with attempt:
                try:
                    return action()
                except _TransientError as error:
                    self._drop()
                    self._turn += 1
                    if error.timed_out and not self.is_well():
                        raise self._unavailable(error) from None
                    raise
        raise AssertionError("stamina raises what the last attempt raised")

    def _infer(self, request: Request, timeout: float) -> dict[str, NDArray[Any]]:
        return _translated(lambda: self._infer_raw(request, timeout))

    def _infer_raw(self, request: Request, timeout: float) -> dict[str, NDArray[Any]]:
        client = self._connection()
        inputs = [
            triton.InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
            for name, value in request.inputs.items()
        ]
        values = [np.ascontiguousarray(value) for value in request.inputs.values()]
        if not self._place(request.model, inputs, values):
            for tensor, value in zip(inputs, values, strict=True):
                tensor.set_data_from_numpy(value)
            self.sent += sum(value.nbytes for value in values)
        result = client.infer(
            request.model,
            inputs,
            outputs=[triton.InferRequestedOutput(name) for name in request.outputs],
            parameters=dict(request.parameters or {}) or None,
            timeout=int(timeout * 1e6),  # or the server goes on with what nobody waits for
            **self._call(timeout),
        )
        return {name: _output(result, name) for name in request.outputs}

    def _place(self, model: str, inputs: Sequence[Any], values: Sequence[NDArray[Any]]) -> bool:
        """Into memory that the server shares, if there is any: the GPU's for a model that runs there."""
        areas = [self._cuda if self._cuda is not None and self._runs_on_gpu(model) else None, self._area]
        return any(area is not None and area.place(self._client, inputs, values) for area in areas)

    def _runs_on_gpu(self, model: str) -> bool:
        """A python model does not, wherever it is placed: its inputs are copied to main memory."""
        if model not in self._on_gpu:
            self._on_gpu[model] = False
            with suppress(InferenceServerException):
                config = self._client.get_model_config(model, **self._call()).config
                kinds = {type(group).Kind.Name(group.kind) for group in config.instance_group}
                self._on_gpu[model] = config.backend != "python" and kinds == {"KIND_GPU"}
        return self._on_gpu[model]

    def _call(self, timeout: float = PROBE_TIMEOUT_S) -> dict[str, Any]:
        return {"client_timeout": timeout, "headers": self._headers()}

    def _headers(self) -> dict[str, str]:
        token = self._settings.token
        return (
            {"authorization": f"Bearer {token}", "triton-grpc-protocol-sidecar-faces": token} if token else {}
        )

    def _connection(self) -> Any:
        if self._client is None:
            self._client = triton.InferenceServerClient(
                self.url, creds=_credentials(self._settings), channel_args=_CHANNEL
            )
            if self._settings.shared_memory and _is_here(self.url):
                self._area = self._area or SharedArea()
                self._cuda = self._cuda or cuda_area()
        return self._client

    def _drop(self) -> None:
        self._on_gpu = {}
        for area in (self._area, self._cuda):
            if area is not None:
                area.forget()
        if self._client is not None:
            self._client.close()
            self._client = None


_CHANNEL = [
    # naming any replaces all of tritonclient's defaults
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.max_receive_message_length", _UNLIMITED),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.enable_retries", 0),
]


class _TransientError(Exception):
    """May pass by itself. `timed_out`: the server kept us waiting."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


def _translated(action: Callable[[], T]) -> T:
    try:
        return action()
    except InferenceServerException as error:
        status = str(error.status() or "").removeprefix("StatusCode.")
        message = f"{status}: {error.message()}" if status else str(error.message())
        # what our models say of a photo; all else may be a server that starts, stops or breaks
        if status == "INVALID_ARGUMENT" and "shared memory" not in message:
            raise RequestFailedError(message) from None
        raise _TransientError(message, timed_out=status == "DEADLINE_EXCEEDED") from None
    except (OSError, ValueError) as error:  # a channel closed under us; an answer that is no tensor
        raise _TransientError(str(error)) from None


def _output(result: Any, name: str) -> NDArray[Any]:
    value = result.as_numpy(name)
    if value is None:
        raise ValueError(f"the answer lacks {name!r}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{name!r} of the answer is not finite")
    array: NDArray[Any] = value
    return array


def _credentials(settings: TritonSettings) -> grpc.ChannelCredentials | None:
    if not settings.tls:
        return None
    ca, key, cert = (_pem(path) for path in (settings.tls_ca, settings.tls_key, settings.tls_cert))
    return grpc.ssl_channel_credentials(ca, key, cert)


def _pem(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ToolFailedError(f"{path}: cannot be read ({os.strerror(error.errno or 0)}).") from None


def _is_here(url: str) -> bool:
    return url.rpartition(":")[0].strip("[]") in ("localhost", "127.0.0.1", "::1")


def _numpy_name(datatype: str) -> str:
    known = triton_to_np_dtype(datatype)
    return datatype if known is None else np.dtype(known).name
