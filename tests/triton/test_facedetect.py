"""FaceDetect on a server, asked by our own client: the slot `facenet`, which CenterFace fills as a grid.

The server is composed with another preset and another colour than the defaults: a setting that does not
arrive would change what is found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar_faces.core.types import Batch, FaceResult, Photo
from sidecar_faces.engine import triton_plan
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.worker import LocalWorker, worker_fingerprint
from sidecar_faces.errors import ModelError
from sidecar_faces.triton_repository import Composition, compose
from sidecar_faces.triton_server import Installation, ServerSettings, running
from tests.cli.conftest import Cli, Tree
from tests.triton.conftest import free_ports, is_ready, url_of
from tests.triton.test_equal import WAYS, check, made

PRESET, COLOR = "deepstream", "gray"
FLAGS = ("--detector", "facedetect")
SETTINGS: dict[str, Any] = {
    "SIDECAR_FACES_FACEDETECT_PRESET": PRESET,
    "SIDECAR_FACES_FACEDETECT_COLOR": COLOR,
}


@pytest.fixture(scope="module")
def gridbox(
    installation: Installation, weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonSettings]:
    """How to reach a server that detects by FaceDetect."""
    workspace = tmp_path_factory.mktemp("facedetect")
    what = Composition(weights, "facedetect", PRESET, color=COLOR)
    grpc, http, metrics = free_ports(3)
    settings = ServerSettings(
        compose(workspace / "repository", what),
        workspace,
        grpc_port=grpc,
        http_port=http,
        metrics_port=metrics,
    )
    lines: list[str] = []
    with running(installation, settings, lambda: is_ready(settings), lines.append):
        yield TritonSettings((url_of(settings),))
    assert any("CenterFace stands in for facenet" in line for line in lines)


@pytest.fixture(scope="module")
def facedetect(engine: EngineSettings) -> EngineSettings:
    return replace(engine, detector="facedetect", preset=PRESET, color=COLOR)


@pytest.fixture(scope="module")
def some(photos: list[Photo]) -> list[Photo]:
    """Real photos of several shapes, with many faces, few and none."""
    return photos[::6]


@pytest.fixture(scope="module")
def known(facedetect: EngineSettings, some: list[Photo]) -> list[FaceResult]:
    """What the embedded engine finds."""
    return list(LocalWorker(facedetect).process(Batch(tuple(some))))


@pytest.mark.parametrize("way", [*WAYS, "dali"])
def test_real_photos_give_the_same_faces(
    gridbox: TritonSettings, facedetect: EngineSettings, known: list[FaceResult], way: str
) -> None:
    worker = made(gridbox, way, facedetect)
    found = worker.process(Batch(tuple(result.photo for result in known)))
    worst = [check(one, other) for one, other in zip(known, found, strict=True)]
    assert sum(len(result.faces) for result in found) > 20
    assert any(not result.faces for result in found)
    assert min(overlap for overlap, _ in worst) > 0.99 and max(distance for _, distance in worst) < 0.01


@pytest.mark.parametrize("way", WAYS)
def test_boxes_without_points_are_faces_too(
    gridbox: TritonSettings, facedetect: EngineSettings, known: list[FaceResult], way: str
) -> None:
    """FaceDetect has no points, and without a landmark network there are none to write."""
    settings = replace(facedetect, landmarks="")
    batch = Batch(tuple(result.photo for result in known[:2]))
    for one, other in zip(
        LocalWorker(settings).process(batch), made(gridbox, way, settings).process(batch), strict=True
    ):
        assert one.failure is None and other.failure is None
        assert [face.landmarks for face in other.faces] == [face.landmarks for face in one.faces]
        assert len(one.faces) == len(other.faces) > 0


def test_the_server_is_told_from_one_that_clusters_or_sees_otherwise(
    gridbox: TritonSettings, facedetect: EngineSettings
) -> None:
    assert triton_plan.look(gridbox, facedetect, "server").models == worker_fingerprint(facedetect)
    with pytest.raises(ModelError, match="has FaceDetect's preset 'deepstream', and 'tao' is asked for"):
        triton_plan.look(gridbox, replace(facedetect, preset="tao"), "server")
    with pytest.raises(ModelError, match="has FaceDetect's color 'gray', and 'rgb' is asked for"):
        triton_plan.look(gridbox, replace(facedetect, color="rgb"), "server")
    with pytest.raises(ModelError, match="detects by 'facedetect', and 'centerface' is asked for"):
        triton_plan.look(gridbox, replace(facedetect, detector="centerface"), "server")


@pytest.fixture(scope="module")
def indexed(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of real photos, indexed by the embedded engine."""
    root = tmp_path_factory.mktemp("local")
    for photo in sorted((datasets / "detection" / "dlib_faces" / "images").iterdir())[:4]:
        shutil.copyfile(photo, root / photo.name)
    Cli(tmp_path_factory.mktemp("state"))("rescan", "--engine", "local", *FLAGS, root, **SETTINGS)
    return root


@pytest.mark.parametrize("way", WAYS)
def test_a_run_writes_what_the_embedded_engine_writes(
    cli: Cli, gridbox: TritonSettings, indexed: Path, tmp_path: Path, way: str
) -> None:
    """And leaves nothing to do for the embedded engine."""
    library = tmp_path / "photos"
    shutil.copytree(indexed, library, ignore=shutil.ignore_patterns("*.xmp", "*.json"))
    words = ("rescan", "--engine", "triton", "--triton-url", *gridbox.urls, "--triton-decode", way, *FLAGS)
    report = cli.json(*words, library, **SETTINGS)
    assert (report["indexed"], report["quarantined"], report["refused"]) == (4, 0, 0)
    for path in sorted(indexed.glob("*.faces.json")):
        expected, found = (json.loads((root / path.name).read_text()) for root in (indexed, library))
        assert found["models"] == expected["models"]
        assert "facedetect-by-centerface/deepstream/gray" in found["models"]["fingerprint"]
        assert len(found["faces"]) == len(expected["faces"]) > 0
        for one, other in zip(expected["faces"], found["faces"], strict=True):
            same_face(one, other)
    before = Tree.of(library)
    report = cli.json("rescan", "--engine", "local", *FLAGS, library, **SETTINGS)
    assert report["unchanged"] == 4 and Tree.of(library) == before


def same_face(one: dict[str, Any], other: dict[str, Any]) -> None:
    side = max(one["bbox"][2:])
    np.testing.assert_allclose(other["bbox"], one["bbox"], atol=0.01 * side)
    keypoints, others = np.array(one["keypoints"])[:, :2], np.array(other["keypoints"])[:, :2]
    np.testing.assert_allclose(others, keypoints, atol=0.015 * side)
    assert other["score"] == pytest.approx(one["score"], abs=0.02)
    assert other["layout"] == one["layout"] == "fpenet-80"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "state")
