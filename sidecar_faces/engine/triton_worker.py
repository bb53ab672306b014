"""Two workers that leave the networks to a Triton server.

`ClientSideWorker` decodes batches itself (by DALI on a GPU) and sends tensors of network size;
`ServerSideWorker` sends encoded photos. Both find what the embedded engine finds, and neither blames a photo
for the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.core.frames import DisplayedPoints
from sidecar_faces.core.types import (
    Batch,
    Face,
    FaceResult,
    Failure,
    FailureKind,
    ImageFormat,
    Landmarks,
    Photo,
)
from sidecar_faces.engine import decode_pillow, fpenet
from sidecar_faces.engine.base import Detections, EngineSettings, Image, Keypoints, Worker
from sidecar_faces.engine.centerface import MULTIPLE
from sidecar_faces.engine.decode_dali import DaliDecoder, Decoded, has_gpu
from sidecar_faces.engine.encoded import strip
from sidecar_faces.engine.faces import landmarks, stored_box
from sidecar_faces.engine.fpenet import Fpenet
from sidecar_faces.engine.passes import SUSPECTED, views
from sidecar_faces.engine.pyramid import Pyramid
from sidecar_faces.engine.search_batch import search_batch
from sidecar_faces.engine.triton import (
    Request,
    RequestFailedError,
    ServerUnavailableError,
    TritonClient,
)
from sidecar_faces.engine.triton_settings import TritonSettings
from sidecar_faces.engine.worker import FIVE_POINTS, LocalWorker, Prepared, attempt
from sidecar_faces.errors import ModelError, PhotoFailedError, PhotoRefusedError

Way = Literal["client", "server"]

IN_FLIGHT = 4
"""Requests of one worker that wait for a server at the same time."""
_FACES = ("true_boxes", "true_proba", "landmarks", "visibility", "true_image_size")
_TOGETHER = 64
"""Faces in one request, which is as many as the model takes."""


class TritonDetector:
    """A `Detector` on a server; images may differ in size, those of one padded shape go together.

    CenterFace pads its images itself, so that doing so here changes nothing; FaceDetect stretches them, and
    would find padding in the picture.
    """

    fingerprint = "triton"

    def __init__(self, client: TritonClient, settings: EngineSettings) -> None:
        self._client = client
        self._parameters = {"min_score": f"{min(SUSPECTED, settings.min_score):g}"}
        self._multiple = 1 if settings.detector == "facedetect" else MULTIPLE

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Detections for each image. Raises ServerUnavailableError or RequestFailedError."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            shapes.setdefault(self._padded(image), []).append(index)
        found: dict[int, Detections] = {}
        for (height, width), members in shapes.items():
            tensor = np.zeros((len(members), height, width, 3), np.uint8)
            for canvas, index in zip(tensor, members, strict=True):
                canvas[: images[index].shape[0], : images[index].shape[1]] = images[index]
            found.update(zip(members, self._ask(tensor), strict=True))
        return [found[index] for index in range(len(images))]

    def _padded(self, image: Image) -> tuple[int, int]:
        height, width = (-(-length // self._multiple) * self._multiple for length in image.shape[:2])
        return height, width

    def _ask(self, tensor: NDArray[np.uint8]) -> list[Detections]:
        request = Request("faces_detect", {"images": tensor}, ("boxes", "scores", "points"), self._parameters)
        answer = self._client.infer(request)
        boxes, scores, points = (answer[name].astype(np.float64) for name in request.outputs)
        rows = (len(tensor), scores.shape[-1])
        if (
            boxes.shape != (*rows, 4)
            or scores.shape != rows
            or points.shape[:2] != rows
            or points.shape[3:] != (2,)
        ):
            raise ServerUnavailableError(
                f"Triton at {self._client.url} answers boxes of shape {boxes.shape}."
            )
        real = scores > 0
        return [Detections(b[r], s[r], p[r]) for b, s, p, r in zip(boxes, scores, points, real, strict=True)]


class TritonFpenet:
    """FPENet's network on a server, as `Fpenet` runs it."""

    def __init__(self, client: TritonClient, layout: str) -> None:
        self._client = client
        self._model = landmark_model(layout)
        self._outputs: tuple[str, ...] = ()

    def __call__(self, crops: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Raises ServerUnavailableError or RequestFailedError."""
        if not self._outputs:
            offered = {tensor.name for tensor in self._client.spec(self._model).outputs}
            known = (fpenet.POINTS, fpenet.PEAKS, fpenet.VISIBILITY)
            self._outputs = tuple(name for name in known if name in offered)
        answer = self._client.infer(Request(self._model, {fpenet.INPUT: crops}, self._outputs))
        found = [answer[name] for name in self._outputs]
        if any(len(output) != len(crops) for output in found):
            raise ServerUnavailableError(f"Triton at {self._client.url} answers too few faces.")
        return found


def landmark_model(layout: str) -> str:
    """The model of the repository that has a layout's points."""
    return "fpenet104" if layout == "fpenet-104" else "fpenet"


class BatchDecoder(Protocol):
    """Decodes several photos at once; `DaliDecoder` says what it promises."""

    def decode(self, photos: Sequence[Photo], long_sides: Sequence[int]) -> list[Decoded]: ...


class PillowDecoder:
    """The embedded engine's decoder, which on a CPU is faster than DALI: it decodes only what is needed."""

    def decode(self, photos: Sequence[Photo], long_sides: Sequence[int]) -> list[Decoded]:
        """One photo after the other."""
        return [self._one(photo, side) for photo, side in zip(photos, long_sides, strict=True)]

    @staticmethod
    def _one(photo: Photo, long_side: int) -> Decoded:
        try:
            return decode_pillow.decode(photo, long_side=long_side)
        except (PhotoFailedError, PhotoRefusedError) as error:
            return error


class ClientSideWorker:
    """Decodes here, detects there: one request for the first look at all photos of a batch, few for all
    others.
    """

    def __init__(self, settings: EngineSettings, client: TritonClient, decoder: BatchDecoder) -> None:
        self._settings, self._decoder = settings, decoder
        self._detector = TritonDetector(client, settings)
        self._estimator = Fpenet(TritonFpenet(client, settings.layout), "triton", settings.layout, _TOGETHER)
        estimator = self._estimator if settings.landmarks else None
        self._alone = LocalWorker(settings, decode_pillow.decode, self._detector, estimator)

    def process(self, batch: Batch) -> tuple[FaceResult, ...]:
        """One result per photo, in the order of the batch; never raises for a bad photo."""
        photos = batch.photos
        decoded = self._decoder.decode(photos, [_first(photo, self._settings.detail) for photo in photos])
        images = {i: image for i, image in enumerate(decoded) if isinstance(image, np.ndarray)}
        pyramids = {i: Pyramid(photos[i], self._decode, image) for i, image in images.items()}
        try:
            prepared = self._prepared(pyramids)
            faces = self._faces([some for some in prepared.values() if isinstance(some, Prepared)])
        except ServerUnavailableError as error:
            return unavailable(photos, error)
        except (RequestFailedError, PhotoFailedError, PhotoRefusedError):
            return self._alone.process(batch)
        done = iter(faces)
        outcomes = {i: next(done) if isinstance(some, Prepared) else some for i, some in prepared.items()}
        return tuple(
            attempt(photo, partial(_outcome, outcomes.get(i, image)))
            for i, (photo, image) in enumerate(zip(photos, decoded, strict=True))
        )

    def _prepared(
        self, pyramids: dict[int, Pyramid]
    ) -> dict[int, Prepared | PhotoFailedError | PhotoRefusedError]:
        """Look for faces in all photos, and decode those again that need it for their landmarks."""
        detail, least = self._settings.detail, self._alone.promising
        found = search_batch(list(pyramids.values()), self._detector, detail, least)
        prepared: dict[int, Prepared | PhotoFailedError | PhotoRefusedError] = {}
        for (index, pyramid), some in zip(pyramids.items(), found, strict=True):
            try:
                prepared[index] = self._alone.prepare(pyramid, some)
            except (PhotoFailedError, PhotoRefusedError) as error:
                prepared[index] = error
        return prepared

    def _faces(self, prepared: Sequence[Prepared]) -> list[tuple[Face, ...]]:
        """Landmarks for the faces of all photos, in one request."""
        if not self._settings.landmarks:
            return [self._alone.complete(some, FIVE_POINTS, some.detected()) for some in prepared]
        jobs = [(some.image, some.boxes(), some.points()) for some in prepared if some.image is not None]
        estimates = iter(self._estimator.estimate_batch(jobs))
        return [
            self._alone.complete(some, self._settings.layout, [] if some.image is None else next(estimates))
            for some in prepared
        ]

    def _decode(self, photo: Photo, *, long_side: int | None) -> Image:
        (image,) = self._decoder.decode([photo], [long_side or 1 << 30])
        if isinstance(image, Exception):
            raise image
        return image


def _outcome(outcome: tuple[Face, ...] | Decoded, _photo: Photo) -> tuple[Face, ...]:
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, np.ndarray):
        raise PhotoFailedError("was not looked at")
    return outcome


def _first(photo: Photo, detail: str) -> int:
    content = views(photo.displayed, detail)[0].letterbox.content
    return max(content.width, content.height)


def unavailable(photos: Sequence[Photo], error: Exception) -> tuple[FaceResult, ...]:
    """No photo was looked at."""
    return tuple(FaceResult(photo, failure=Failure(FailureKind.UNAVAILABLE, str(error))) for photo in photos)


class ServerSideWorker:
    """Sends encoded photos, several at once; formats that the server does not take are decoded here."""

    def __init__(self, settings: EngineSettings, connect: Callable[[], TritonClient]) -> None:
        self._settings, self._connect = settings, connect
        self._threads = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="triton")
        self._local = threading.local()
        self.fallbacks = 0
        """Photos that the server could not do and we decoded."""
        self._parameters = {
            "detail": settings.detail,
            "min_score": f"{settings.min_score:g}",
            "min_face": str(settings.min_face),
            "layout": settings.layout if settings.landmarks else "detector",
        }

    def process(self, batch: Batch) -> tuple[FaceResult, ...]:
        """One result per photo, in the order of the batch; never raises for a bad photo."""
        return tuple(self._threads.map(lambda photo: attempt(photo, self._faces), batch.photos))

    def _client(self) -> TritonClient:
        if not hasattr(self._local, "client"):
            self._local.client = self._connect()
        client: TritonClient = self._local.client
        return client

    def _faces(self, photo: Photo) -> tuple[Face, ...]:
        if photo.format is ImageFormat.JPEG:
            try:
                return self._encoded(photo)
            except RequestFailedError:  # what the server's decoder cannot do, ours may; if not, it says why
                self.fallbacks += 1
        client = self._client()
        network = TritonFpenet(client, self._settings.layout)
        estimator = (
            Fpenet(network, "triton", self._settings.layout, _TOGETHER) if self._settings.landmarks else None
        )
        detector = TritonDetector(client, self._settings)
        return LocalWorker(self._settings, decode_pillow.decode, detector, estimator).faces(photo)

    def _encoded(self, photo: Photo) -> tuple[Face, ...]:
        with decode_pillow.opened(photo) as file:
            data = np.frombuffer(strip(file.read(), photo.orientation), np.uint8)[None]
        client = self._client()
        answer = client.infer(Request("faces_ensemble", {"input_image_data": data}, _FACES, self._parameters))
        boxes, scores, points, visible, size = (answer[name][0] for name in _FACES)
        displayed = photo.displayed
        if size.tolist() != [displayed.height, displayed.width, 3] or boxes.shape != (len(scores), 4):
            raise RequestFailedError("is another photo to the server than it is here")
        return tuple(self._made(photo, boxes, scores, points, visible))

    def _made(self, photo: Photo, *rows: NDArray[Any]) -> list[Face]:
        made = []
        for box, score, points, visible in zip(*rows, strict=True):
            where = stored_box(photo, box.astype(np.float64))
            if where is None or min(where.w, where.h) < self._settings.min_face:
                continue
            made.append(Face(where, float(score[0]), self._landmarks(photo, points, visible)))
        return made

    def _landmarks(self, photo: Photo, points: NDArray[Any], visible: NDArray[Any]) -> Landmarks | None:
        if not len(points):
            return None
        layout = self._settings.layout if self._settings.landmarks else FIVE_POINTS
        seen = visible[: len(points)] if self._settings.landmarks else np.empty(0)
        places = DisplayedPoints(points[:, :2].astype(np.float64))
        return landmarks(photo, layout, Keypoints(places, points[:, 2], seen))


def open_worker(triton: TritonSettings, way: Way, settings: EngineSettings) -> Worker:
    """A worker in this process; called in the child process that runs it. Raises ModelError."""
    if way == "server":
        return ServerSideWorker(settings, lambda: TritonClient(triton))
    if not has_gpu():
        return ClientSideWorker(settings, TritonClient(triton), PillowDecoder())
    decoder = DaliDecoder(0)
    if reason := decoder.refusal():
        raise ModelError(
            f"DALI cannot decode on this GPU ({reason}); set triton_decode to server, or mend its driver."
        )
    return ClientSideWorker(settings, TritonClient(triton), decoder)
