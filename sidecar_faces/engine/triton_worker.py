"""Two workers that leave the networks to a Triton server.

`ClientSideWorker` decodes batches itself (by DALI) and sends tensors of network size; `ServerSideWorker`
sends encoded photos. Both find what the embedded engine finds, and neither blames a photo for the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidecar_faces.core.frames import DisplayedPoints
from sidecar_faces.core.landmarks import LAYOUTS
from sidecar_faces.core.types import Batch, Face, FaceResult, Failure, FailureKind, ImageFormat, Photo
from sidecar_faces.engine import decode_pillow
from sidecar_faces.engine.base import Detections, EngineSettings, Image, Keypoints, Worker
from sidecar_faces.engine.centerface import MULTIPLE
from sidecar_faces.engine.decode_dali import DaliDecoder, Decoded, has_gpu
from sidecar_faces.engine.encoded import strip
from sidecar_faces.engine.faces import landmarks, stored_box
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
from sidecar_faces.engine.worker import FIVE_POINTS, LocalWorker, attempt
from sidecar_faces.errors import PhotoFailedError, PhotoRefusedError

Way = Literal["client", "server"]

IN_FLIGHT = 4
"""Requests of one worker that wait for a server at the same time."""
_FACES = ("true_boxes", "true_proba", "landmarks", "visibility", "true_image_size")
_LAYOUT_OF = {layout.count: name for name, layout in LAYOUTS.items()}


class TritonDetector:
    """A `Detector` on a server; images may differ in size, those of one padded shape go together."""

    fingerprint = "triton"

    def __init__(self, client: TritonClient, min_score: float) -> None:
        self._client = client
        self._parameters = {"min_score": f"{min(SUSPECTED, min_score):g}"}

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Detections for each image. Raises ServerUnavailableError or RequestFailedError."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            shapes.setdefault(_padded(image), []).append(index)
        found: dict[int, Detections] = {}
        for (height, width), members in shapes.items():
            tensor = np.zeros((len(members), height, width, 3), np.uint8)
            for canvas, index in zip(tensor, members, strict=True):
                canvas[: images[index].shape[0], : images[index].shape[1]] = images[index]
            found.update(zip(members, self._ask(tensor), strict=True))
        return [found[index] for index in range(len(images))]

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


def _padded(image: Image) -> tuple[int, int]:
    height, width = image.shape[:2]
    return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE


class ClientSideWorker:
    """Decodes here, detects there: one request for the first look at all photos of a batch, few for all
    others.
    """

    def __init__(self, settings: EngineSettings, client: TritonClient, decoder: DaliDecoder) -> None:
        self._settings, self._decoder = settings, decoder
        self._detector = TritonDetector(client, settings.min_score)
        self._alone = LocalWorker(settings, decode_pillow.decode, self._detector)

    def process(self, batch: Batch) -> tuple[FaceResult, ...]:
        """One result per photo, in the order of the batch; never raises for a bad photo."""
        photos = batch.photos
        decoded = self._decoder.decode(photos, [_finest(photo, self._settings.detail) for photo in photos])
        images = {i: image for i, image in enumerate(decoded) if isinstance(image, np.ndarray)}
        pyramids = {i: Pyramid(photos[i], self._decode, image) for i, image in images.items()}
        try:
            found = search_batch(
                list(pyramids.values()), self._detector, self._settings.detail, self._settings.min_score
            )
        except ServerUnavailableError as error:
            return unavailable(photos, error)
        except (RequestFailedError, PhotoFailedError, PhotoRefusedError):
            return self._alone.process(batch)
        ready = {i: partial(self._finish, pyramids[i], some) for i, some in zip(pyramids, found, strict=True)}
        return tuple(
            attempt(photo, ready.get(i) or partial(_refuse, image))
            for i, (photo, image) in enumerate(zip(photos, decoded, strict=True))
        )

    def _finish(self, pyramid: Pyramid, found: Detections, _photo: Photo) -> tuple[Face, ...]:
        return self._alone.finish(pyramid, found)

    def _decode(self, photo: Photo, *, long_side: int | None) -> Image:
        (image,) = self._decoder.decode([photo], [long_side or 1 << 30])
        if isinstance(image, Exception):
            raise image
        return image


def _refuse(reason: Decoded, _photo: Photo) -> tuple[Face, ...]:
    if isinstance(reason, Exception):
        raise reason
    raise PhotoFailedError("was not looked at")


def _finest(photo: Photo, detail: str) -> int:
    content = views(photo.displayed, detail)[-1].letterbox.content
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
        detector = TritonDetector(self._client(), self._settings.min_score)
        return LocalWorker(self._settings, decode_pillow.decode, detector).faces(photo)

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
            layout = _LAYOUT_OF[len(points)]
            seen = visible if layout != FIVE_POINTS else np.empty(0)
            places = DisplayedPoints(points[:, :2].astype(np.float64))
            made.append(
                Face(where, float(score[0]), landmarks(photo, layout, Keypoints(places, points[:, 2], seen)))
            )
        return made


def open_worker(triton: TritonSettings, way: Way, settings: EngineSettings) -> Worker:
    """A worker in this process; called in the child process that runs it."""
    if way == "server":
        return ServerSideWorker(settings, lambda: TritonClient(triton))
    device = 0 if has_gpu() else None
    return ClientSideWorker(settings, TritonClient(triton), DaliDecoder(device))
