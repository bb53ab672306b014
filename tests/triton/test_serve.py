"""`serve`, as a person or systemd runs it."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from sidecar_faces.engine.triton import TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.triton_specs import OURS
from sidecar_faces.errors import ToolMissingError
from sidecar_faces.triton_repository import read_config
from sidecar_faces.triton_server import find, sweep
from tests.triton.conftest import free_ports


@dataclass
class Serve:
    """The program, its ports, and what it said so far."""

    process: subprocess.Popen[str]
    ports: list[int]
    notices: socket.socket
    said: list[str] = field(default_factory=list)
    _lines: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self._lines.put(line)

    def wait_for(self, words: str) -> str:
        while True:
            line = self._lines.get(timeout=90)
            self.said.append(line)
            if words in line:
                return line

    def triton(self) -> psutil.Process:
        (child,) = (p for p in psutil.Process(self.process.pid).children() if p.name() == "tritonserver")
        return child


@pytest.fixture
def serve(server_python: str, tmp_path: Path) -> Iterator[Serve]:
    ports = free_ports(3)
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(tmp_path / "notify"))
    notices.settimeout(90)
    command = [sys.executable, "-m", "sidecar_faces", "serve", "--server-python", server_python]
    for name, port in zip(("grpc", "http", "metrics"), ports, strict=True):
        command += [f"--{name}-port", str(port)]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NOTIFY_SOCKET": str(tmp_path / "notify")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    serve = Serve(process, ports, notices)
    yield serve
    if process.poll() is None:
        process.kill()
    process.wait()
    notices.close()


def test_serves_restarts_after_a_crash_and_stops_cleanly(serve: Serve) -> None:
    serve.wait_for("Triton is ready")
    assert b"READY=1" in serve.notices.recv(4096)
    client = TritonClient(TritonSettings((f"localhost:{serve.ports[0]}",)))
    client.verify(OURS)
    first = serve.triton()
    listening = {c.laddr for c in first.net_connections() if c.status == psutil.CONN_LISTEN}
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == set(serve.ports)

    first.kill()
    assert "exit code -9" in serve.wait_for("it is started again")
    serve.wait_for("Triton is ready")
    assert client.is_well() and serve.triton().pid != first.pid
    client.close()

    stubs = serve.triton().children(recursive=True)
    serve.process.send_signal(signal.SIGTERM)
    assert serve.process.wait(60) == 0
    assert psutil.wait_procs(stubs, timeout=30)[1] == []
    for port in serve.ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    sweep()
    assert not [name for name in os.listdir("/dev/shm") if f"-{serve.process.pid}-" in name]


def test_the_server_ends_with_the_program_however_that_ends(serve: Serve) -> None:
    serve.wait_for("Triton is ready")
    server = serve.triton()
    everything = [server, *server.children(recursive=True)]
    serve.process.kill()
    assert psutil.wait_procs(everything, timeout=60)[1] == []
    sweep()  # what the next start does
    assert not [name for name in os.listdir("/dev/shm") if f"-{serve.process.pid}-" in name]


def run(*words: str, code: int, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar_faces", "serve", *words]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def test_what_is_missing_is_named(server_python: str) -> None:
    assert "server" in run("--server-python", sys.executable, code=4).stderr
    assert "cannot be run" in run("--server-python", "/nowhere/python", code=4).stderr
    assert "CUDAExecutionProvider" in run("--server-python", server_python, "--gpu", code=3).stderr
    with pytest.raises(ToolMissingError, match="no Triton"):
        find(sys.executable)


def test_a_second_one_on_the_same_port_touches_nothing(
    serve: Serve, server_python: str, tmp_path: Path
) -> None:
    serve.wait_for("Triton is ready")
    words = ("--server-python", server_python, "--grpc-port", str(serve.ports[0]))
    assert "Another" in run(*words, code=6, XDG_CACHE_HOME=str(tmp_path)).stderr
    assert "IP address" in run("--address", "nowhere", code=2).stderr
    folder = tmp_path / "sidecar-faces" / f"triton-{serve.ports[0]}"
    assert (folder / "backends" / "python" / "triton_python_backend_stub").is_file()


def test_a_port_in_use_ends_it_with_the_servers_reason(server_python: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        http, metrics = free_ports(2)
        ports = ("--grpc-port", port, "--http-port", str(http), "--metrics-port", str(metrics))
        result = run("--server-python", server_python, *ports, code=4)
    assert "does not become ready" in result.stderr and "failed to start GRPC service" in result.stderr


def test_composes_for_the_container(tmp_path: Path) -> None:
    run("--compose", str(tmp_path / "models"), "--detector", "facedetect", code=0)
    config = read_config(tmp_path / "models" / "faces_index")
    assert config.parameters["detector"].string_value == "facedetect"
    assert read_config(tmp_path / "models" / "faces_decode").backend == "dali"
    assert (tmp_path / "models" / "fpenet104" / "1" / "model.onnx").stat().st_size > 100_000
