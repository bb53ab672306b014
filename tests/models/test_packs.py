"""The catalogue of packs: complete, and refused where it is not."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sidecar_faces.errors import ModelError
from sidecar_faces.models import load_packs, packs
from sidecar_faces.models.packs import Pack, PackFile, Source

SHA256 = re.compile(r"[0-9a-f]{64}")
CENTERFACE: dict[str, Any] = {
    "name": "x",
    "purpose": "detector",
    "title": "X",
    "licence": "MIT",
    "homepage": "https://example.org",
    "bundled": False,
    "files": [{"name": "x.onnx"}],
    "source": {"requirement": "x==1", "wheel_sha256": "a", "member": "x", "sha256": "b", "size": 1},
}


@pytest.mark.parametrize("pack", load_packs(), ids=lambda pack: str(pack.name))
def test_every_pack_says_what_it_is_and_how_to_tell(pack: Pack) -> None:
    assert pack.purpose in ("detector", "landmarks")
    assert pack.licence
    assert pack.homepage.startswith("https://")
    assert pack.files
    if pack.source is not None:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pack.source.requirement)
        assert SHA256.fullmatch(pack.source.wheel_sha256)
        assert SHA256.fullmatch(pack.source.sha256)
        assert pack.source.size > 0
    if pack.bundled:
        for file in pack.files:
            assert SHA256.fullmatch(str(file.sha256))
            assert (resources.files("sidecar_faces.models") / file.name).is_file()


def test_names_are_unique() -> None:
    names = [pack.name for pack in load_packs()]
    assert len(set(names)) == len(names)
    assert "centerface" in names


def test_tables_become_packs() -> None:
    pack = packs._pack(CENTERFACE)
    assert pack.files == (PackFile("x.onnx"),)
    assert pack.source == Source("x==1", "a", "x", "b", 1)
    assert pack.figures == {}
    bundled = {k: v for k, v in CENTERFACE.items() if k != "source"} | {"bundled": True}
    assert packs._pack(bundled | {"files": [{"name": "x", "sha256": "c"}]}).source is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bundled": True}, "either bundled or have a source"),
        ({"source": None}, "source"),
        ({"colour": "red"}, "colour"),
        ({"files": [{"path": "x"}]}, "path"),
        ({"name": None}, ""),
    ],
)
def test_malformed_catalogues_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    lines = ["[[pack]]"]
    for key, value in {**CENTERFACE, **change}.items():
        if value is not None:
            lines.append(f"{key} = {_toml(value)}")
    file = tmp_path / "packs.toml"
    file.write_text("\n".join(lines))
    monkeypatch.setattr(packs, "_catalogue", lambda: file)
    with pytest.raises(ModelError, match=rf"catalogue of model packs cannot be read .*{said}"):
        load_packs()


def test_a_bundled_pack_needs_a_checksum() -> None:
    bundled = {k: v for k, v in CENTERFACE.items() if k != "source"} | {"bundled": True}
    with pytest.raises(ValueError, match="lacks a checksum"):
        packs._pack(bundled)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)
