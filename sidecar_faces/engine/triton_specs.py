"""The interfaces of the model repository: what `model_repository/*/config.pbtxt` must say, and a server must
have.

Names, types and shapes of the notebook's models are those of its contract; every tensor begins with a batch
axis.
"""

from __future__ import annotations

from sidecar_faces.engine import centerface, facedetect
from sidecar_faces.engine.base import ModelSpec, TensorSpec


def _tensor(name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, dtype, (-1, *shape))


_JPEG = _tensor("input_image_data", "uint8", -1)
_SIZE = _tensor("true_image_size", "int64", 3)
_NETWORK = facedetect.SPEC.inputs[0]
_GRID = facedetect.SPEC.outputs
_BOXES = (_tensor("true_boxes", "float32", -1, 4), _tensor("true_proba", "float32", -1, 1))
_RAW, _BOX = _tensor("raw_image_data", "uint8", -1), _tensor("true_boxes", "int32", 4)
_CROPS = _tensor("input_face_images", "float32", 1, 80, 80)
_POINTS = (
    _tensor("conv_keypoints_m80", "float32", 80, 80, 80),
    _tensor("softargmax", "float32", 80, 2),
    _tensor("softargmax:1", "float32", 80),
)
_VISIBLE = _tensor("visibility", "float32", 80)
_POINTS_104 = (
    _tensor("conv_keypoints_m80", "float32", 104, 80, 80),
    _tensor("softargmax", "float32", 104, 2),
    _tensor("softargmax:1", "float32", 104),
    _tensor("visibility", "float32", 104),
)
_IMAGES = _tensor("images", "uint8", -1, -1, 3)
_ORIENTATION = _tensor("orientation", "int32", 1)
_REDUCTION = _tensor("reduction", "int64", 2)
_DATA = _tensor("image_data", "uint8", -1)
_MARKS = (_tensor("landmarks", "float32", -1, -1, 3), _tensor("visibility", "float32", -1, -1))

NVIDIA_FPENET = ModelSpec("fpenet", (_CROPS,), _POINTS)
"""As NVIDIA publishes it; our weights add `visibility`."""

NOTEBOOK = (
    ModelSpec("facenet_ensemble", (_JPEG,), (*_BOXES, _SIZE)),
    ModelSpec("facenet_resized", (_NETWORK, _SIZE), (*_BOXES, _SIZE)),
    ModelSpec("fpenet_ensemble", (_RAW, _BOX), _POINTS),
    ModelSpec("facenet_preprocess", (_JPEG,), (_NETWORK, _SIZE)),
    ModelSpec("facenet", (_NETWORK,), _GRID),
    ModelSpec("facenet_postprocess", (*_GRID, _SIZE), _BOXES),
    ModelSpec("fpenet_preprocess", (_RAW, _BOX), (_CROPS,)),
    ModelSpec("fpenet", (_CROPS,), (*_POINTS, _VISIBLE)),
)
"""The models of the notebook that this project grew out of."""

OURS = (
    centerface.SPEC,
    ModelSpec("fpenet104", (_CROPS,), _POINTS_104),
    ModelSpec("fpenet_postprocess", (_tensor("network_points", "float32", 80, 2),), (_POINTS[1],)),
    ModelSpec("centerface_gridbox", (_NETWORK,), _GRID),
    ModelSpec(
        "faces_detect",
        (_IMAGES,),
        (
            _tensor("boxes", "float32", -1, 4),
            _tensor("scores", "float32", -1),
            _tensor("points", "float32", -1, -1, 2),
        ),
    ),
    ModelSpec("faces_header", (_JPEG,), (_DATA, _REDUCTION, _SIZE, _ORIENTATION)),
    ModelSpec("faces_decode", (_DATA, _REDUCTION), (_IMAGES,)),
    ModelSpec("faces_index", (_IMAGES, _DATA, _SIZE, _ORIENTATION), (*_BOXES, *_MARKS)),
    ModelSpec("faces_ensemble", (_JPEG,), (*_BOXES, *_MARKS, _SIZE, _ORIENTATION)),
)

LANDMARKS = {spec.name: spec for spec in (NVIDIA_FPENET, *OURS) if spec.name in ("fpenet", "fpenet104")}
"""The landmark networks; what NVIDIA's lacks is not asked of a server either."""

REQUIRED = tuple(spec for spec in OURS if spec.name in ("faces_detect", "faces_ensemble"))
"""What our own client asks, whatever its settings."""
