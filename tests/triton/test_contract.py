"""The contract, against a real server: the notebook's models, ours, and what happens to bad requests."""

from __future__ import annotations

import io
import queue
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from PIL import Image

from scripts.make_demo_library import save_oriented
from sidecar_faces.core.types import Batch, Photo
from sidecar_faces.engine import facedetect
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.engine.detectors import open_detector
from sidecar_faces.engine.fpenet import open_estimator
from sidecar_faces.engine.pyramid import Pyramid
from sidecar_faces.engine.triton import Request, RequestFailedError, TritonClient
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.triton_specs import NOTEBOOK, OURS
from sidecar_faces.engine.worker import LocalWorker
from sidecar_faces.errors import ModelError
from sidecar_faces.library.probe import Limits, probe

ENSEMBLE = ("true_boxes", "true_proba", "landmarks", "visibility", "true_image_size", "orientation")


def jpeg(data: bytes) -> NDArray[np.uint8]:
    """Encoded bytes as a request of one photo."""
    return np.frombuffer(data, np.uint8)[None]


@pytest.fixture
def notebook(triton: TritonSettings) -> Iterator[Any]:
    """NVIDIA's client, as the notebook uses it."""
    client = grpcclient.InferenceServerClient(url=triton.urls[0])
    yield client
    client.close()


def ask(client: Any, model: str, inputs: dict[str, NDArray[Any]], types: dict[str, str]) -> dict[str, Any]:
    """The notebook's way: inputs by name and Triton type, all outputs back, asynchronously."""
    tensors = []
    for name, value in inputs.items():
        tensor = grpcclient.InferInput(name, value.shape, types[name])
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.async_infer(model, tensors, callback=lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=60)
    assert error is None, error
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def test_the_server_has_every_interface(client: TritonClient) -> None:
    client.verify((*NOTEBOOK, *OURS))


def test_another_interface_is_told_with_the_difference(client: TritonClient) -> None:
    (wanted,) = (spec for spec in OURS if spec.name == "faces_detect")
    other = replace(wanted, inputs=(replace(wanted.inputs[0], dtype="float32"),))
    with pytest.raises(ModelError, match=r"'images' is uint8.* and not float32"):
        client.verify([other])
    with pytest.raises(ModelError, match="nothing"):
        client.verify([replace(wanted, name="nothing")])


def test_a_client_of_the_notebooks_contract_finds_what_we_find(
    notebook: Any, engine: EngineSettings, portrait_jpeg: bytes, tmp_path: Any
) -> None:
    """Names, types and shapes are all that this client knows; beside it, the embedded FaceDetect."""
    found = ask(
        notebook, "facenet_ensemble", {"input_image_data": jpeg(portrait_jpeg)}, {"input_image_data": "UINT8"}
    )
    boxes, scores, size = found["true_boxes"], found["true_proba"], found["true_image_size"]
    assert boxes.dtype == scores.dtype == np.float32 and size.dtype == np.int64
    assert boxes.shape == (1, len(boxes[0]), 4) and scores.shape == (1, len(boxes[0]), 1)
    assert size.tolist() == [[512, 512, 3]]
    best = boxes[0, int(scores[0, :, 0].argmax())]

    (tmp_path / "x.jpg").write_bytes(portrait_jpeg)
    photo = probe(str(tmp_path / "x.jpg"), Limits())
    ours = _whole_photo(photo, replace(engine, detector="facedetect"))
    np.testing.assert_allclose(best, ours[0], atol=1.0)
    assert float(scores.max()) == pytest.approx(ours[1], abs=0.01)

    box = np.rint(best).astype(np.int32)[None]
    marks = ask(
        notebook,
        "fpenet_ensemble",
        {"raw_image_data": jpeg(portrait_jpeg), "true_boxes": box},
        {"raw_image_data": "UINT8", "true_boxes": "INT32"},
    )
    assert {name: value.shape for name, value in marks.items()} == {
        "conv_keypoints_m80": (1, 80, 80, 80),
        "softargmax": (1, 80, 2),
        "softargmax:1": (1, 80),
    }
    x1, y1, x2, y2 = box[0].tolist()
    side = max(x2 - x1, y2 - y1)
    corner = np.array([(x1 + x2 - side) / 2, (y1 + y2 - side) / 2])
    points = marks["softargmax"][0] * side / 80 + corner
    (expected,) = open_estimator(engine).estimate(
        decode(photo, long_side=None), box.astype(np.float64), np.empty((1, 0, 2))
    )
    assert np.abs(points - expected.points).max() < 0.015 * side


def _whole_photo(photo: Photo, settings: EngineSettings) -> tuple[list[float], float]:
    """The best box and its score, by the embedded engine's detector on the whole photo."""
    (found,) = open_detector(settings).detect([Pyramid(photo, decode).at_least(736)])
    return found.boxes[0].tolist(), float(found.scores[0])


def test_resized_photos_give_the_same_boxes_as_encoded_ones(notebook: Any, portrait: Image.Image) -> None:
    buffer = io.BytesIO()
    portrait.save(buffer, "PNG")
    whole = ask(
        notebook,
        "facenet_ensemble",
        {"input_image_data": jpeg(buffer.getvalue())},
        {"input_image_data": "UINT8"},
    )
    stretched = facedetect.stretch(np.asarray(portrait))[None]
    size = np.array([[512, 512, 3]], np.int64)
    resized = ask(
        notebook,
        "facenet_resized",
        {"input_1": stretched, "true_image_size": size},
        {"input_1": "FP32", "true_image_size": "INT64"},
    )
    # pixels; ONNX Runtime's versions round differently (0.064 seen with the one for Python 3.10)
    np.testing.assert_allclose(resized["true_boxes"], whole["true_boxes"], atol=0.1)
    np.testing.assert_array_equal(resized["true_image_size"], size)


def test_a_batch_of_unequal_photos_is_padded_by_scores_of_zero(notebook: Any, portrait: Image.Image) -> None:
    black = np.zeros_like(np.asarray(portrait))
    both = np.stack([facedetect.stretch(image) for image in (np.asarray(portrait), black)])
    size = np.array([[512, 512, 3]] * 2, np.int64)
    found = ask(
        notebook,
        "facenet_resized",
        {"input_1": both, "true_image_size": size},
        {"input_1": "FP32", "true_image_size": "INT64"},
    )
    assert found["true_boxes"].shape[0] == 2 and found["true_proba"][0].max() > 0.5
    assert not found["true_proba"][1].any() and not found["true_boxes"][1].any()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 2])
def test_one_request_returns_all_of_a_photo(
    client: TritonClient, engine: EngineSettings, portrait: Image.Image, tmp_path: Any, orientation: int
) -> None:
    path = tmp_path / "x.jpg"
    save_oriented(portrait.crop((0, 0, 512, 400)), path, orientation)
    answer = client.infer(Request("faces_ensemble", {"input_image_data": jpeg(path.read_bytes())}, ENSEMBLE))
    boxes, scores, points, visible, size, turned = (answer[name][0] for name in ENSEMBLE)
    assert size.tolist() == [400, 512, 3] and turned.tolist() == [orientation]
    assert boxes.shape == (1, 4) and scores.shape == (1, 1)
    assert points.shape == (1, 80, 3) and visible.shape == (1, 80)
    assert ((points[..., 2] >= 0) & (points[..., 2] <= 1)).all() and set(np.unique(visible)) <= {0.0, 1.0}
    (result,) = LocalWorker(engine).process(Batch((probe(str(path), Limits()),)))
    (face,) = result.faces
    assert float(scores[0, 0]) == pytest.approx(face.score, abs=0.03)
    inside = (points[0, :68, :2] > boxes[0, :2] - 20) & (points[0, :68, :2] < boxes[0, 2:] + 20)
    assert inside.all()


def test_more_landmarks_or_none_for_the_asking(client: TritonClient, portrait_jpeg: bytes) -> None:
    data = {"input_image_data": jpeg(portrait_jpeg)}
    counts = {}
    for layout in ("fpenet-68", "fpenet-80", "fpenet-104", "detector"):
        answer = client.infer(Request("faces_ensemble", data, ENSEMBLE, {"layout": layout}))
        counts[layout] = answer["landmarks"].shape[2]
    assert counts == {"fpenet-68": 68, "fpenet-80": 80, "fpenet-104": 104, "detector": 5}
    with pytest.raises(RequestFailedError, match="no layout"):
        client.infer(Request("faces_ensemble", data, ENSEMBLE, {"layout": "fpenet-3"}))


def test_a_photo_without_faces_and_limits_from_the_request(
    client: TritonClient, portrait_jpeg: bytes
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "gray").save(buffer, "JPEG")
    empty = client.infer(Request("faces_ensemble", {"input_image_data": jpeg(buffer.getvalue())}, ENSEMBLE))
    assert empty["true_boxes"].shape == (1, 0, 4) and empty["true_image_size"].tolist() == [[200, 300, 3]]
    data = {"input_image_data": jpeg(portrait_jpeg)}
    none = client.infer(Request("faces_ensemble", data, ENSEMBLE, {"min_face": "400"}))
    assert none["true_boxes"].shape == (1, 0, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x", "not a photo"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "cut off"),
        (b"AT&TFORM0000DJVU", "DjVu"),
        (b"II*\0" + bytes(60), "header that cannot be read"),
    ],
)
@pytest.mark.parametrize("model", ["faces_ensemble", "facenet_ensemble"])
def test_what_is_no_photo_is_refused_with_the_reason(
    client: TritonClient, model: str, data: bytes, reason: str
) -> None:
    with pytest.raises(RequestFailedError, match=reason):
        client.infer(Request(model, {"input_image_data": jpeg(data)}, ("true_boxes",)))


def test_bad_requests_cost_those_beside_them_nothing(notebook: Any, portrait_jpeg: bytes) -> None:
    """Sent at once, so that the server batches them: each good one is answered, each bad one refused."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    cut = portrait_jpeg[: len(portrait_jpeg) // 2]
    for number in range(24):
        tensor = grpcclient.InferInput("input_image_data", (1, 0), "UINT8")
        data = jpeg(cut if number % 3 == 1 else b"\0" * 99 if number % 3 == 2 else portrait_jpeg)
        tensor.set_shape(data.shape)
        tensor.set_data_from_numpy(data)
        notebook.async_infer(
            "faces_ensemble",
            [tensor],
            callback=lambda result, error, good=number % 3 == 0: answers.put((good, result, error)),
        )
    for _ in range(24):
        good, result, error = answers.get(timeout=120)
        assert (error is None) == good
        if good:
            assert result.as_numpy("true_boxes").shape == (1, 1, 4)


def test_tensors_go_through_memory_where_they_are_large(client: TritonClient, triton: TritonSettings) -> None:
    images = np.zeros((2, 480, 640, 3), np.uint8)
    request = Request("faces_detect", {"images": images}, ("boxes", "scores"))
    shared = client.infer(request)
    assert client.sent == 0
    other = TritonClient(replace(triton, shared_memory=False))
    sent = other.infer(request)
    assert other.sent == images.nbytes
    other.close()
    for name in ("boxes", "scores"):
        np.testing.assert_array_equal(shared[name], sent[name])


def test_memory_grows_with_requests_and_is_given_back(client: TritonClient, notebook: Any) -> None:
    before = set(notebook.get_system_shared_memory_status().regions)
    for side in (256, 1024, 2048):
        images = np.zeros((1, side, side, 3), np.uint8)
        client.infer(Request("faces_detect", {"images": images}, ("scores",)))
    ours = set(notebook.get_system_shared_memory_status().regions) - before
    assert ours and all(name.startswith("sidecar-faces-client-") for name in ours) and client.sent == 0
    client.close()
    assert not ours & set(notebook.get_system_shared_memory_status().regions)
