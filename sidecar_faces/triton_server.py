"""A real Triton server on this machine, from the wheel `nvidia-pytriton`: start, watch, restart, stop."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sidecar_faces.errors import ToolFailedError, ToolMissingError

_LOOK = """
import json, os, sys, sysconfig
import onnxruntime, pytriton
print(json.dumps({"triton": os.path.join(os.path.dirname(pytriton.__file__), "tritonserver"),
    "site": sysconfig.get_path("purelib"), "lib": sysconfig.get_config_var("LIBDIR"), "bin":
    os.path.dirname(sys.executable), "version": "%d.%d" % sys.version_info[:2], "providers":
    onnxruntime.get_available_providers()}))
"""
# not setpriv, which asks for more than our unit grants; not preexec_fn, which is for programs of one thread
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""See engine/onnx, which this room may not import."""
_HINT = (
    "install the `server` extra (pip install 'sidecar-faces[server]') or name its Python with --server-python"
)
_SHM = "sidecar-faces-triton-"
_STOP_S = 40.0


@dataclass(frozen=True, slots=True)
class Installation:
    """Where Triton and the Python that its models run in are."""

    triton: Path
    site: Path
    lib: Path
    bin: Path
    version: str
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`address` and ports to bind; `extra` are further flags of tritonserver."""

    repository: Path
    workspace: Path
    address: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    extra: tuple[str, ...] = ()


def find(python: str) -> Installation:
    """Look into the environment of an interpreter. Raises ToolMissingError."""
    try:
        said = subprocess.run(
            [python, "-c", _LOOK],
            env={**os.environ, _NO_TELEMETRY: "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissingError(f"{python}: cannot be run ({error}); {_HINT}.") from None
    if said.returncode:
        reason = (said.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ToolMissingError(f"{python} has no Triton ({reason}); {_HINT}.")
    found = json.loads(said.stdout.splitlines()[-1])
    paths = {key: Path(found[key]) for key in ("triton", "site", "lib", "bin")}
    return Installation(**paths, version=found["version"], providers=tuple(found["providers"]))


def prepare(installation: Installation, workspace: Path) -> None:
    """Lay out what the server needs besides its repository: the python backend with our package."""
    backend = workspace / "backends" / "python"
    stub = installation.triton / "python_backend_stubs" / installation.version / "triton_python_backend_stub"
    if not stub.is_file():
        raise ToolMissingError(f"Triton's python backend has no stub for Python {installation.version}.")
    shutil.rmtree(workspace / "backends", ignore_errors=True)
    shutil.copytree(installation.triton / "backends" / "python", backend)
    shutil.copy2(stub, backend)
    # the stub ignores PYTHONPATH; besides the environment of the interpreter it looks here
    ignore = shutil.ignore_patterns("__pycache__", "*.onnx")
    shutil.copytree(str(resources.files("sidecar_faces")), backend / "sidecar_faces", ignore=ignore)


def command(installation: Installation, settings: ServerSettings, memory: str) -> list[str]:
    """The command line: bound to one address, explicit ports, no control of models from outside.

    `memory` is what names of its shared memory begin with. The server ends when the thread that started it
    does.
    """
    flags = {
        "model-repository": settings.repository,
        "backend-directory": settings.workspace / "backends",
        "backend-config": f"python,shm-region-prefix-name={memory}",
        "model-control-mode": "none",
        "exit-timeout-secs": 20,
        "http-address": settings.address,
        "http-port": settings.http_port,
        "grpc-address": settings.address,
        "grpc-port": settings.grpc_port,
        "metrics-address": settings.address,
        "metrics-port": settings.metrics_port,
        "allow-gpu-metrics": "false",
    }
    binary = installation.triton / "bin" / "tritonserver"
    words = [str(binary), *(f"--{name}={value}" for name, value in flags.items()), *settings.extra]
    return [str(installation.bin / "python3"), "-I", "-S", "-c", _TIED, *words]


def environment(installation: Installation) -> dict[str, str]:
    """Only what the server and its models need: nothing of our own environment leaks into them."""
    kept = ("HOME", "LANG", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    libraries = (installation.site / "nvidia_pytriton.libs", installation.lib)
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PATH": os.pathsep.join([str(installation.bin), os.defpath]),
        _NO_TELEMETRY: "1",
    }


class Server:
    """One run of tritonserver; its output goes to `say`, line by line."""

    def __init__(
        self, installation: Installation, settings: ServerSettings, say: Callable[[str], None]
    ) -> None:
        self._memory = f"{_SHM}{os.getpid()}-{secrets.token_hex(4)}-"
        self._process = subprocess.Popen(
            command(installation, settings, self._memory),
            env=environment(installation),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=settings.workspace,
            start_new_session=True,
        )
        self._forwarder = threading.Thread(target=self._forward, args=(say,), daemon=True)
        self._forwarder.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def wait_ready(self, is_ready: Callable[[], bool], deadline: float, stopped: threading.Event) -> bool:
        """Wait for a real inference to pass; False where the server ends, time is up, or we are to stop."""
        until = time.monotonic() + deadline
        while self.ended() is None and time.monotonic() < until and not stopped.is_set():
            if is_ready():
                return True
            stopped.wait(0.1)
        return False

    def stop(self) -> None:
        """Let requests in flight end, then end it, by force where it does not."""
        if self.ended() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._forwarder.join(5)
        sweep(self._memory)

    def kill(self) -> None:
        """End it at once, with the processes of its models."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _forward(self, say: Callable[[str], None]) -> None:
        for line in self._process.stdout or ():
            say(line.rstrip("\n"))


@contextmanager
def running(
    installation: Installation,
    settings: ServerSettings,
    is_ready: Callable[[], bool],
    say: Callable[[str], None],
) -> Iterator[Server]:
    """A server that is ready, for the time of a block. Raises ToolFailedError where it does not become so."""
    prepare(installation, settings.workspace)
    server = Server(installation, settings, say)
    try:
        if not server.wait_ready(is_ready, 120, threading.Event()):
            raise ToolFailedError(f"Triton does not become ready (exit code {server.ended()}).")
        yield server
    finally:
        server.stop()


def supervise(
    start: Callable[[], Server],
    is_ready: Callable[[], bool],
    stopped: threading.Event,
    say: Callable[[str], None],
    on_ready: Callable[[], None],
) -> None:
    """Keep a server running until `stopped`: one that ends, hangs or does not become ready is started again.

    Pauses between starts double from 1 s to 60 s, and begin anew once a server was well for a minute. Raises
    ToolFailedError where the first start fails: that is a matter of set-up.
    """
    pause, was_ready = 1.0, False
    while not stopped.is_set():
        server = start()
        try:
            began = time.monotonic()
            if server.wait_ready(is_ready, 120, stopped):
                was_ready = True
                say(f"Triton is ready after {time.monotonic() - began:.1f} s")
                on_ready()
                _watch(server, is_ready, stopped)
            elif not was_ready and not stopped.is_set():
                raise ToolFailedError(f"Triton does not become ready (exit code {server.ended()}).")
        finally:
            server.stop()
        if not stopped.is_set():
            pause = 1.0 if time.monotonic() - began > 60 else min(pause * 2, 60.0)
            say(f"Triton ended (exit code {server.ended()}); it is started again in {pause:.0f} s")
            stopped.wait(pause)


_LOOK_EVERY_S = 10.0
_STUCK_AFTER = 3


def _watch(server: Server, is_ready: Callable[[], bool], stopped: threading.Event) -> None:
    """Return once the server has ended, or has not answered a real inference several times in a row."""
    misses, due = 0, time.monotonic() + _LOOK_EVERY_S
    while server.ended() is None and not stopped.wait(0.2):
        if time.monotonic() >= due:
            misses = 0 if is_ready() else misses + 1
            due = time.monotonic() + _LOOK_EVERY_S
        if misses >= _STUCK_AFTER:
            return server.kill()
    return None


def sweep(memory: str = "") -> None:
    """Remove shared memory of a server that was killed, and of those whose starter is gone."""
    for name in os.listdir("/dev/shm"):  # noqa: S108 - where POSIX shared memory is on Linux
        owner = name.removeprefix(_SHM).partition("-")[0]
        orphaned = name.startswith(_SHM) and owner.isdigit() and not os.path.exists(f"/proc/{owner}")
        if orphaned or (memory and name.startswith(memory)):
            with suppress(FileNotFoundError):
                os.unlink(f"/dev/shm/{name}")  # noqa: S108
