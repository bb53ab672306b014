"""The units: what systemd says of them, and what install-service makes of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (apt install systemd)"
)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "state")


def analyze(*words: object, runtime: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    command = ["systemd-analyze", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def installed(unit: Path, folder: Path) -> Path:
    """The unit with a program that exists, as it is after installing."""
    file = folder / unit.name.replace("@.", "@srv-photos.")
    text = unit.read_text()
    assert "/usr/local/bin/sidecar-faces" in text
    file.write_text(text.replace("/usr/local/bin/sidecar-faces", "/bin/true"))
    return file


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_no_complaint(unit: Path, tmp_path: Path) -> None:
    scope = ["--user"] if "-user" in unit.name else []
    result = analyze("verify", "--man=no", *scope, installed(unit, tmp_path), runtime=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def score(unit: Path, runtime: Path, threshold: int) -> float:
    result = analyze("security", "--offline=true", f"--threshold={threshold}", unit, runtime=runtime)
    assert result.returncode == 0, result.stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert found is not None
    return float(found.group(1))


@pytest.mark.parametrize("unit", [u for u in UNITS if "-user" not in u.name], ids=lambda unit: unit.name)
def test_the_exposure_is_low(unit: Path, tmp_path: Path) -> None:
    assert score(installed(unit, tmp_path), tmp_path, 10) <= 1.0


@pytest.mark.parametrize("name", ["sidecar-faces.service", "sidecar-faces-triton.service"])
def test_the_exposure_is_low_with_a_gpu(name: str, tmp_path: Path) -> None:
    unit = installed(SYSTEMD / name, tmp_path)
    (tmp_path / f"{name}.d").mkdir()
    shutil.copy(SYSTEMD / "sidecar-faces-gpu.conf", tmp_path / f"{name}.d" / "gpu.conf")
    assert score(unit, tmp_path, 12) <= 1.2


def test_the_instance_unit_does_what_the_unit_does() -> None:
    def settings(name: str) -> list[str]:
        lines = (SYSTEMD / name).read_text().splitlines()
        return [line for line in lines if line and not line.startswith(("#", "Description"))]

    instance = [line.replace("%f", "/srv/photos") for line in settings("sidecar-faces@.service")]
    assert instance == settings("sidecar-faces.service")


def test_every_block_of_the_unit_is_explained() -> None:
    for unit in UNITS:
        if "@" not in unit.name:
            text = unit.read_text()
            assert text.count("#") >= len(re.findall(r"\n\n", text))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / 'pho"tos 100%\n$HOME'
    folder.mkdir()
    return folder


def test_a_dry_run_prints_a_unit_that_systemd_understands(cli: Cli, library: Path, tmp_path: Path) -> None:
    result = cli("install-service", "--dry-run", "--run-as", "daemon", library)
    assert "systemd-analyze verify: no complaint." in result.stdout
    text = result.stdout[: result.stdout.index("systemd-analyze verify: no")]
    quoted = str(library).replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    assert f'ReadWritePaths="{quoted}"' in text
    assert f'RequiresMountsFor="{quoted}"' in text
    assert 'watch -- "' + quoted.replace("$", "$$") + '"' in text
    assert "User=daemon" in text
    (tmp_path / "sidecar-faces.service").write_text(text)
    assert score(tmp_path / "sidecar-faces.service", tmp_path, 10) <= 1.0


def test_folders_of_the_settings_may_be_written_to(cli: Cli, library: Path, tmp_path: Path) -> None:
    text = cli(
        *("install-service", "--dry-run", "--run-as", "daemon", library),
        SIDECAR_FACES_SIDECAR_DIR=str(tmp_path / "sidecars"),
        SIDECAR_FACES_METRICS=str(tmp_path / "metrics" / "faces.prom"),
    ).stdout
    (line,) = re.findall(r"^ReadWritePaths=.*$", text, flags=re.MULTILINE)
    assert f" {tmp_path}/sidecars" in line
    assert f" {tmp_path}/metrics" in line


def test_a_service_of_the_user_is_written_checked_and_explained(
    cli: Cli, library: Path, tmp_path: Path
) -> None:
    result = cli("install-service", "--user", library, XDG_CONFIG_HOME=str(tmp_path / "config"))
    file = tmp_path / "config/systemd/user/sidecar-faces.service"
    assert f"Wrote {file}" in result.stdout
    assert "systemd-analyze verify: no complaint." in result.stdout
    assert "systemctl --user daemon-reload" in result.stdout
    assert "watch -- " in file.read_text()


@pytest.mark.usefixtures("as_root")
def test_root_installs_the_unit_and_the_models(library: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, so that this machine's units stay as they are."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/centerface.onnx").write_bytes(b"weights")
    script = (
        "mount -t tmpfs none /etc/systemd/system && mount -t tmpfs none /var/lib || exit 77\n"
        '"$1" -m sidecar_faces install-service --run-as daemon "$2" || exit 1\n'
        "stat -c '%U %n' /var/lib/sidecar-faces/models/*\n"
        "cat /etc/systemd/system/sidecar-faces.service\n"
    )
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, str(library)],
        env={**os.environ, "SIDECAR_FACES_MODELS_DIR": str(tmp_path / "models")},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 77 or "unshare failed" in result.stderr:
        pytest.skip("mount namespaces are not allowed here")
    assert result.returncode == 0, result.stderr
    assert "Wrote /etc/systemd/system/sidecar-faces.service, to run as daemon." in result.stdout
    assert "systemctl daemon-reload" in result.stdout
    assert "daemon /var/lib/sidecar-faces/models/centerface.onnx" in result.stdout
    assert "User=daemon" in result.stdout


def test_what_cannot_be_installed_is_said(cli: Cli, library: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        assert "--run-as" in cli("install-service", "--dry-run", library, code=3).stderr
    odd = tmp_path / os.fsdecode(b"latin-\xe9")
    odd.mkdir()
    assert "UTF-8" in cli("install-service", "--dry-run", "--run-as", "daemon", odd, code=7).stderr
