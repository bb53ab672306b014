"""Compose a model repository: ours with the weights of this machine, for a container or the local server."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sidecar_faces.errors import ModelError

ONNX, DALI = "onnxruntime", "dali"
_LOCAL_CLASSES = {
    "facenet_preprocess": "FacenetPreprocess",
    "faces_decode": "FacesDecode",
    "fpenet_preprocess": "FpenetPreprocess",
}
_BUSY = frozenset({"centerface", "fpenet", "faces_decode", "faces_index", "faces_detect"})
"""Their processes have one thread each: on a CPU that is faster than one process with many."""
_MODEL_PY = "from sidecar_faces.serving.models import {} as TritonPythonModel\n"
_CPU = model_config_pb2.ModelInstanceGroup.KIND_CPU


@dataclass(frozen=True, slots=True)
class Composition:
    """What goes into a repository.

    `weights`: ONNX files by model name: centerface, fpenet, fpenet104, and facenet where it is installed.
    `detector`: behind faces_detect and faces_ensemble; `preset`: how FaceDetect's boxes are clustered;
    `color`: what it is shown, rgb or gray.
    `local`: for a server that has only the python backend; for that one `providers`, ONNX Runtime's, and
    `instances`, processes of each model that has much to do.
    """

    weights: Mapping[str, Path]
    detector: str = "centerface"
    preset: str = "nms"
    local: bool = True
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    instances: int = 1
    color: str = "rgb"


def source() -> Path:
    """The model repository that ships with the program: beside the package in a checkout, within it in a
    wheel.
    """
    package = Path(str(resources.files("sidecar_faces")))
    for folder in (package / "model_repository", package.parent / "model_repository"):
        if folder.is_dir():
            return folder
    raise ModelError(f"{package}: the model repository is missing; install sidecar-faces again.")


def read_config(model: Path, file: str = "config.pbtxt") -> Any:
    """A model's configuration, parsed. Raises ModelError."""
    try:
        text = (model / file).read_text(encoding="utf-8")
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise ModelError(f"{model}: its configuration cannot be read ({error}).") from None


def compose(target: Path, what: Composition) -> Path:
    """Write the repository, as a whole or not at all; one that stands at `target` is replaced. Raises
    ModelError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        made = Path(folder) / "repository"
        for model in sorted(source().iterdir()):
            if (model / "config.pbtxt").is_file():
                _add(made / model.name, model, what)
        if target.exists():
            os.rename(target, Path(folder) / "before")
        os.rename(made, target)
    return target


def _add(target: Path, model: Path, what: Composition) -> None:
    shutil.copytree(model, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "1").mkdir(exist_ok=True)  # git keeps no empty folders, and an ensemble's is
    if model.name == "facenet" and "facenet" in what.weights:
        shutil.copy2(target / "configs" / "nvidia.pbtxt", target / "config.pbtxt")
    for variant in (target / "configs").glob("*.pbtxt"):
        _write(variant, _configured(read_config(target, f"configs/{variant.name}"), what))
    config = _configured(read_config(target), what)
    if config.backend == ONNX:
        _add_weights(target, config, what)
    if what.local and config.platform != "ensemble":
        _localize(target, config, what)
    _write(target / "config.pbtxt", config)


def _configured(config: Any, what: Composition) -> Any:
    for name, value in (("detector", what.detector), ("preset", what.preset), ("color", what.color)):
        if name in config.parameters:
            config.parameters[name].string_value = value
    return config


def _write(path: Path, config: Any) -> None:
    path.write_text(text_format.MessageToString(config), encoding="utf-8")


def _add_weights(target: Path, config: Any, what: Composition) -> None:
    weights = what.weights.get(config.name)
    if weights is None:
        raise ModelError(f"Model {config.name!r} has no weights; run `sidecar-faces models install`.")
    try:
        data = weights.read_bytes()
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read ({error.strerror}).") from None
    version = target / _version(config)
    version.mkdir(exist_ok=True)
    (version / "model.onnx").write_bytes(data)
    config.parameters["sha256"].string_value = hashlib.sha256(data).hexdigest()


def _localize(target: Path, config: Any, what: Composition) -> None:
    """The same model for the python backend alone: names, tensors and batching stay."""
    if config.backend in (ONNX, DALI):
        name = "OnnxModel" if config.backend == ONNX else _LOCAL_CLASSES[config.name]
        (target / _version(config) / "model.py").write_text(_MODEL_PY.format(name), encoding="utf-8")
        (target / "1" / "dali.py").unlink(missing_ok=True)
        if config.backend == ONNX:
            config.parameters["providers"].string_value = ",".join(what.providers)
        config.ClearField("default_model_filename")
    config.backend = "python"
    for group in config.instance_group:
        group.kind, group.count = _CPU, what.instances if config.name in _BUSY else 1


def _version(config: Any) -> str:
    """Version 1 of `facenet` is the stand-in for NVIDIA's weights, which are version 2."""
    return "2" if config.name == "facenet" else "1"
