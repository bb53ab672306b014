"""A real Triton server for the tests of this folder: started once, on ports of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from sidecar_faces.config import load
from sidecar_faces.core.types import Photo
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.triton import TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.library.probe import Limits, probe
from sidecar_faces.models import install, require
from sidecar_faces.triton_repository import Composition, compose
from sidecar_faces.triton_server import Installation, Server, ServerSettings, find, running

ROOT = Path(__file__).resolve().parents[2]
GROUP = pytest.mark.xdist_group("triton")  # one process runs them all: the machine holds one server


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at them, also where this folder is named
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(GROUP)


@pytest.fixture(scope="session")
def server_python() -> str:
    """The interpreter of the environment that holds Triton."""
    python = os.environ.get("SIDECAR_FACES_SERVER_PYTHON") or str(ROOT / ".venv-server" / "bin" / "python")
    if not os.path.exists(python):
        pytest.skip("Triton is not installed here (make .venv-server)")
    return python


@pytest.fixture(scope="session")
def installation(server_python: str) -> Installation:
    return find(server_python)


@pytest.fixture(scope="session")
def engine() -> EngineSettings:
    """Settings of the embedded engine, with the installed models."""
    folder = load({}).models_dir
    install(folder)
    bundled = Path(str(resources.files("sidecar_faces.models")))
    return EngineSettings(str(folder), landmarks=str(bundled / "fpenet80.onnx"))


@pytest.fixture(scope="session")
def weights(engine: EngineSettings) -> dict[str, Path]:
    """ONNX files by the name of the model that they are for."""
    bundled = Path(str(resources.files("sidecar_faces.models")))
    return {
        "centerface": require(Path(engine.models), "centerface"),
        "fpenet": bundled / "fpenet80.onnx",
        "fpenet104": bundled / "fpenet104.onnx",
    }


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def server_settings(weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ServerSettings:
    workspace = tmp_path_factory.mktemp("triton")
    repository = compose(workspace / "repository", Composition(weights, instances=2))
    grpc, http, metrics = free_ports(3)
    return ServerSettings(repository, workspace, grpc_port=grpc, http_port=http, metrics_port=metrics)


def url_of(settings: ServerSettings) -> str:
    return f"{settings.address}:{settings.grpc_port}"


def is_ready(settings: ServerSettings) -> bool:
    client = TritonClient(TritonSettings((url_of(settings),), attempts=1, shared_memory=False))
    try:
        return client.is_well()
    finally:
        client.close()


@pytest.fixture(scope="session")
def server(installation: Installation, server_settings: ServerSettings) -> Iterator[Server]:
    """The server of all tests that leave it alone."""
    lines: list[str] = []
    with running(installation, server_settings, lambda: is_ready(server_settings), lines.append) as server:
        yield server
    no_gpu = ("unable to create stream", "CudaDriverHelper", "failed to open CUDA IPC handle")
    assert not [line for line in lines if line.startswith("E") and not any(word in line for word in no_gpu)]


@pytest.fixture(scope="session")
def triton(server: Server, server_settings: ServerSettings) -> TritonSettings:
    """How to reach that server."""
    return TritonSettings((url_of(server_settings),))


@pytest.fixture
def client(triton: TritonSettings) -> Iterator[TritonClient]:
    client = TritonClient(triton)
    yield client
    client.close()


@pytest.fixture
def other_ports(server_settings: ServerSettings, tmp_path: Path) -> ServerSettings:
    """Settings for a second server, for tests that do not leave it alone."""
    grpc, http, metrics = free_ports(3)
    return replace(server_settings, workspace=tmp_path, grpc_port=grpc, http_port=http, metrics_port=metrics)


@pytest.fixture(scope="session")
def photos(datasets: Path) -> list[Photo]:
    """Every evaluation photo."""
    files = sorted((datasets / "detection").glob("*/images/*"))
    return [probe(str(file), Limits()) for file in files]
