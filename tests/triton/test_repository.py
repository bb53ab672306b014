"""The model repository says what the code expects, as it ships and as it is composed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

from sidecar_faces.engine.base import ModelSpec, TensorSpec
from sidecar_faces.engine.triton_specs import NOTEBOOK, OURS
from sidecar_faces.errors import ModelError
from sidecar_faces.triton_repository import Composition, compose, read_config, source

SPECS = {spec.name: spec for spec in (*NOTEBOOK, *OURS)}
MODELS = sorted(path.name for path in source().iterdir() if (path / "config.pbtxt").is_file())
VARIANTS = sorted(source().glob("*/configs/*.pbtxt"))


def interface(config: Any) -> ModelSpec:
    """A configuration's tensors, with the batch axis that a server adds."""
    inputs, outputs = (
        tuple(TensorSpec(t.name, dtype_of(t.data_type), (-1, *t.dims)) for t in tensors)
        for tensors in (config.input, config.output)
    )
    return ModelSpec(config.name, inputs, outputs)


def dtype_of(data_type: int) -> str:
    name = model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")
    return str(np.dtype(triton_to_np_dtype(name)).name)


def unordered(spec: ModelSpec) -> tuple[str, frozenset[TensorSpec], frozenset[TensorSpec]]:
    return spec.name, frozenset(spec.inputs), frozenset(spec.outputs)


@pytest.fixture
def composed(tmp_path: Path, weights: dict[str, Path]) -> Path:
    return compose(tmp_path / "repository", Composition(weights))


def test_every_model_has_a_spec_and_every_spec_a_model() -> None:
    assert set(SPECS) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_shipped_configurations_match_the_specs(name: str) -> None:
    config = read_config(source() / name)
    assert config.name == name and config.max_batch_size > 0
    assert unordered(interface(config)) == unordered(SPECS[name])


@pytest.mark.parametrize("name", MODELS)
def test_composed_configurations_match_the_specs_and_need_only_python(name: str, composed: Path) -> None:
    config = read_config(composed / name)
    assert unordered(interface(config)) == unordered(SPECS[name])
    assert config.platform == "ensemble" or config.backend == "python"
    versions = [path.name for path in (composed / name).iterdir() if path.name.isdigit()]
    assert versions == ["1"]
    if config.backend == "python":
        assert (composed / name / "1" / "model.py").is_file()
        assert not list((composed / name).rglob("dali.py"))


@pytest.mark.parametrize("name", MODELS)
def test_steps_join_tensors_that_fit(name: str) -> None:
    """Each ensemble's steps exist, and every tensor has one type and shape wherever it goes."""
    config = read_config(source() / name)
    spec = SPECS[name]
    kinds: dict[str, set[tuple[str, tuple[int, ...]]]] = {}

    def note(tensor: str, seen: TensorSpec) -> None:
        kinds.setdefault(tensor, set()).add((seen.dtype, seen.shape))

    for tensor in (*spec.inputs, *spec.outputs):
        note(tensor.name, tensor)
    for step in config.ensemble_scheduling.step:
        inner = SPECS[step.model_name]
        assert set(step.input_map) == {tensor.name for tensor in inner.inputs}
        for tensor in inner.inputs:
            note(step.input_map[tensor.name], tensor)
        for tensor in inner.outputs:
            if tensor.name in step.output_map:
                note(step.output_map[tensor.name], tensor)
    assert all(len(kind) == 1 for kind in kinds.values()), kinds


@pytest.mark.parametrize("file", VARIANTS, ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_variants_for_nvidias_weights_have_the_notebooks_interface(file: Path) -> None:
    config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
    contract = SPECS[config.name]
    offered = interface(config)
    assert offered.inputs == contract.inputs
    if config.name == "faces_index":  # it must not ask FPENet for what NVIDIA's does not give
        assert offered == contract and config.parameters["visibility"].string_value == "false"
    else:
        assert offered.outputs == tuple(t for t in contract.outputs if t.name != "visibility")
        assert config.backend in ("onnxruntime", "tensorrt")


def test_models_batch_warm_up_and_keep_one_version() -> None:
    for name in MODELS:
        config = read_config(source() / name)
        if config.platform == "ensemble":
            continue
        assert config.HasField("dynamic_batching"), name
        assert config.version_policy.latest.num_versions == 1, name
        assert len(config.instance_group) == 1, name
        if config.backend == "onnxruntime":
            assert config.model_warmup, name
        if config.input[0].name in ("input_image_data", "raw_image_data", "image_data"):
            assert config.input[0].allow_ragged_batch, name  # photos differ in length


def test_weights_are_told_by_their_checksums(composed: Path, weights: dict[str, Path]) -> None:
    for name, file in weights.items():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert read_config(composed / name).parameters["sha256"].string_value == digest
        assert (composed / name / "1" / "model.onnx").read_bytes() == file.read_bytes()


def test_for_a_container_backends_stay(tmp_path: Path, weights: dict[str, Path]) -> None:
    made = compose(tmp_path / "models", Composition(weights, local=False))
    backends = {name: read_config(made / name).backend for name in MODELS}
    assert backends["faces_decode"] == "dali" and backends["fpenet"] == "onnxruntime"
    assert (made / "faces_decode" / "1" / "dali.py").is_file()
    assert (made / "facenet_ensemble" / "1").is_dir()


def test_nvidias_facedetect_takes_the_place_of_the_stand_in(tmp_path: Path, weights: dict[str, Path]) -> None:
    own = {**weights, "facenet": weights["centerface"]}
    made = compose(tmp_path / "models", Composition(own, "facedetect", "tao", local=False))
    config = read_config(made / "facenet")
    assert config.backend == "onnxruntime" and "stand_in" not in config.parameters
    assert (made / "facenet" / "2" / "model.onnx").is_file()
    assert read_config(made / "faces_detect").parameters["detector"].string_value == "facedetect"
    assert read_config(made / "facenet_postprocess").parameters["preset"].string_value == "tao"


def test_every_variant_has_the_settings_too(tmp_path: Path, weights: dict[str, Path]) -> None:
    """NVIDIA's container is started with other files than `config.pbtxt` once its weights are installed."""
    what = Composition(weights, "facedetect", "tao", local=False, color="gray")
    made = compose(tmp_path / "models", what)
    for name in ("faces_detect", "faces_index"):
        files = [made / name / "config.pbtxt", *(made / name / "configs").glob("*.pbtxt")]
        assert len(files) == (3 if name == "faces_index" else 1)
        for file in files:
            config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
            settings = {key: value.string_value for key, value in config.parameters.items()}
            assert (settings["detector"], settings["preset"], settings["color"]) == (
                "facedetect",
                "tao",
                "gray",
            )


def test_composing_again_replaces_all_and_a_failure_replaces_nothing(
    composed: Path, weights: dict[str, Path]
) -> None:
    (composed / "left-over").write_text("x")
    compose(composed, Composition(weights))
    assert not (composed / "left-over").exists()
    with pytest.raises(ModelError, match="no weights"):
        compose(composed, Composition({"centerface": weights["centerface"]}))
    assert (composed / "fpenet" / "config.pbtxt").is_file()
    assert [path.name for path in composed.parent.iterdir()] == ["repository"]


def test_an_unreadable_configuration_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "config.pbtxt").write_text("name: [")
    with pytest.raises(ModelError, match="cannot be read"):
        read_config(tmp_path)
