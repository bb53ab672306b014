"""ONNX Runtime sessions: opened in one way, and compared with the interface that the code expects."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.engine.base import ModelSpec, TensorSpec
from sidecar_faces.errors import ModelError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""ONNX Runtime 1.32 (1.23 did not) reports to its maker and keeps an identifier of the machine, unless this
is set before it is loaded; its function that switches reports off comes too late for the identifier.
"""
_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}


class Session:
    """A model that runs in this process, on the CPU unless other execution `providers` are named.

    `threads`: how many one inference may use; a worker process has one, as many processes scale better.
    Memory is bounded by the largest tensors of one inference: shapes vary from photo to photo, and without
    memory patterns, which would be kept per shape, all of them share one arena. Raises ModelError where the
    file is absent, no model, or has another interface than `spec`, or the first provider cannot be had.
    """

    def __init__(
        self, path: str, spec: ModelSpec, threads: int = 1, providers: Sequence[str] = (CPU,)
    ) -> None:
        os.environ[NO_TELEMETRY] = "1"
        import onnxruntime  # noqa: PLC0415 - what only asks for fingerprints need not load it

        require_file(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the machine is shared
        options.log_severity_level = 3
        if providers[0] == CUDA and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # those that came as wheels, which the loader does not look for
        try:
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=_configured(providers))
        except Exception as error:  # ONNX Runtime raises types of its own, one per status code
            raise ModelError(f"{path}: is not a model that ONNX Runtime can load ({error}).") from None
        if providers[0] not in self._session.get_providers():  # ONNX Runtime goes on with the next one
            raise ModelError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot use {providers[0]} here; install"
                " 'onnxruntime-gpu[cuda,cudnn]' instead of onnxruntime, and look at its messages above."
            )
        check(spec, interface(self._session, spec.name), path)
        self._pads = providers[0] == CUDA
        self._input = spec.inputs[0].name
        self._outputs = [output.name for output in spec.outputs]

    def __call__(self, tensor: NDArray[np.generic], only: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The outputs for the one input: those named, else all, in the order of the spec."""
        given = padded(tensor) if self._pads else tensor
        outputs: list[NDArray[Any]] = self._session.run(only or self._outputs, {self._input: given})
        return [output[: len(tensor)] for output in outputs]


def padded(tensor: NDArray[np.generic]) -> NDArray[np.generic]:
    """With rows of zeros up to the next power of two. For each shape that is new to it, ONNX Runtime plans
    all convolutions anew on a GPU, which took CenterFace a second on an H100: there shall be few.
    """
    missing = (1 << max(len(tensor) - 1, 0).bit_length()) - len(tensor)
    if not missing:
        return tensor
    return np.concatenate([tensor, np.zeros((missing, *tensor.shape[1:]), tensor.dtype)])


def _configured(providers: Sequence[str]) -> list[Any]:
    """With options: CUDA would otherwise try every way to convolve each new shape, and round inputs to 10
    bits.
    """
    options = {CUDA: {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}}
    return [(name, options.get(name, {})) for name in providers]


def require_file(path: str) -> None:
    """Raises ModelError, with the way out, where a model file is absent."""
    if not os.path.isfile(path):
        raise ModelError(f"{path}: this model is not installed; run `sidecar-faces models install`.")


def fingerprint(path: str) -> str:
    """SHA-256 of a model file. Raises ModelError."""
    require_file(path)
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: this model cannot be read ({os.strerror(error.errno or 0)}).") from None


def interface(session: Any, name: str) -> ModelSpec:
    """What a session offers, with dynamic axes as -1."""
    inputs, outputs = (
        tuple(TensorSpec(v.name, _TYPES.get(v.type, v.type), _shape(v.shape)) for v in values)
        for values in (session.get_inputs(), session.get_outputs())
    )
    return ModelSpec(name, inputs, outputs)


def _shape(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else -1 for axis in shape)


def check(wanted: ModelSpec, offered: ModelSpec, where: str) -> None:
    """Raises ModelError where a model lacks a tensor of ours, or has it in another type or shape."""
    for wanted_tensors, offered_tensors in (
        (wanted.inputs, offered.inputs),
        (wanted.outputs, offered.outputs),
    ):
        found = {tensor.name: tensor for tensor in offered_tensors}
        for tensor in wanted_tensors:
            other = found.get(tensor.name)
            if other is None:
                raise ModelError(f"{where}: is not {wanted.name!r}: it has no tensor {tensor.name!r}.")
            if not _fits(tensor, other):
                raise ModelError(
                    f"{where}: is not {wanted.name!r}: tensor {tensor.name!r} is {other.dtype} "
                    f"{list(other.shape)} and not {tensor.dtype} {list(tensor.shape)}."
                )


def _fits(wanted: TensorSpec, offered: TensorSpec) -> bool:
    """Whether a tensor is what we want; an axis that the model leaves free may be what we want it to be."""
    axes = zip(wanted.shape, offered.shape, strict=False)
    same_axes = len(wanted.shape) == len(offered.shape) and all(b in (a, -1) for a, b in axes)
    return wanted.dtype == offered.dtype and same_axes
