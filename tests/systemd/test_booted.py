"""The units under a real systemd: a copy-on-write view of this machine, booted in namespaces of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = "sidecar-faces"
pytestmark = pytest.mark.xdist_group("systemd")  # one machine for all of them


class Machine:
    """A booted systemd, whose first process is `leader`."""

    def __init__(self, leader: int) -> None:
        self.leader = leader

    def __call__(self, *words: object, code: int | None = 0) -> str:
        """What a command inside says."""
        command = ["nsenter", "--target", str(self.leader), "--all", "--", *map(str, words)]
        environment = {"PATH": os.defpath + ":/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert code is None or done.returncode == code, f"{words}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout

    def show(self, key: str, unit: str = UNIT) -> str:
        return self("systemctl", "show", "--value", "--property", key, unit).strip()

    def log(self) -> str:
        command = ["nsenter", "--target", str(self.leader), "--all", "journalctl", "-n60", "--no-pager"]
        return subprocess.run(
            [*command, "-u", f"{UNIT}*"], capture_output=True, text=True, check=False
        ).stdout

    def until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        pause, deadline = threading.Event(), time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.log()
            pause.wait(0.2)

    def file(self, path: str) -> Path:
        """A file inside, seen from here."""
        return Path(f"/proc/{self.leader}/root{path}")

    def photo(self, path: str, data: bytes) -> None:
        """A photo of anna's."""
        self.file(path).write_bytes(data)
        os.chown(self.file(path), 1500, 1500)


def _boot(folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Bound, as the overlay shows no other mounts: the program, its environment, its Python."""
    seen = {str(ROOT), sys.prefix, sys.base_prefix}
    below = tuple(f"{path}/" for path in seen)
    binds = [f"--bind-ro={path}" for path in sorted(seen) if not path.startswith(below) and path != "/usr"]
    flags = ("--quiet", "--boot", "--register=no", "--keep-unit", "--resolv-conf=off", "--link-journal=no")
    command = ["systemd-nspawn", *flags, "--console=pipe", f"--directory={folder}", *binds]
    command.append(f"--machine=test-{os.getpid()}")
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, portrait_jpeg: bytes) -> Iterator[Machine]:
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        pytest.skip("needs root and systemd-nspawn (Debian's systemd-container)")
    work = tmp_path_factory.mktemp("machine")
    upper, other, merged = (work / name for name in ("upper", "work", "merged"))
    options = f"lowerdir=/,upperdir={upper},workdir={other}"
    try:
        _mount("tmpfs", "rw", work)
        for path in (upper, other, merged):
            path.mkdir()
        _mount("overlay", options, merged)
        with tempfile.TemporaryFile() as log:
            yield from _running(merged, log, portrait_jpeg)
    finally:
        subprocess.run(["umount", "--quiet", "--recursive", work], check=False)


def _mount(kind: str, options: str, folder: Path) -> None:
    command = ["mount", "-t", kind, "-o", options, kind, str(folder)]
    if (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"no {kind} can be mounted here: {done.stderr}")


def _running(folder: Path, log: IO[bytes], photo: bytes) -> Iterator[Machine]:
    booted = _boot(folder, log)
    try:
        machine = _machine(booted, log)
        machine("useradd", "--create-home", "--uid", "1500", "anna")
        machine("install", "--directory", "--owner=anna", "/srv/photos", "/home/anna/Photos")
        machine.photo("/srv/photos/first.jpg", photo)
        yield machine
        machine("systemctl", "poweroff", code=None)
        booted.wait(60)
    finally:
        with suppress(ProcessLookupError):
            booted.kill()
        booted.wait()


def _machine(booted: subprocess.Popen[bytes], log: IO[bytes]) -> Machine:
    """The container, once its systemd is up."""
    parent, pause, deadline = psutil.Process(booted.pid), threading.Event(), time.monotonic() + 90
    while booted.poll() is None and time.monotonic() < deadline:
        for child in parent.children():
            if _is_first(child.pid) and _state(machine := Machine(child.pid)) in ("running", "degraded"):
                return machine
        pause.wait(0.2)
    log.seek(0)
    pytest.skip(f"systemd cannot be booted in a container here: {log.read().decode(errors='replace')}")


def _is_first(pid: int) -> bool:
    """Whether it is number 1 of a namespace of its own: nspawn has helpers that are not inside."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE) is not None
    return False


def _state(machine: Machine) -> str:
    with suppress(OSError):
        return machine("systemctl", "is-system-running", code=None).strip()
    return ""


@pytest.fixture(scope="module")
def service(machine: Machine) -> Machine:
    """Installed as the README says, and started; hung, it is given ten seconds, so that a test can wait."""
    said = machine(sys.executable, "-m", "sidecar_faces", "install-service", "/srv/photos")
    assert "to run as anna" in said and "verify: no complaint" in said
    folder = "/etc/systemd/system/sidecar-faces.service.d"
    machine("mkdir", "--parents", folder)
    machine.file(f"{folder}/test.conf").write_text("[Service]\nWatchdogSec=10\nRestartSec=1\n")
    machine("systemctl", "daemon-reload")
    machine("systemctl", "start", UNIT)
    return machine


def test_it_indexes_as_the_owner_of_the_photos(service: Machine, portrait_jpeg: bytes) -> None:
    service.until(lambda: service.file("/srv/photos/first.jpg.xmp").exists())
    service.photo("/srv/photos/second.jpg", portrait_jpeg)
    service.until(lambda: service.file("/srv/photos/second.jpg.faces.json").exists())
    service.until(lambda: "2 photos indexed" in service.show("StatusText"))
    owners = service("stat", "--format=%U", "/srv/photos/first.jpg.xmp", "/srv/photos/second.jpg.faces.json")
    assert owners.split() == ["anna", "anna"]
    assert service.show("NRestarts") == "0"


def test_a_reload_goes_on_in_the_same_process(service: Machine, portrait_jpeg: bytes) -> None:
    pid = service.show("MainPID")
    service("systemctl", "reload", UNIT)
    service.photo("/srv/photos/third.jpg", portrait_jpeg)
    service.until(lambda: service.file("/srv/photos/third.jpg.xmp").exists())
    assert service.show("MainPID") == pid


@pytest.mark.parametrize(("signal", "result"), [("KILL", "signal"), ("STOP", "watchdog")])
def test_it_is_started_again(service: Machine, portrait_jpeg: bytes, signal: str, result: str) -> None:
    """After a crash, and where it hangs."""
    restarts = int(service.show("NRestarts"))
    service("kill", f"-{signal}", service.show("MainPID"))
    service.until(lambda: int(service.show("NRestarts")) == restarts + 1)
    service.until(lambda: service.show("ActiveState") == "active")
    assert f"Failed with result '{result}'" in service.log()
    service.photo(f"/srv/photos/{signal}.jpg", portrait_jpeg)
    service.until(lambda: service.file(f"/srv/photos/{signal}.jpg.xmp").exists())


def test_it_stops_in_time_and_leaves_nothing_behind(service: Machine) -> None:
    service("systemctl", "stop", UNIT)
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert "exiftool" not in service("ps", "-e", "-o", "args")


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def test_an_instance_for_one_library(service: Machine, portrait_jpeg: bytes) -> None:
    machine = service
    machine("install", "--directory", "--owner=anna", "/srv/more photos")
    machine.photo("/srv/more photos/first.jpg", portrait_jpeg)
    name = machine("systemd-escape", "--path", f"--template={UNIT}@.service", "/srv/more photos").strip()
    installed = service.file("/etc/systemd/system/sidecar-faces.service").read_text()
    text = (ROOT / "systemd/sidecar-faces@.service").read_text()
    # where the program is, and who it runs as, are this machine's
    text = text.replace("/usr/local/bin/sidecar-faces", _between(installed, "ExecStart=", " watch"))
    home = _between(installed, "\nProtectHome", "\nPrivateTmp")
    text = text.replace("ProtectHome=yes", f"ProtectHome{home}")
    text = text.replace("User=sidecar-faces", "User=anna")
    machine.file("/etc/systemd/system/sidecar-faces@.service").write_text(text)
    machine("systemctl", "daemon-reload")
    machine("systemctl", "start", name)
    machine.until(lambda: machine.file("/srv/more photos/first.jpg.xmp").exists())
    machine("systemctl", "stop", name)


def test_with_triton(service: Machine, portrait_jpeg: bytes) -> None:
    """Both services, each in its own confinement; photos go from one to the other in shared memory."""
    python = Path(os.environ.get("SIDECAR_FACES_SERVER_PYTHON") or ROOT / ".venv-server/bin/python")
    if not python.exists():
        pytest.skip("Triton is not installed here (make server)")
    program = (sys.executable, "-m", "sidecar_faces", "install-service", "--triton", "/srv/photos")
    service("env", f"SIDECAR_FACES_SERVER_PYTHON={python}", *program)
    service("systemctl", "daemon-reload")
    service("systemctl", "start", "sidecar-faces-triton")
    service("systemctl", "restart", UNIT)
    service.photo("/srv/photos/triton.jpg", portrait_jpeg)
    service.until(lambda: service.file("/srv/photos/triton.jpg.xmp").exists())
    assert "Models run: Triton" in service.log()
    service("systemctl", "stop", UNIT, "sidecar-faces-triton")


def test_a_service_of_the_user(machine: Machine, portrait_jpeg: bytes) -> None:
    for folder in {*ROOT.parents, *Path(sys.base_prefix).parents}:  # the program may be root's
        machine("chmod", "a+x", folder, code=None)
    machine("loginctl", "enable-linger", "anna")
    machine.until(lambda: machine.file("/run/user/1500/bus").exists())
    machine.photo("/home/anna/Photos/first.jpg", portrait_jpeg)

    def anna(*words: object) -> str:
        session = ("env", "XDG_RUNTIME_DIR=/run/user/1500", "HOME=/home/anna")
        return machine("setpriv", "--reuid=1500", "--regid=1500", "--clear-groups", *session, *words)

    anna(sys.executable, "-m", "sidecar_faces", "models", "install")
    anna(sys.executable, "-m", "sidecar_faces", "install-service", "--user", "/home/anna/Photos")
    anna("systemctl", "--user", "daemon-reload")
    anna("systemctl", "--user", "start", UNIT)
    machine.until(lambda: machine.file("/home/anna/Photos/first.jpg.xmp").exists())
    anna("systemctl", "--user", "stop", UNIT)
