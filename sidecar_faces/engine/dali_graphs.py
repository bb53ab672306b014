"""DALI graphs: what the server's dali backend and our own pipelines do to encoded photos.

Only DALI is imported here, so that a server needs nothing else to build them. `device` is that of the
decoder: "mixed" (nvJPEG, the result on the GPU) or "cpu". Orientation is explicit everywhere: DALI's defaults
differ between its versions.
"""

from __future__ import annotations

from typing import Any

from nvidia.dali import Pipeline, fn, types

__all__ = ["Pipeline", "facenet_preprocess", "faces_decode", "faces_decode_with_shape", "fpenet_preprocess"]

Node = Any
"""An edge of a graph."""

_NETWORK_WIDTH, _NETWORK_HEIGHT = 736, 416
_CROP = 80


def facenet_preprocess(device: str) -> tuple[Node, Node]:
    """`input_image_data` (encoded) to `input_1` (3, 416, 736) 0..1 and the upright height, width, 3."""
    encoded = fn.external_source(name="input_image_data", device="cpu", dtype=types.UINT8, ndim=1)
    images = fn.decoders.image(encoded, device=device, output_type=types.RGB, adjust_orientation=True)
    sizes = images.shape(dtype=types.INT64)
    stretched = _resized(images, size=[_NETWORK_HEIGHT, _NETWORK_WIDTH])
    planes = fn.transpose(stretched, perm=[2, 0, 1])
    return fn.cast(planes, dtype=types.FLOAT) / 255.0, sizes


def fpenet_preprocess(device: str) -> Node:
    """`raw_image_data` (encoded) and `true_boxes` (x1, y1, x2, y2) to `input_face_images` (1, 80, 80) gray
    0..255.

    The crop is the square on the box's longer side, round the box's middle; beyond the photo it repeats its
    border.
    """
    encoded = fn.external_source(name="raw_image_data", device="cpu", dtype=types.UINT8, ndim=1)
    boxes = fn.external_source(name="true_boxes", device="cpu", dtype=types.INT32, ndim=1)
    images = fn.decoders.image(encoded, device=device, output_type=types.GRAY, adjust_orientation=True)
    return images, boxes


def faces_decode(device: str) -> Node:
    """`image_data` (encoded) to `images` (height, width, 3) as stored, of `decode_size` (width, height)."""
    return faces_decode_with_shape(device)[0]


def faces_decode_with_shape(device: str) -> tuple[Node, Node]:
    """As `faces_decode`, and the shape of the image before it was scaled."""
    encoded = fn.external_source(name="image_data", device="cpu", dtype=types.UINT8, ndim=1)
    sizes = fn.external_source(name="decode_size", device="cpu", dtype=types.INT32, ndim=1)
    images = fn.decoders.image(encoded, device=device, output_type=types.RGB, adjust_orientation=False)
    target = fn.cast(fn.stack(sizes[1], sizes[0]), dtype=types.FLOAT)
    return _resized(images, size=target), images.shape(dtype=types.INT64)


def _resized(images: Node, size: Node) -> Node:
    """Averages where it shrinks, as Pillow's bilinear filter does."""
    return fn.resize(
        images, size=size, interp_type=types.INTERP_TRIANGULAR, antialias=True, dtype=types.UINT8
    )
