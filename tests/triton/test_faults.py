"""What servers do: end in the middle of a batch, hang, answer garbage, want a token, speak TLS."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc

from sidecar_faces.cli import engines
from sidecar_faces.config import Settings
from sidecar_faces.core.types import Batch, FaceResult, Photo
from sidecar_faces.engine import triton_plan, triton_worker
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.decode_dali import has_gpu
from sidecar_faces.engine.executors import ProcessExecutor
from sidecar_faces.engine.failover import FailoverExecutor, Patience
from sidecar_faces.engine.triton import Request, ServerUnavailableError, TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.triton_specs import LANDMARKS
from sidecar_faces.engine.triton_worker import Way, open_worker
from sidecar_faces.engine.worker import worker_fingerprint
from sidecar_faces.errors import EngineUnavailableError, ModelError
from sidecar_faces.library.probe import Limits, probe
from sidecar_faces.triton_server import Installation, Server, ServerSettings, prepare, running
from tests.triton.conftest import is_ready, url_of

Start = Callable[[], Server]


@pytest.fixture
def restart(installation: Installation, other_ports: ServerSettings) -> Iterator[Start]:
    """Starts a server (again) at one address, and waits until it answers."""
    prepare(installation, other_ports.workspace)
    running: list[Server] = []

    def start() -> Server:
        running.append(Server(installation, other_ports, lambda line: None))
        assert running[-1].wait_ready(lambda: is_ready(other_ports), 90, threading.Event())
        return running[-1]

    yield start
    for server in running:
        server.kill()
        server.stop()


@pytest.fixture
def many(tmp_path: Path, portrait_jpeg: bytes) -> list[Photo]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(48):
        (folder / f"{number:02}.jpg").write_bytes(portrait_jpeg)
    return [probe(str(path), Limits()) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("way", ["client", "server"])
def test_a_server_killed_in_mid_batch_loses_and_doubles_nothing(
    restart: Start, other_ports: ServerSettings, engine: EngineSettings, many: list[Photo], way: Way
) -> None:
    """Killed while photos are in flight, started again meanwhile: each photo ends once, with its face."""
    triton = TritonSettings((url_of(other_ports),), timeout=10, attempts=3)
    server = restart()
    said: list[str] = []
    client = TritonClient(triton)
    remote = ProcessExecutor(engine, 2, 300, partial(open_worker, triton, way))
    executor = FailoverExecutor(remote, client.is_well, said.append, patience=Patience(total=300))
    flying = [executor.submit(Batch(tuple(many[i : i + 4]))) for i in range(0, len(many), 4)]
    flying[0].result(300)  # under load, two processes take their time to start
    server.kill()
    restart()
    results = [result for future in flying for result in future.result(300)]
    executor.close()
    client.close()
    assert [result.photo for result in results] == many
    assert all(result.failure is None and len(result.faces) == 1 for result in results)
    assert said and all("Waiting" in message for message in said[::2])
    assert set(said[1::2]) == {"The engine is back."}


def test_a_server_that_hangs_is_found_out(restart: Start, other_ports: ServerSettings) -> None:
    """Stopped by a signal: its port is open, its health is what the kernel says; an inference tells."""
    server = restart()
    client = TritonClient(TritonSettings((url_of(other_ports),), timeout=2, attempts=2, shared_memory=False))
    request = Request("faces_detect", {"images": np.zeros((1, 32, 32, 3), np.uint8)}, ("scores",))
    client.infer(request)
    os.killpg(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServerUnavailableError, match="DEADLINE_EXCEEDED"):
            client.infer(request)
    finally:
        os.killpg(server.pid, signal.SIGCONT)
    client.infer(request)
    client.close()


def test_the_next_address_is_taken_when_one_is_dead(triton: TritonSettings) -> None:
    client = TritonClient(replace(triton, urls=("localhost:1", *triton.urls)))
    answer = client.infer(
        Request("faces_detect", {"images": np.zeros((1, 32, 32, 3), np.uint8)}, ("scores",))
    )
    assert answer["scores"].shape[0] == 1 and client.url == triton.urls[0]
    client.close()


class Garbage(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers every inference with something else than was asked for."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer

    def ModelInfer(self, request: Any, context: Any) -> Any:
        return self._answer(request)


def tensor(name: str, shape: list[int], data: bytes) -> Any:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name=name, datatype="FP32", shape=shape)
    response.raw_output_contents.append(data)
    return response


ANSWERS = {
    "nothing": lambda request: service_pb2.ModelInferResponse(),
    "another tensor": lambda request: tensor("other", [1], bytes(4)),
    "too few bytes": lambda request: tensor("scores", [1, 7], bytes(8)),
    "not a number": lambda request: tensor("scores", [1, 1], np.array([np.nan], np.float32).tobytes()),
}


@contextmanager
def serving(answer: Callable[[Any], Any]) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Garbage(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize("kind", ANSWERS)
def test_garbage_is_the_servers_fault(kind: str, engine: EngineSettings, many: list[Photo]) -> None:
    with serving(ANSWERS[kind]) as url:
        settings = TritonSettings((url,), timeout=5, attempts=2, shared_memory=False)
        for way in ("client", "server"):
            worker = open_worker(settings, "client" if way == "client" else "server", engine)
            for result in worker.process(Batch(tuple(many[:2]))):
                assert result.failure is not None and result.failure.kind.value == "unavailable", (
                    result.failure
                )


def test_boxes_of_another_shape_are_garbage_too(engine: EngineSettings, many: list[Photo]) -> None:
    def answer(request: Any) -> Any:
        response = service_pb2.ModelInferResponse()
        for output in request.outputs:
            response.outputs.add(name=output.name, datatype="FP32", shape=[1, 2, 3])
            response.raw_output_contents.append(bytes(24))
        return response

    with serving(answer) as url:
        worker = open_worker(TritonSettings((url,), shared_memory=False), "client", engine)
        (result,) = worker.process(Batch((many[0],)))
    assert result.failure is not None and result.failure.kind.value == "unavailable"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, by openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert]
    command += [
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
    ]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return cert, key


def test_tls_and_token(installation: Installation, other_ports: ServerSettings, tmp_path: Path) -> None:
    """Without the authority's certificate nobody is trusted; without the token nothing is inferred."""
    cert, key = certificate(tmp_path)
    extra = (
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={cert}",
        f"--grpc-server-key={key}",
        "--grpc-restricted-protocol=inference,metadata:sidecar-faces=secret",
    )
    settings = replace(other_ports, extra=extra)
    known = TritonSettings(
        (url_of(settings),), timeout=5, attempts=1, tls=True, tls_ca=str(cert), token="secret"
    )

    def well(triton: TritonSettings) -> bool:
        client = TritonClient(triton)
        try:
            return client.is_well()
        finally:
            client.close()

    with running(installation, settings, lambda: well(known), lambda line: None):
        assert well(known)
        assert not well(replace(known, token="wrong"))
        assert not well(replace(known, tls=False))
        assert not well(replace(known, tls_ca=""))


def plan(url: str, **options: Any) -> engines.Plan:
    return engines.plan(Settings(triton_url=(url,), **options))


def test_auto_takes_triton_where_it_answers_and_says_which(
    triton: TritonSettings, engine: EngineSettings
) -> None:
    (url,) = triton.urls
    found = plan(url, engine="auto", triton_decode="server")
    assert found.way == "server" and url in found.description
    assert plan(url, engine="auto", triton_decode="client").way == "client"
    # photos are not indexed again because another engine with the same weights takes over
    assert found.models == worker_fingerprint(found.engine) == plan("localhost:1", engine="auto").models
    assert found.models != plan(url, engine="auto", detail="fine", triton_decode="server").models
    nobody = plan("localhost:1", engine="auto")
    assert nobody.way == "local" and "no Triton" in nobody.description
    assert plan(url, engine="local").description == "local"


def test_triton_that_is_asked_for_must_be_there(triton: TritonSettings) -> None:
    with pytest.raises(EngineUnavailableError):
        plan("localhost:1", engine="triton")
    with pytest.raises(ModelError, match="detects by 'centerface'"):
        plan(triton.urls[0], engine="triton", detector="facedetect")
    other = plan(triton.urls[0], engine="auto", detector="facedetect")
    assert other.way == "local" and "detects by" in other.description


def test_auto_goes_on_locally_when_the_server_goes(
    restart: Start, other_ports: ServerSettings, many: list[Photo]
) -> None:
    server = restart()
    chosen = plan(url_of(other_ports), engine="auto", triton_decode="server", workers=1, triton_timeout=5)
    said: list[str] = []
    executor = engines.make_executor(chosen, said.append)
    first = executor.submit(Batch(tuple(many[:4]))).result(300)
    server.kill()
    rest = executor.submit(Batch(tuple(many[4:12]))).result(300)
    executor.close()
    results: list[FaceResult] = [*first, *rest]
    assert all(result.failure is None and len(result.faces) == 1 for result in results)
    assert len(said) == 1 and said[0].endswith("Going on locally.")


def test_answers_are_not_kept(triton: TritonSettings, many: list[Photo]) -> None:
    def kept() -> int:
        gc.collect()
        return sum(isinstance(one, InferResult) for one in gc.get_objects())

    before, client = kept(), TritonClient(triton)
    encoded = np.frombuffer(Path(many[0].path).read_bytes(), np.uint8)[None]
    for _ in range(3):
        client.infer(Request("faces_ensemble", {"input_image_data": encoded}, ("true_boxes", "true_proba")))
    client.close()
    assert kept() <= before


def test_a_server_with_other_interfaces_is_refused_at_the_start(
    triton: TritonSettings, engine: EngineSettings
) -> None:
    found = triton_plan.look(triton, engine, "server")
    assert found.way == "server"
    assert triton_plan.look(triton, replace(engine, layout="fpenet-104"), "server").way == "server"
    with serving(ANSWERS["nothing"]) as url, pytest.raises(ModelError):
        triton_plan.look(TritonSettings((url,), attempts=1), engine, "server")


@pytest.mark.skipif(has_gpu(), reason="for machines without a GPU")
def test_a_gpu_that_dali_refuses_leaves_decoding_to_the_server(
    triton: TritonSettings, engine: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_plan, "has_gpu", lambda: True)
    found = triton_plan.look(triton, engine, "auto")
    assert found.way == "server" and "DALI refuses this GPU: " in found.description
    monkeypatch.setattr(triton_worker, "has_gpu", lambda: True)
    with pytest.raises(ModelError, match=r"cannot decode on this GPU .*triton_decode"):
        open_worker(triton, "client", engine)


def test_a_server_with_another_landmark_network_is_refused_where_that_is_asked(
    triton: TritonSettings, engine: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = LANDMARKS["fpenet"]
    color = replace(known.inputs[0], shape=(-1, 3, 80, 80))
    monkeypatch.setitem(LANDMARKS, "fpenet", replace(known, inputs=(color,)))
    with pytest.raises(ModelError, match=r"model 'fpenet'.* and not float32"):
        triton_plan.look(triton, engine, "client")
    assert triton_plan.look(triton, replace(engine, landmarks=""), "client").way == "client"
