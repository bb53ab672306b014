"""The models themselves; `model_repository/*/1/model.py` names each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.core.frames import Size
from sidecar_faces.core.landmarks import LAYOUTS
from sidecar_faces.core.types import FileSignature, ImageFormat, Landmarks, Photo
from sidecar_faces.engine import facedetect, fpenet
from sidecar_faces.engine.base import Detector, EngineSettings, Image, ModelSpec, TensorSpec
from sidecar_faces.engine.centerface import SPEC as CENTERFACE
from sidecar_faces.engine.centerface import CenterFace
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.engine.encoded import reduction, strip, upright
from sidecar_faces.engine.facedetect import Color, FaceDetect, StandIn
from sidecar_faces.engine.faces import VISIBLE
from sidecar_faces.engine.fpenet import Fpenet
from sidecar_faces.engine.onnx import CPU, Session
from sidecar_faces.engine.passes import PLANS, SUSPECTED, views
from sidecar_faces.engine.worker import LocalWorker
from sidecar_faces.errors import PhotoRefusedError
from sidecar_faces.serving.backend import Model, Question, Tensors, ask, in_memory, log, remote, stacked


def _detector(parameters: dict[str, str], min_score: float) -> Detector:
    """The detector that the model's configuration names, its network asked through the server."""
    if parameters["detector"] == "facedetect":
        preset, color = parameters["preset"], cast(Color, parameters["color"])
        return FaceDetect(_GridBox(), min(SUSPECTED, min_score), preset, color)
    return _centerface(min_score)


def _centerface(min_score: float) -> CenterFace:
    run = remote("centerface", CENTERFACE.inputs[0].name, [t.name for t in CENTERFACE.outputs])
    return CenterFace(run, "centerface", min(SUSPECTED, min_score))


def _estimator(layout: str, parameters: dict[str, str]) -> Fpenet | None:
    """Landmarks by the network that has the layout's points, asked through the server; None for the
    detector's.
    """
    if layout == "detector":
        return None
    if layout not in LAYOUTS:
        raise ValueError(f"there is no layout {layout!r}")
    model = "fpenet104" if layout == "fpenet-104" else "fpenet"
    visibility = (fpenet.VISIBILITY,) if parameters["visibility"] == "true" or model == "fpenet104" else ()
    return Fpenet(remote(model, fpenet.INPUT, (fpenet.POINTS, fpenet.PEAKS, *visibility)), model, layout)


class _GridBox:
    fingerprint = "facenet"

    def __init__(self) -> None:
        self._run = remote("facenet", "input_1", (facedetect.COVERAGE, facedetect.BOXES))

    def run(self, images: NDArray[np.float32]) -> tuple[Any, Any]:
        coverage, boxes = self._run(images)
        return coverage, boxes


class FacesDetect(Model):
    """`faces_detect`: (b, h, w, 3) images to boxes, scores and points in their pixels."""

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        detector = _detector(self.parameters, float(asked.parameters.get("min_score", SUSPECTED)))
        found = detector.detect(list(asked.tensors["images"]))
        points = max((part.points.shape[1] for part in found), default=0)
        return {
            "boxes": stacked([part.boxes for part in found], (4,)),
            "scores": stacked([part.scores for part in found], ()),
            "points": stacked([part.points for part in found], (points, 2)),
        }


class CenterFaceGridBox(Model):
    """`centerface_gridbox`: stands in for FaceDetect, and says so in the log."""

    def open(self) -> None:
        """See `Model`."""
        log(f"{self.config['name']}: CenterFace stands in for {self.parameters['stand_in_for']}")

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        coverage, boxes = StandIn(_centerface(SUSPECTED)).run(asked.tensors["input_1"])
        return {facedetect.COVERAGE: coverage, facedetect.BOXES: boxes}


class FacenetPostprocess(Model):
    """`facenet_postprocess`: FaceDetect's grid to boxes in pixels of the photo, by the configured preset."""

    def open(self) -> None:
        """See `Model`."""
        self._how = facedetect.PRESETS[self.parameters["preset"]]

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        rows = zip(
            asked.tensors[facedetect.COVERAGE],
            asked.tensors[facedetect.BOXES],
            asked.tensors["true_image_size"],
            strict=True,
        )
        found = [
            facedetect.cluster(
                *facedetect.decode(coverage, grid, self._how.coverage, Size(int(width), int(height))),
                self._how,
            )
            for coverage, grid, (height, width, _) in rows
        ]
        return {
            "true_boxes": stacked([boxes for boxes, _ in found], (4,)),
            "true_proba": stacked([scores for _, scores in found], (1,)),
        }


def _size(photo: Photo) -> NDArray[np.int64]:
    return np.array([[photo.displayed.height, photo.displayed.width, 3]], np.int64)


def _one_photo(rows: NDArray[Any]) -> NDArray[Any]:
    """Photos differ in size, and so do the tensors that they become: they come one to a request."""
    if len(rows) != 1:
        raise ValueError(f"one photo is expected in a request, not {len(rows)}")
    return rows


class FacenetPreprocess(Model):
    """`facenet_preprocess` where there is no DALI."""

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        made = [self._one(encoded) for encoded in asked.tensors["input_image_data"]]
        return {
            "input_1": np.stack([image for image, _ in made]),
            "true_image_size": np.concatenate([size for _, size in made]),
        }

    @staticmethod
    def _one(encoded: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        with in_memory(encoded) as photo:
            image = decode(photo, long_side=facedetect.NETWORK.width)
        return facedetect.stretch(image), _size(photo)


class FacesHeader(Model):
    """`faces_header`: what the header says; what is no photo of ours is refused before it meets a decoder."""

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        (encoded,) = _one_photo(asked.tensors["input_image_data"])
        with in_memory(encoded) as photo:
            if photo.format is ImageFormat.TIFF:
                raise PhotoRefusedError("is a TIFF, which clients decode themselves")
            data = strip(encoded.tobytes()) if photo.format is ImageFormat.JPEG else encoded
        detail = str(asked.parameters.get("detail", "normal"))
        if detail not in PLANS:
            raise ValueError(f"there is no detail {detail!r}")
        content = views(photo.displayed, detail)[0].letterbox.content
        return {
            "image_data": np.frombuffer(bytes(data), np.uint8)[None],
            "reduction": _reduction(photo.stored, max(content.width, content.height)),
            "true_image_size": _size(photo),
            "orientation": np.array([[photo.orientation]], np.int32),
        }


def _reduction(stored: Size, long_side: int) -> NDArray[np.int64]:
    """What `faces_decode` is told: the least length of the longer side, and the factor that follows."""
    return np.array([[long_side, reduction(stored, long_side)]], np.int64)


class FacesDecode(Model):
    """`faces_decode` where there is no DALI: one photo a request."""

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        (encoded,), (sizes,) = _one_photo(asked.tensors["image_data"]), asked.tensors["reduction"]
        with in_memory(encoded) as photo:
            image = decode(replace(photo, orientation=1), long_side=int(sizes[0]))
        return {"images": image[None]}


class FacesIndex(Model):
    """`faces_index`: the embedded engine's passes and landmarks on a photo that is already decoded."""

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        (image,), (encoded,) = asked.tensors["images"], asked.tensors["image_data"]
        (size,), (orientation,) = asked.tensors["true_image_size"], asked.tensors["orientation"]
        settings = EngineSettings(
            models="",
            min_score=float(asked.parameters.get("min_score", 0.5)),
            min_face=int(asked.parameters.get("min_face", 1)),
            detail=str(asked.parameters.get("detail", "normal")),
        )
        decoder = _Decoder(image, encoded, int(orientation[0]))
        # upright is all that this photo is: its stored frame is the displayed one
        displayed = Photo("", FileSignature(0, 0), ImageFormat.JPEG, Size(int(size[1]), int(size[0])), 1)
        detector = _detector(self.parameters, settings.min_score)
        layout = str(asked.parameters.get("layout", "fpenet-80"))
        worker = LocalWorker(settings, decoder, detector, _estimator(layout, self.parameters))
        faces = worker.faces(displayed)
        marks = [face.landmarks for face in faces]
        boxes = [[f.box.x, f.box.y, f.box.x + f.box.w, f.box.y + f.box.h] for f in faces]
        return {
            "true_boxes": _table(boxes, 4),
            "true_proba": _table([[face.score] for face in faces], 1),
            "landmarks": _table(
                [np.reshape(mark.keypoints if mark else (), (-1, 3)) for mark in marks], 0, 3
            ),
            "visibility": _table([_visible(mark) for mark in marks], 0),
        }


def _visible(mark: Landmarks | None) -> list[float]:
    return [float(v == VISIBLE) for v in mark.visibility] if mark else []


def _table(rows: Sequence[Any], *empty: int) -> NDArray[np.float32]:
    """(1, n, ...) of n rows; `empty` is the shape of a row where there is none."""
    return np.array([rows] if rows else np.zeros((1, 0, *empty)), np.float32)


class _Decoder:
    """Gives the image that came with the request first; asks for a finer one where it will not do."""

    def __init__(self, image: Image, encoded: NDArray[np.uint8], orientation: int) -> None:
        self._first: Image | None = image
        self._encoded, self._orientation = encoded, orientation

    def __call__(self, photo: Photo, *, long_side: int | None) -> Image:
        """See `pyramid.Decode`."""
        image, self._first = self._first, None
        if image is None:
            longest = max(photo.stored.width, photo.stored.height)
            sizes = _reduction(photo.stored, min(long_side or longest, longest))
            ((image,),) = ask(
                "faces_decode", {"image_data": self._encoded[None], "reduction": sizes}, ("images",)
            )
        return upright(image, self._orientation)


class FpenetPreprocess(Model):
    """`fpenet_preprocess` where there is no DALI."""

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        pairs = zip(asked.tensors["raw_image_data"], asked.tensors["true_boxes"], strict=True)
        return {fpenet.INPUT: np.stack([self._one(*pair) for pair in pairs])[:, None]}

    @staticmethod
    def _one(encoded: NDArray[np.uint8], box: NDArray[np.int32]) -> NDArray[np.float32]:
        if (box[2:] <= box[:2]).any():
            raise PhotoRefusedError(f"has no pixels in the box {box.tolist()}")
        with in_memory(encoded) as photo:
            image = decode(photo, long_side=None)
        crop = fpenet.place(box.astype(np.float64), np.empty((0, 2)))
        return fpenet.cut(image, crop)


class FpenetPostprocess(Model):
    """`fpenet_postprocess`: from pixels of the network's crop to pixels of the square round the box."""

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        middle = fpenet.CROP / 2
        points = (asked.tensors["network_points"] - middle) * fpenet.ENLARGE + middle
        return {fpenet.POINTS: points.astype(np.float32)}


class OnnxModel(Model):
    """A network where there is no onnxruntime backend: `model.onnx` beside this model's `model.py`."""

    def open(self) -> None:
        """See `Model`."""
        providers = self.parameters.get("providers", CPU).split(",")
        path = os.path.join(self.folder, "model.onnx")
        self._session = Session(path, _spec(self.config), providers=providers)

    def answer(self, asked: Question) -> Tensors:
        """See `Model`."""
        (tensor,) = asked.tensors.values()
        wanted = sorted(asked.wanted)
        return dict(zip(wanted, self._session(tensor, only=wanted), strict=True))


def _spec(config: dict[str, Any]) -> ModelSpec:
    """The interface of a network as its configuration states it; all tensors are FP32 and batched."""
    inputs, outputs = (
        tuple(TensorSpec(t["name"], "float32", (-1, *map(int, t["dims"]))) for t in config[kind])
        for kind in ("input", "output")
    )
    return ModelSpec(config["name"], inputs, outputs)
