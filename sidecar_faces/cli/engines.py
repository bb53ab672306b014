"""Choose where models run, once per process: here, or on a Triton server that has the same interfaces."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from dataclasses import dataclass

import click

from sidecar_faces.cli.common import F
from sidecar_faces.config import Settings
from sidecar_faces.engine.base import EngineSettings, Executor
from sidecar_faces.engine.executors import ProcessExecutor
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.worker import worker_fingerprint
from sidecar_faces.errors import EngineUnavailableError, ModelError, SidecarFacesError
from sidecar_faces.models import require

_CONNECT_S = 0.5
Say = Callable[[str], None]


def engine_options(command: F) -> F:
    """Where models run, and which: the same for every command that runs them."""
    for option in (
        click.option(
            "--detector", type=click.Choice(["centerface", "facedetect"]), help="Which finds faces."
        ),
        click.option(
            "--triton-decode", type=click.Choice(["auto", "client", "server"]), help="Who decodes for Triton."
        ),
        click.option(
            "--triton-url",
            multiple=True,
            metavar="HOST:PORT",
            callback=lambda _ctx, _param, value: value or None,
            help="Triton's gRPC service (default localhost:8001); several are tried in turn.",
        ),
        click.option(
            "--engine",
            type=click.Choice(["auto", "local", "triton"]),
            help="Where models run; auto, the default: on Triton where one answers, else here.",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Plan:
    """Where models run. `models`: the fingerprint of what will be found. `way`: "local", "client" or
    "server".
    """

    settings: Settings
    engine: EngineSettings
    way: str
    models: str
    description: str


def engine_settings(settings: Settings) -> EngineSettings:
    """What crosses to the workers."""
    return EngineSettings(
        models=str(settings.models_dir),
        detector=settings.detector,
        landmarks=_landmark_weights(settings),
        layout=settings.landmark_layout,
        min_score=settings.min_score,
        min_face=settings.min_face,
        detail=settings.detail,
        preset=settings.facedetect_preset,
        color=settings.facedetect_color,
    )


def _landmark_weights(settings: Settings) -> str:
    """Path of the landmark network, "" where the detector's points will do. Raises ModelError."""
    if settings.landmark_layout == "detector":
        return ""
    if settings.landmark_weights is not None:
        return str(settings.landmark_weights)
    name = "fpenet104.onnx" if settings.landmark_layout == "fpenet-104" else "fpenet80.onnx"
    return str(require(settings.models_dir, "fpenet").with_name(name))


@functools.cache
def plan(settings: Settings) -> Plan:
    """Decide, and compare a server's interfaces with ours. Raises ModelError or EngineUnavailableError."""
    if settings.engine == "local":
        return _local(settings, "local")
    if settings.engine == "auto" and not any(_listens(url) for url in settings.triton_url):
        return _local(settings, f"local (no Triton at {', '.join(settings.triton_url)})")
    try:
        return _triton(settings)
    except (ModelError, EngineUnavailableError) as error:
        if settings.engine == "triton":
            raise
        return _local(settings, f"local ({error})")


def _local(settings: Settings, description: str) -> Plan:
    engine = engine_settings(settings)
    return Plan(settings, engine, "local", worker_fingerprint(engine), description)


def _listens(url: str) -> bool:
    host, _, port = url.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            return True
    except (OSError, ValueError):
        return False


def _triton(settings: Settings) -> Plan:
    from sidecar_faces.engine import triton_plan  # noqa: PLC0415 - gRPC takes half a second to import

    engine = engine_settings(settings)
    found = triton_plan.look(triton_settings(settings), engine, settings.triton_decode)
    return Plan(settings, engine, found.way, found.models, found.description)


def triton_settings(settings: Settings) -> TritonSettings:
    """How to talk to the servers."""
    return TritonSettings(
        urls=settings.triton_url,
        timeout=settings.triton_timeout,
        tls=settings.triton_tls,
        tls_ca=settings.triton_tls_ca,
        tls_cert=settings.triton_tls_cert,
        tls_key=settings.triton_tls_key,
        token=settings.triton_token.get_secret_value(),
        shared_memory=settings.triton_shared_memory,
    )


def make_executor(chosen: Plan, say: Say) -> Executor:
    """The executor of a plan; workers start when the first batch comes."""
    settings = chosen.settings
    if chosen.way == "local":
        return _local_executor(chosen)
    from sidecar_faces.engine import triton_plan  # noqa: PLC0415

    return triton_plan.executor(
        triton_settings(settings),
        chosen.way,
        chosen.engine,
        workers=settings.worker_count,
        deadline=settings.deadline,
        patience=settings.triton_patience,
        say=say,
        elsewhere=_elsewhere(chosen, say),
    )


def _local_executor(chosen: Plan) -> Executor:
    return ProcessExecutor(chosen.engine, chosen.settings.worker_count, chosen.settings.deadline)


def _elsewhere(chosen: Plan, say: Say) -> Callable[[], Executor] | None:
    """With `auto`, the embedded engine steps in, provided that it finds the same faces."""
    if chosen.settings.engine != "auto":
        return None
    try:
        same = worker_fingerprint(chosen.engine) == chosen.models
    except SidecarFacesError:
        return None
    if not same:
        say("Triton has other models than are installed here: without it the run will wait.")
        return None
    return lambda: _local_executor(chosen)
