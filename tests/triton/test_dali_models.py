"""The graphs of the dali models give what the python models in their place give; on a GPU if there is one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scripts.make_demo_library import save_oriented
from sidecar_faces.engine import dali_graphs, facedetect, fpenet
from sidecar_faces.engine.decode_dali import has_gpu
from sidecar_faces.engine.decode_pillow import decode
from sidecar_faces.library.probe import Limits, probe
from sidecar_faces.triton_repository import source

BATCH = 3


def outputs(graph: Callable[[str], Any], device: str) -> tuple[Any, ...]:
    """The edges that leave a graph."""
    made = graph(device)
    return made if isinstance(made, tuple) else (made,)


def run(graph: Callable[[str], Any], inputs: dict[str, list[NDArray[Any]]]) -> list[list[NDArray[Any]]]:
    """Outputs of a graph, each as one array per sample."""
    gpu = has_gpu()
    pipeline = dali_graphs.Pipeline(batch_size=BATCH, num_threads=1, device_id=0 if gpu else None)
    with pipeline:
        pipeline.set_outputs(*outputs(graph, "mixed" if gpu else "cpu"))
    pipeline.build()
    for name, values in inputs.items():
        pipeline.feed_input(name, values)
    count = len(next(iter(inputs.values())))
    made = [output.as_cpu() for output in pipeline.run()]
    return [[np.array(output.at(i)) for i in range(count)] for output in made]


@pytest.fixture
def files(tmp_path: Path, portrait: Image.Image) -> list[Path]:
    """Of three sizes and orientations."""
    paths = [tmp_path / f"{i}.jpg" for i in range(BATCH)]
    save_oriented(portrait, paths[0], 1)
    save_oriented(portrait.crop((60, 0, 460, 300)), paths[1], 6)
    save_oriented(portrait.resize((1400, 1400)), paths[2], 3)
    return paths


def encoded(files: list[Path]) -> list[NDArray[np.uint8]]:
    return [np.frombuffer(path.read_bytes(), np.uint8) for path in files]


def test_facenet_preprocess(files: list[Path]) -> None:
    images, sizes = run(dali_graphs.facenet_preprocess, {"input_image_data": encoded(files)})
    for path, image, size in zip(files, images, sizes, strict=True):
        upright = decode(probe(str(path), Limits()), long_side=None)
        assert image.shape == facedetect.SPEC.inputs[0].shape[1:] and image.dtype == np.float32
        assert size.tolist() == list(upright.shape) and size.dtype == np.int64
        assert np.abs(image - facedetect.stretch(upright)).mean() < 0.01


def test_fpenet_preprocess(files: list[Path]) -> None:
    """Boxes inside, at the border, and reaching beyond the photo."""
    boxes = [
        np.array(box, np.int32) for box in ([170, 60, 290, 220], [0, 0, 120, 150], [900, 300, 1500, 900])
    ]
    (crops,) = run(dali_graphs.fpenet_preprocess, {"raw_image_data": encoded(files), "true_boxes": boxes})
    for path, box, crop in zip(files, boxes, crops, strict=True):
        upright = decode(probe(str(path), Limits()), long_side=None)
        expected = fpenet.cut(upright, fpenet.place(box.astype(np.float64), np.empty((0, 2))))
        assert crop.shape == (1, 80, 80) and crop.dtype == np.float32
        assert np.abs(crop[0] - expected).mean() < 4
    assert dali_graphs._ENLARGE == fpenet.ENLARGE


def test_faces_decode_leaves_photos_as_they_are_stored(files: list[Path]) -> None:
    factors = [2, 1, 4]
    sizes = [np.array([0, factor], np.int64) for factor in factors]
    (images,) = run(dali_graphs.faces_decode, {"image_data": encoded(files), "reduction": sizes})
    for path, factor, image in zip(files, factors, images, strict=True):
        with Image.open(path) as stored:
            expected = np.asarray(stored.convert("RGB").reduce(factor))
        assert image.shape == expected.shape and image.dtype == np.uint8
        assert np.abs(image.astype(int) - expected).mean() < 1


@pytest.mark.parametrize(
    "graph",
    [
        dali_graphs.reduced,
        dali_graphs.faces_decode,
        dali_graphs.facenet_preprocess,
        dali_graphs.fpenet_preprocess,
    ],
)
def test_nothing_comes_back_from_the_gpu_within_a_graph(graph: Callable[[str], Any]) -> None:
    """Some of DALI's executors refuse such a graph, which only a GPU would show."""
    with dali_graphs.Pipeline(batch_size=1, num_threads=1, device_id=0):
        left = list(outputs(graph, "mixed"))
    while left:
        edge = left.pop()
        sources = [one for some in edge.source.inputs for one in (some if isinstance(some, list) else [some])]
        assert edge.device == "gpu" or all(source.device == "cpu" for source in sources), edge
        left += sources


@pytest.mark.parametrize("model", ["facenet_preprocess", "fpenet_preprocess", "faces_decode"])
def test_the_files_of_the_repository_define_a_pipeline(model: str) -> None:
    """As the dali backend does it: import the file, find the one function that is marked, build its graph."""
    specification = importlib.util.spec_from_file_location(model, source() / model / "1" / "dali.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.pipeline._is_autoserialize is True
