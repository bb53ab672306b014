"""`models check`, on weights that fit, that do not, and that are none."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from sidecar_faces.engine.facedetect import BOXES, COVERAGE, SPEC
from tests.cli.conftest import Cli


def facedetect_like(path: Path, rows: int = 26) -> None:
    """A graph with FaceDetect's tensors and no sense."""
    (image,) = SPEC.inputs
    shapes: dict[str, list[str | int | None]] = {COVERAGE: ["n", 1, rows, 46], BOXES: ["n", 4, rows, 46]}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    ]
    inputs = [helper.make_tensor_value_info(image.name, TensorProto.FLOAT, ["n", *image.shape[1:]])]
    nodes = [
        helper.make_node("AveragePool", [image.name], ["small"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("ReduceMean", ["small"], [COVERAGE], axes=[1], keepdims=1),
        helper.make_node("Concat", [COVERAGE] * 4, [BOXES], axis=1),
    ]
    graph = helper.make_graph(nodes, "x", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def test_nvidias_networks_are_told_by_their_tensors(cli: Cli, tmp_path: Path) -> None:
    bundled = resources.files("sidecar_faces.models") / "fpenet80.onnx"
    assert "FPENet" in cli("models", "check", bundled).stdout
    facedetect_like(tmp_path / "facedetect.onnx")
    assert cli.json("models", "check", tmp_path / "facedetect.onnx")["network"] == "FaceDetect"


@pytest.mark.parametrize("rows", [25, 27])
def test_another_interface_is_told_with_the_difference(cli: Cli, tmp_path: Path, rows: int) -> None:
    facedetect_like(tmp_path / "x.onnx", rows)
    result = cli("models", "check", tmp_path / "x.onnx", code=5)
    assert "input_face_images" in result.stderr
    assert f"[-1, 4, {rows}, 46] and not float32" in result.stderr


def test_what_is_no_model_is_said(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("text")
    assert "not a model" in cli("models", "check", tmp_path / "x.onnx", code=5).stderr


def test_installed_weights_become_the_detector(cli: Cli, tmp_path: Path, portrait: Image.Image) -> None:
    """They are used, not the stand-in: this file finds nothing, whatever it is shown."""
    models = tmp_path / "models"
    models.mkdir()
    cli("models", "install", SIDECAR_FACES_MODELS_DIR=str(models))
    facedetect_like(models / "facedetect.onnx")
    demo = tmp_path / "photos"
    demo.mkdir()

    portrait.save(demo / "a.jpg")
    flags = ("--engine", "local", "--detector", "facedetect")
    report = cli.json("rescan", *flags, demo, SIDECAR_FACES_MODELS_DIR=str(models))
    assert report["indexed"] == 1
    (models / "facedetect.onnx").unlink()
    again = cli.json("rescan", *flags, demo, SIDECAR_FACES_MODELS_DIR=str(models))
    assert again["indexed"] == 1 and again["faces"] == 1  # another detector: the photo is looked at again
