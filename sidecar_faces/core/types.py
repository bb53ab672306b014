"""The values that the stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sidecar_faces.core.frames import Size, StoredBox, displayed_size


class Outcome(str, Enum):
    """Every photo ends in one of these."""

    DONE = "done"
    UNCHANGED = "unchanged"
    QUARANTINED = "quarantined"
    REFUSED = "refused"


class ImageFormat(str, Enum):
    """File formats by their magic bytes, not by their names."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    TIFF = "tiff"


@dataclass(frozen=True, slots=True)
class FileSignature:
    """What tells one version of a file from another without reading it."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo in a library, as its header describes it.

    `path` is absolute; bytes that are not UTF-8 are kept as surrogate escapes (`os.fsdecode`).
    `stored` is the size before orientation; `orientation` is 1..8 (1 where absent or invalid).
    """

    path: str
    signature: FileSignature
    format: ImageFormat
    stored: Size
    orientation: int

    @property
    def displayed(self) -> Size:
        return displayed_size(self.stored, self.orientation)


@dataclass(frozen=True, slots=True)
class Batch:
    """Photos whose network canvas is the same."""

    photos: tuple[Photo, ...]


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Keypoints of one face.

    `keypoints`: (x, y, confidence) per point, stored pixels, confidence 0..1, in the order of `layout`
    (see `core.landmarks`). `visibility`: COCO's v per point (2 visible, 1 occluded), or empty where the
    model cannot tell. `rotation`: in-plane roll in degrees in the stored frame, -atan2(dy, dx) from the
    image-left to the image-right eye; `center`: the point between the eyes, stored pixels. `pose`: yaw, pitch
    and roll in degrees as the photo is displayed (see `core.landmarks.head_pose`), where the points allow it.
    """

    layout: str
    keypoints: tuple[tuple[float, float, float], ...]
    visibility: tuple[int, ...]
    rotation: float
    center: tuple[float, float]
    pose: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Face:
    """A detection: box in stored pixels, clipped to the photo; score 0..1; landmarks where estimated."""

    box: StoredBox
    score: float
    landmarks: Landmarks | None


class FailureKind(str, Enum):
    """Whether trying again can help; `unavailable` is the engine's failure, not the photo's."""

    REFUSED = "refused"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result; `reason` is a phrase that follows the photo's name and a colon."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True, slots=True)
class FaceResult:
    """What the worker found in one photo; a failure never means "no faces"."""

    photo: Photo
    faces: tuple[Face, ...] = ()
    failure: Failure | None = None
