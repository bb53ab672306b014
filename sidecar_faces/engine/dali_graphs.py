"""DALI graphs: what the server's dali backend and our own pipelines do to encoded photos.

Only DALI is imported here, so that a server needs nothing else to build them. `device` is that of the
decoder: "mixed" (nvJPEG, the result on the GPU) or "cpu". Orientation is explicit everywhere: DALI's defaults
differ between its versions.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from nvidia.dali import Pipeline, fn, math, types

__all__ = [
    "Pipeline",
    "decode_image",
    "decoded",
    "facenet_preprocess",
    "faces_decode",
    "fpenet_preprocess",
    "reduced",
]

Node = Any
"""An edge of a graph."""


def _oriented(operator: Any, experimental: Any) -> Any:
    """The one that takes `adjust_orientation`: up to DALI 2.1, which Triton's containers of 2025 hold, the
    experimental one.
    """
    return operator if "adjust_orientation" in signature(operator).parameters else experimental


decode_image = _oriented(fn.decoders.image, fn.experimental.decoders.image)
peek_shape = _oriented(fn.peek_image_shape, fn.experimental.peek_image_shape)
"""From the header: the shape of an image on the GPU would have to come back to the CPU, which only some of
DALI's executors can do.
"""

_NETWORK_WIDTH, _NETWORK_HEIGHT = 736, 416
_CROP = 80
_ENLARGE = 1.25


def facenet_preprocess(device: str) -> tuple[Node, Node]:
    """`input_image_data` (encoded) to `input_1` (3, 416, 736) 0..1 and the upright height, width, 3."""
    encoded = fn.external_source(name="input_image_data", device="cpu", dtype=types.UINT8, ndim=1)
    images = decode_image(encoded, device=device, output_type=types.RGB, adjust_orientation=True)
    sizes = peek_shape(encoded, adjust_orientation=True, dtype=types.INT64)
    stretched = _resized(images, size=[_NETWORK_HEIGHT, _NETWORK_WIDTH])
    planes = fn.transpose(stretched, perm=[2, 0, 1])
    return fn.cast(planes, dtype=types.FLOAT) / 255.0, sizes


def fpenet_preprocess(device: str) -> Node:
    """`raw_image_data` (encoded) and `true_boxes` (x1, y1, x2, y2) to `input_face_images` (1, 80, 80) gray
    0..255.

    The crop is a square round the box's middle, `_ENLARGE` times its longer side; beyond the photo its border
    is repeated.
    """
    encoded = fn.external_source(name="raw_image_data", device="cpu", dtype=types.UINT8, ndim=1)
    boxes = fn.cast(
        fn.external_source(name="true_boxes", device="cpu", dtype=types.INT32, ndim=1), dtype=types.FLOAT
    )
    images = decode_image(encoded, device=device, output_type=types.GRAY, adjust_orientation=True)
    half = math.max(boxes[2] - boxes[0], boxes[3] - boxes[1]) * (_ENLARGE / 2)
    x, y = (boxes[0] + boxes[2]) / 2.0, (boxes[1] + boxes[3]) / 2.0
    crops = fn.resize(
        images,
        size=[_CROP, _CROP],
        roi_start=fn.stack(y - half, x - half),
        roi_end=fn.stack(y + half, x + half),
        interp_type=types.INTERP_TRIANGULAR,
        antialias=True,
        dtype=types.FLOAT,
    )
    return fn.transpose(crops, perm=[2, 0, 1])


def faces_decode(device: str) -> Node:
    """`image_data` (encoded) to `images` (height, width, 3) as stored; `reduction` ends with the factor to
    reduce by.
    """
    asked = fn.external_source(name="reduction", device="cpu", dtype=types.INT64, ndim=1)
    return _reduced(*decoded(device), asked[1])


def reduced(device: str) -> tuple[Node, Node]:
    """`image_data` (encoded) reduced by `factor`, and the size (h, w, 3) that it had before."""
    images, shape = decoded(device)
    factor = fn.external_source(name="factor", device="cpu", dtype=types.INT64, ndim=0)
    return _reduced(images, shape, factor), shape


def _reduced(images: Node, shape: Node, factor: Node) -> Node:
    """Averages over squares of `factor` pixels of images of a shape.

    The same as Pillow's scaled decode gives, which a resampling filter is not: at the scale of small faces a
    detector tells one from the other. Squares at the right and lower border that the image fills in part are
    averaged with black.
    """
    rows, columns = (shape[0] + factor - 1) // factor, (shape[1] + factor - 1) // factor
    start = types.Constant([0, 0], dtype=types.INT64)
    whole = fn.slice(
        images, start, fn.stack(rows * factor, columns * factor), axes=[0, 1], out_of_bounds_policy="pad"
    )
    three = types.Constant(3, dtype=types.INT64)
    squares = fn.reshape(whole, shape=fn.stack(rows, factor, columns, factor, three))
    return fn.cast_like(fn.reductions.mean(squares, axes=[1, 3]), images)


def decoded(device: str) -> tuple[Node, Node]:
    """`image_data` (encoded) as stored, whole: (height, width, 3), RGB; and its shape, on the CPU."""
    encoded = fn.external_source(name="image_data", device="cpu", dtype=types.UINT8, ndim=1)
    images = decode_image(encoded, device=device, output_type=types.RGB, adjust_orientation=False)
    return images, peek_shape(encoded, adjust_orientation=False, dtype=types.INT64)


def _resized(images: Node, size: Node) -> Node:
    """Averages where it shrinks, as Pillow's bilinear filter does."""
    return fn.resize(
        images, size=size, interp_type=types.INTERP_TRIANGULAR, antialias=True, dtype=types.UINT8
    )
