"""Settings: precedence, and errors that name the key and where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar_faces.config import Settings, config_file, default_config_files, load
from sidecar_faces.errors import ConfigError


def toml(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def test_flags_win_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml(tmp_path, 'min_score = 0.3\nmin_face = 20\nworkers = 3\nexclude = ["*.png"]\n')
    monkeypatch.setenv("SIDECAR_FACES_MIN_FACE", "30")
    monkeypatch.setenv("SIDECAR_FACES_WORKERS", "5")
    settings = load({"workers": 7, "detail": None}, file)
    assert (settings.min_score, settings.min_face, settings.workers) == (0.3, 30, 7)
    assert settings.exclude == ("*.png",)
    assert settings.detail == "normal"


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_FACES_CONFIG", str(toml(tmp_path, 'detail = "fine"\n')))
    assert load({}).detail == "fine"


def test_a_home_that_cannot_be_looked_into_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under systemd's ProtectHome; here by a name too long, as permissions do not bind root."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/tmp/" + "x" * 300)
    assert config_file(None) in (None, default_config_files()[1])


def test_the_users_file_wins_over_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "sidecar-faces"
    folder.mkdir()
    file = toml(folder, 'detail = "fast"\n')
    assert [str(path) for path in default_config_files()] == [str(file), "/etc/sidecar-faces/config.toml"]
    assert load({}).detail == "fast"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("min_score = 2", r"config\.toml: at 'min_score': .*less than 1 \(got 2\)"),
        ("min_scor = 0.5", r"at 'min_scor': there is no such setting"),
        ('detail = "best"', r"at 'detail': .*'fast', 'normal' or 'fine'"),
        ("detail = ", r"config\.toml: "),
        ("exclude = 3", r"at 'exclude'"),
    ],
)
def test_errors_in_the_file_name_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load({}, toml(tmp_path, text))


def test_errors_elsewhere_name_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="flag --min-score: at 'min_score'"):
        load({"min_score": 5.0})
    with pytest.raises(ConfigError, match="does not exist"):
        load({}, tmp_path / "absent.toml")
    monkeypatch.setenv("SIDECAR_FACES_MIN_FACE", "big")
    with pytest.raises(ConfigError, match="environment SIDECAR_FACES_MIN_FACE: at 'min_face'"):
        load({})
    monkeypatch.setenv("SIDECAR_FACES_MIN_FACES", "3")
    with pytest.raises(ConfigError, match="SIDECAR_FACES_MIN_FACES: there is no such setting"):
        load({})


def test_every_setting_is_documented_and_described() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"`{name}`" in text
        assert field.description
