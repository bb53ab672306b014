"""Memory that client and server share. What CUDA does is played by main memory, as tests run without a GPU;
what a server without one says to it is said by a real one.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from sidecar_faces.engine import triton_memory
from sidecar_faces.engine.decode_dali import has_gpu
from sidecar_faces.engine.triton import Request, TritonClient
from sidecar_faces.engine.triton_memory import CudaArea, SharedArea, cuda_area
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.triton_repository import read_config, source

LARGE = np.arange(1 << 17, dtype=np.uint8).reshape(2, -1)
IMAGES = Request("faces_detect", {"images": np.zeros((2, 480, 640, 3), np.uint8)}, ("scores",))


@dataclass
class Cuda:
    """As `tritonclient.utils.cuda_shared_memory`, with memory of this process and made-up handles."""

    events: list[str] = field(default_factory=list)
    memory: dict[str, bytearray] = field(default_factory=dict)
    broken: str = ""

    def create_shared_memory_region(self, name: str, size: int, device: int) -> str:
        self._do("create", name)
        assert device == 0
        self.memory[name] = bytearray(size)
        return name

    def get_raw_handle(self, name: str) -> bytes:
        return base64.b64encode(bytes(64))

    def set_shared_memory_region(self, name: str, values: list[Any]) -> None:
        self._do("write", name)
        data = b"".join(value.tobytes() for value in values)
        self.memory[name][: len(data)] = data

    def destroy_shared_memory_region(self, name: str) -> None:
        self._do("free", name)
        del self.memory[name]

    def _do(self, what: str, name: str) -> None:
        assert name.startswith(triton_memory.PREFIX)
        self.events.append(what)
        if what == self.broken:
            raise RuntimeError(f"unable to {what}")


@dataclass
class Gpu(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A server that takes every handle, and is configured as the container's is."""

    events: list[str]
    in_use: int = 0
    regions: dict[str, Any] = field(default_factory=dict)

    def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        self.events.append("register")
        assert len(request.raw_handle) == 64 and request.device_id == 0
        self.regions[request.name] = request.byte_size
        return service_pb2.CudaSharedMemoryRegisterResponse()

    def CudaSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        if self.in_use:
            self.in_use -= 1
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "region is in use")
        self.events.append("unregister")
        del self.regions[request.name]
        return service_pb2.CudaSharedMemoryUnregisterResponse()

    def CudaSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        response = service_pb2.CudaSharedMemoryStatusResponse()
        for name in self.regions:
            response.regions[name].name = name
        return response

    def ModelConfig(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelConfigResponse(config=read_config(source() / request.name))


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


@pytest.fixture
def gpu(cuda: Cuda) -> Gpu:
    return Gpu(cuda.events)


@pytest.fixture
def gpu_client(gpu: Gpu) -> Iterator[Any]:
    """NVIDIA's client of that server."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(gpu, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = grpcclient.InferenceServerClient(f"127.0.0.1:{port}")
    client.address = f"127.0.0.1:{port}"
    yield client
    client.close()
    server.stop(None)


@pytest.fixture
def plain(triton: TritonSettings) -> Iterator[Any]:
    """NVIDIA's client of the real server."""
    client = grpcclient.InferenceServerClient(triton.urls[0])
    yield client
    client.close()


def tensors(*values: Any) -> list[Any]:
    return [grpcclient.InferInput(f"x{i}", value.shape, "UINT8") for i, value in enumerate(values)]


def shared_by(tensor: Any) -> tuple[int, int]:
    """Size and offset that a request tells the server."""
    told = tensor._get_tensor().parameters
    return told["shared_memory_byte_size"].int64_param, told["shared_memory_offset"].int64_param


def test_a_real_server_without_a_gpu_refuses_a_cuda_region(plain: Any, cuda: Cuda) -> None:
    """Asked once; the memory is freed, and the tensors are left as they were."""
    with pytest.raises(InferenceServerException, match="failed to register"):
        plain.register_cuda_shared_memory("x", base64.b64encode(bytes(64)), 0, 64)
    area = CudaArea(cuda)
    inputs = tensors(LARGE)
    assert not area.place(plain, inputs, [LARGE]) and "failed to register" in area.refused
    assert not area.place(plain, inputs, [LARGE])
    assert cuda.events == ["create", "free"] and not inputs[0]._get_tensor().parameters


def test_the_systems_memory_is_taken_instead(
    client: TritonClient, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar_faces.engine.triton.cuda_area", lambda: CudaArea(cuda))
    monkeypatch.setattr(client, "_runs_on_gpu", lambda model: True)
    assert all(client.infer(IMAGES)["scores"].shape[0] == 2 for _ in range(2))
    assert client.sent == 0 and cuda.events == ["create", "free"]


@pytest.mark.parametrize("broken", ["create", "write"])
def test_a_gpu_that_fails_is_not_asked_again(gpu_client: Any, cuda: Cuda, broken: str) -> None:
    cuda.broken = broken
    area = CudaArea(cuda)
    assert not any(area.place(gpu_client, tensors(LARGE), [LARGE]) for _ in range(2))
    assert area.refused == f"unable to {broken}" and cuda.events.count(broken) == 1
    cuda.broken = ""
    area.close(gpu_client)
    assert not cuda.memory


def test_tensors_lie_where_the_request_says(gpu_client: Any, gpu: Gpu, cuda: Cuda) -> None:
    odd = LARGE[:, :101].copy()
    inputs = tensors(odd, LARGE)
    area = CudaArea(cuda)
    assert area.place(gpu_client, inputs, [odd, LARGE])
    (memory,) = cuda.memory.values()
    for tensor, value in zip(inputs, (odd, LARGE), strict=True):
        size, start = shared_by(tensor)
        assert start % 64 == 0 and memory[start : start + size] == value.tobytes()
    assert area.place(gpu_client, inputs, [odd, LARGE]) and len(gpu.regions) == 1
    area.close(gpu_client)


def test_a_gpus_memory_is_freed_only_when_the_server_has_let_go_of_it(
    gpu_client: Any, gpu: Gpu, cuda: Cuda
) -> None:
    area = CudaArea(cuda)
    assert area.place(gpu_client, tensors(LARGE), [LARGE])
    gpu.in_use = 1
    larger = np.zeros(1 << 23, np.uint8)
    assert area.place(gpu_client, tensors(larger), [larger]) and len(cuda.memory) == 2
    area.close(gpu_client)
    taken = ["create", "register", "write"]
    assert cuda.events == [*taken, *taken, *["unregister", "free"] * 2] and not gpu.regions


def test_regions_of_killed_clients_are_unregistered(gpu_client: Any, gpu: Gpu, cuda: Cuda) -> None:
    gpu.regions = {f"{triton_memory.PREFIX}999999999-x": 1, f"{triton_memory.PREFIX}1-x": 1, "other": 1}
    area = CudaArea(cuda)
    assert area.place(gpu_client, tensors(LARGE), [LARGE])
    assert f"{triton_memory.PREFIX}999999999-x" not in gpu.regions and len(gpu.regions) == 3
    area.close(gpu_client)
    assert len(gpu.regions) == 2


def test_only_networks_on_a_gpu_are_given_its_memory(client: TritonClient, gpu_client: Any) -> None:
    client.spec("fpenet")
    assert not any(client._runs_on_gpu(model) for model in ("fpenet", "faces_detect", "nothing"))
    other = TritonClient(TritonSettings((gpu_client.address,), shared_memory=False))
    other._connection()
    on_gpu = {name: other._runs_on_gpu(name) for name in ("fpenet", "centerface", "faces_detect")}
    other.close()
    assert on_gpu == {"fpenet": True, "centerface": True, "faces_detect": False}


def test_without_a_gpu_or_its_bindings_there_is_no_such_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_gpu():
        assert cuda_area() is None
    monkeypatch.setattr(triton_memory, "has_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.delitem(sys.modules, "tritonclient.utils.cuda_shared_memory", raising=False)
    assert cuda_area() is None


def test_a_region_that_was_given_up_is_unregistered_when_the_server_answers_again(
    client: TritonClient, plain: Any
) -> None:
    """The server that kept us waiting is the same, and would hold it until this process ends."""
    before = set(plain.get_system_shared_memory_status().regions)
    for _ in range(3):
        client.infer(IMAGES)
        client._drop()
    for _ in range(50):  # a region is in use for a moment after the answer
        client.infer(IMAGES)
        if len(set(plain.get_system_shared_memory_status().regions) - before) == 1:
            break
    else:
        pytest.fail("old regions stay")


def test_a_full_file_system_is_no_reason_to_fail(
    plain: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(triton_memory, "_FOLDER", str(tmp_path / "absent"))
    area = SharedArea()
    assert not area.place(plain, tensors(LARGE), [LARGE]) and "absent" in area.refused
