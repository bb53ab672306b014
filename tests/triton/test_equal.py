"""The same photo gives the same faces by the embedded engine and by Triton, whoever decodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.make_demo_library import save_oriented
from sidecar_faces.core.frames import Size, area_iou, to_area
from sidecar_faces.core.types import Batch, Face, FaceResult, FailureKind, Photo
from sidecar_faces.engine.base import EngineSettings, Worker
from sidecar_faces.engine.decode_dali import DaliDecoder, has_gpu
from sidecar_faces.engine.triton import TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.triton_worker import ClientSideWorker, ServerSideWorker, Way, open_worker
from sidecar_faces.engine.worker import LocalWorker
from sidecar_faces.library.probe import Limits, probe

WAYS: list[Way] = ["client", "server"]


def iou(a: Face, b: Face, size: Size) -> float:
    return area_iou(to_area(a.box, size), to_area(b.box, size))


def apart(a: Face, b: Face) -> float:
    """The largest distance of corresponding keypoints, as a fraction of the face's size."""
    assert a.landmarks is not None and b.landmarks is not None
    assert a.landmarks.layout == b.landmarks.layout
    both = [np.array(face.landmarks.keypoints)[:, :2] for face in (a, b) if face.landmarks]
    return float(np.hypot(*(both[0] - both[1]).T).max() / max(a.box.w, a.box.h))


def check(known: FaceResult, found: FaceResult) -> tuple[float, float]:
    """Assert that two results are the same faces; the worst overlap and distance."""
    assert known.failure is None and found.failure is None, (known.failure, found.failure)
    name, size = known.photo.path, known.photo.stored
    assert len(known.faces) == len(found.faces), name
    worst, far = 1.0, 0.0
    for face in known.faces:
        twin = max(found.faces, key=lambda other: iou(face, other, size))
        worst, far = min(worst, iou(face, twin, size)), max(far, apart(face, twin))
        assert abs(face.score - twin.score) < 0.05, name
    assert worst >= 0.95, (name, worst)
    assert far <= 0.015, (name, far)
    return worst, far


@pytest.mark.parametrize("way", [*WAYS, "dali"])
def test_every_evaluation_photo(
    triton: TritonSettings,
    engine: EngineSettings,
    photos: list[Photo],
    known: list[FaceResult],
    way: str,
) -> None:
    worker = made(triton, way, engine)
    found = [
        result
        for start in range(0, len(photos), 8)
        for result in worker.process(Batch(tuple(photos[start : start + 8])))
    ]
    assert sum(len(result.faces) for result in known) > 200
    worst = [check(one, other) for one, other in zip(known, found, strict=True)]
    assert min(overlap for overlap, _ in worst) > 0.98 and max(distance for _, distance in worst) < 0.01
    if isinstance(worker, ServerSideWorker):
        assert worker.fallbacks == 0


def made(triton: TritonSettings, way: str, engine: EngineSettings) -> Worker:
    """`client` decodes as it would here; `dali` by DALI, as it would with a GPU."""
    if way == "dali":
        return ClientSideWorker(engine, TritonClient(triton), DaliDecoder(0 if has_gpu() else None))
    return open_worker(triton, "client" if way == "client" else "server", engine)


@pytest.fixture(scope="module")
def known(engine: EngineSettings, photos: list[Photo]) -> list[FaceResult]:
    """What the embedded engine finds."""
    return list(LocalWorker(engine).process(Batch(tuple(photos))))


@pytest.fixture
def mixed(tmp_path: Path, portrait: Image.Image, portrait_jpeg: bytes) -> list[Photo]:
    """Large, turned, of other formats, without faces, cut off: everything in one batch."""
    large = Image.new("RGB", (3600, 2700), (90, 110, 120))
    large.paste(portrait.resize((1100, 1100)), (1800, 900))
    large.paste(portrait.resize((300, 300)), (200, 200))
    large.save(tmp_path / "large.jpg", quality=90)
    large.save(tmp_path / "progressive.jpg", quality=90, progressive=True)
    for orientation in (3, 6, 7):
        save_oriented(portrait, tmp_path / f"turned-{orientation}.jpg", orientation)
    portrait.save(tmp_path / "x.png")
    save_oriented(portrait, tmp_path / "x.tif", 6)
    portrait.convert("L").save(tmp_path / "gray.jpg")
    portrait.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.new("RGB", (700, 500), "gray").save(tmp_path / "empty.jpg")
    (tmp_path / "cut.jpg").write_bytes(portrait_jpeg[: len(portrait_jpeg) // 2])
    return [probe(str(path), Limits()) for path in sorted(tmp_path.iterdir())]


@pytest.mark.parametrize("way", [*WAYS, "dali"])
@pytest.mark.parametrize("layout", ["fpenet-80", "fpenet-104", "detector"])
def test_photos_of_every_kind(
    triton: TritonSettings, engine: EngineSettings, mixed: list[Photo], way: str, layout: str
) -> None:
    weights = "" if layout == "detector" else engine.landmarks.replace("80", layout.removeprefix("fpenet-"))
    name = engine.layout if layout == "detector" else layout
    settings = replace(engine, landmarks=weights, layout=name)
    local = LocalWorker(settings).process(Batch(tuple(mixed)))
    found = made(triton, way, settings).process(Batch(tuple(mixed)))
    for one, other in zip(local, found, strict=True):
        if one.photo.path.endswith("cut.jpg"):
            assert one.failure is not None and one.failure == other.failure
        else:
            check(one, other)
    assert sum(len(result.faces) for result in found) >= 10


@pytest.mark.parametrize("way", WAYS)
def test_the_limits_are_those_of_the_settings(
    triton: TritonSettings, engine: EngineSettings, mixed: list[Photo], way: Way
) -> None:
    settings = replace(engine, min_face=450, detail="fast")
    (large,) = (photo for photo in mixed if photo.path.endswith("large.jpg"))
    local = LocalWorker(settings).process(Batch((large,)))
    found = open_worker(triton, way, settings).process(Batch((large,)))
    assert len(local[0].faces) == len(found[0].faces) <= 1


def test_one_request_each_for_looks_and_for_landmarks(
    triton: TritonSettings, engine: EngineSettings, mixed: list[Photo]
) -> None:
    """All first looks of a batch of one shape go together, and so do all its faces."""
    asked: list[tuple[str, int]] = []

    class Counting(TritonClient):
        def infer(self, request):  # type: ignore[no-untyped-def]
            asked.append((request.model, len(next(iter(request.inputs.values())))))
            return super().infer(request)

    batch = [photo for photo in mixed if "turned" in photo.path or photo.path.endswith("gray.jpg")]
    client = Counting(triton)
    results = ClientSideWorker(replace(engine, detail="fast"), client, DaliDecoder(None)).process(
        Batch(tuple(batch))
    )
    client.close()
    assert [len(result.faces) for result in results] == [1] * 4
    assert asked == [("faces_detect", 4), ("fpenet", 4)]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_gone_is_no_photos_fault(
    engine: EngineSettings, mixed: list[Photo], way: Way
) -> None:
    worker = open_worker(TritonSettings(("localhost:1",), timeout=1, attempts=2), way, engine)
    for result in worker.process(Batch(tuple(mixed))):
        assert result.failure is not None
        assert result.failure.kind is FailureKind.UNAVAILABLE
