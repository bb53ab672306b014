"""Look at a Triton server before a run: has it our interfaces, which models, and who shall decode?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

from sidecar_faces.engine.base import EngineSettings, Executor
from sidecar_faces.engine.decode_dali import has_gpu, refusal
from sidecar_faces.engine.detectors import named_fingerprint
from sidecar_faces.engine.executors import ProcessExecutor
from sidecar_faces.engine.failover import FailoverExecutor, Patience
from sidecar_faces.engine.triton import TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.triton_specs import LANDMARKS, REQUIRED
from sidecar_faces.engine.triton_worker import Way, landmark_model, open_worker
from sidecar_faces.engine.worker import joined_fingerprint
from sidecar_faces.errors import ModelError

_SERVER_SIDE_PROCESSES = 2
"""Processes that only send photos; each has several requests in flight."""


@dataclass(frozen=True, slots=True)
class Server:
    """What `look` found."""

    way: Way
    models: str
    description: str


def look(
    triton: TritonSettings, engine: EngineSettings, decode: Literal["auto", "client", "server"]
) -> Server:
    """Compare the server with the code. Raises ModelError with the difference, or ServerUnavailableError."""
    client = TritonClient(triton)
    try:
        client.verify(REQUIRED)
        if engine.landmarks:
            client.verify((LANDMARKS[landmark_model(engine.layout)],))
        models = _models(client, engine)
        url = client.url
    finally:
        client.close()
    gpu = has_gpu()
    refused = refusal() if gpu and decode == "auto" else ""
    way: Way = ("client" if gpu and not refused else "server") if decode == "auto" else decode
    decoder = f"here by {'DALI on the GPU' if gpu else 'Pillow'}" if way == "client" else "on the server"
    if refused:
        decoder += f"; DALI refuses this GPU: {refused}"
    return Server(way, models, f"Triton at {url} (photos are decoded {decoder})")


def _models(client: TritonClient, engine: EngineSettings) -> str:
    """The fingerprint that the embedded engine would have with the server's models."""
    detector = _agreed(client, engine)
    centerface = client.parameters("centerface").get("sha256", "")
    stand_in = client.parameters("facenet").get("stand_in", "") == "true"
    sha256 = (
        centerface if stand_in or detector != "facedetect" else client.parameters("facenet").get("sha256", "")
    )
    landmarks = client.parameters(landmark_model(engine.layout)).get("sha256", "") if engine.landmarks else ""
    return joined_fingerprint(engine, named_fingerprint(engine, sha256, stand_in=stand_in), landmarks)


def _agreed(client: TritonClient, engine: EngineSettings) -> str:
    """The detector, which server and settings must agree on, and on how its findings become faces. Raises
    ModelError.
    """
    offered = client.parameters("faces_detect")
    asked = {"detector": engine.detector}
    if engine.detector == "facedetect":
        asked |= {"preset": engine.preset, "color": engine.color}
    for name, value in asked.items():
        if offered.get(name, "") != value:
            verb = "detects by" if name == "detector" else f"has FaceDetect's {name}"
            raise ModelError(
                f"Triton at {client.url} {verb} {offered.get(name, '')!r}, and {value!r} is asked for."
            )
    return engine.detector


def executor(
    triton: TritonSettings,
    way: str,
    engine: EngineSettings,
    *,
    workers: int,
    deadline: float,
    patience: float,
    say: Callable[[str], None],
    elsewhere: Callable[[], Executor] | None,
) -> Executor:
    """Workers that ask the server, and what to do while it is away."""
    factory = partial(open_worker, triton, cast(Way, way))
    count = min(workers, _SERVER_SIDE_PROCESSES) if way == "server" else workers
    remote = ProcessExecutor(engine, count, deadline + triton.longest, factory)
    client = TritonClient(triton)
    return FailoverExecutor(remote, client.is_well, say, elsewhere, Patience(total=patience))
