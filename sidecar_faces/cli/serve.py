"""`serve`: a real Triton server on this machine, kept running."""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click
import platformdirs
import structlog
from filelock import FileLock, Timeout

from sidecar_faces.cli.common import App
from sidecar_faces.config import Settings
from sidecar_faces.daemon.notify import Notifier
from sidecar_faces.engine.detectors import FACEDETECT
from sidecar_faces.engine.onnx import CPU, CUDA
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.errors import ConfigError, LockedError
from sidecar_faces.models import require
from sidecar_faces.triton_server import Server, ServerSettings, find, prepare, supervise, sweep

if TYPE_CHECKING:
    from sidecar_faces.triton_repository import Composition

log = structlog.get_logger()

_MOST_INSTANCES = 4


def _address(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise click.BadParameter("an IP address is expected") from None


@click.command()
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    callback=_address,
    help="Address to bind; the default is this machine alone.",
)
@click.option(
    "--grpc-port",
    type=click.IntRange(1, 65_535),
    default=8001,
    show_default=True,
    help="Port that sidecar-faces uses.",
)
@click.option(
    "--http-port", type=click.IntRange(1, 65_535), default=8000, show_default=True, help="Port for HTTP."
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    default=8002,
    show_default=True,
    help="Port for Prometheus.",
)
@click.option("--detector", type=click.Choice(["centerface", "facedetect"]), help="Network that finds faces.")
@click.option(
    "--gpu",
    is_flag=True,
    help="Run the networks on the GPU (needs onnxruntime-gpu[cuda,cudnn] beside Triton).",
)
@click.option("--server-python", metavar="FILE", help="Python of the environment with the `server` extra.")
@click.option(
    "--compose",
    "compose_only",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Only write the model repository for NVIDIA's Triton container to DIR.",
)
@click.pass_obj
def serve(
    app: App,
    *,
    address: str,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    detector: str | None,
    gpu: bool,
    server_python: str | None,
    compose_only: Path | None,
) -> None:
    """Run a Triton server for `--engine triton`, from the `server` extra, until told to stop.

    It binds to this machine alone, takes no commands about its models, and is started again when it ends or
    hangs.

    \b
    sidecar-faces serve
    sidecar-faces serve --server-python .venv-server/bin/python --grpc-port 9001
    sidecar-faces serve --compose /srv/triton/models
    """
    from sidecar_faces.triton_repository import compose  # noqa: PLC0415 - gRPC is slow to import

    settings = app.settings(detector=detector, server_python=server_python)
    if compose_only is not None:
        compose(compose_only.absolute(), _composition(settings, local=False))
        click.echo(f"Composed for NVIDIA's Triton container: {compose_only}")
        return
    installation = find(settings.server_python or sys.executable)
    providers = _providers(installation.providers, gpu=gpu)
    workspace = Path(platformdirs.user_cache_dir("sidecar-faces")) / f"triton-{grpc_port}"
    with _alone(workspace), _stopping() as stopped:
        sweep()
        prepare(installation, workspace)
        repository = compose(
            workspace / "repository", _composition(settings, local=True, providers=providers)
        )
        server = ServerSettings(repository, workspace, address, grpc_port, http_port, metrics_port)
        supervise(
            lambda: Server(installation, server, _forward),
            lambda: _is_ready(f"{_reachable(address)}:{grpc_port}"),
            stopped,
            log.info,
            lambda: _say_ready(f"Triton answers at {address}:{grpc_port}"),
        )


def _composition(settings: Settings, *, local: bool, providers: tuple[str, ...] = (CPU,)) -> Composition:
    from sidecar_faces.triton_repository import Composition  # noqa: PLC0415

    centerface = require(settings.models_dir, "centerface")
    bundled = Path(str(resources.files("sidecar_faces.models")))
    fpenet = {name: bundled / f"{name}.onnx" for name in ("fpenet80", "fpenet104")}
    weights = {"centerface": centerface, "fpenet": fpenet["fpenet80"], "fpenet104": fpenet["fpenet104"]}
    facedetect = settings.models_dir / FACEDETECT
    if facedetect.is_file():
        weights["facenet"] = facedetect
    instances = 1 if CUDA in providers else min(len(os.sched_getaffinity(0)), _MOST_INSTANCES)
    return Composition(
        weights,
        settings.detector,
        settings.facedetect_preset,
        local,
        providers,
        instances,
        settings.facedetect_color,
    )


def _providers(available: tuple[str, ...], *, gpu: bool) -> tuple[str, ...]:
    if gpu and CUDA not in available:
        raise ConfigError(f"--gpu: ONNX Runtime beside Triton offers {', '.join(available)} and not {CUDA}.")
    return (CUDA, CPU) if gpu else (CPU,)


def _reachable(address: str) -> str:
    return "localhost" if ipaddress.ip_address(address).is_unspecified else address


def _is_ready(url: str) -> bool:
    from sidecar_faces.engine.triton import TritonClient  # noqa: PLC0415

    client = TritonClient(TritonSettings((url,), attempts=1, shared_memory=False))
    try:
        return client.is_well()
    finally:
        client.close()


def _say_ready(status: str) -> None:
    Notifier().send(READY="1", STATUS=status)


def _forward(line: str) -> None:
    """Triton's own log, as it is."""
    click.echo(line, err=True)


@contextmanager
def _alone(workspace: Path) -> Iterator[None]:
    """Nobody else serves from this folder. Raises LockedError."""
    workspace.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(
            f"Another `sidecar-faces serve` uses {workspace}; take another --grpc-port."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets."""
    stopped = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
