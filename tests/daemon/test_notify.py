"""What systemd hears: a real datagram socket stands for it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar_faces.daemon.notify import Notifier
from tests.daemon.harness import FixedExecutor, jpeg, often, watched


class Systemd:
    """Collects messages; `said` is every assignment so far."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(20)

    def receive(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Systemd, str]]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@sidecar-faces-{os.getpid()}"
    manager = Systemd(address)
    yield manager, address
    manager.socket.close()


def test_states_are_sent_as_lines(systemd: tuple[Systemd, str]) -> None:
    manager, address = systemd
    notifier = Notifier(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}
    )
    assert notifier.watchdog_every == 20
    assert notifier.send(READY="1", STATUS="two\nlines")
    assert manager.receive() == {"READY": "1", "STATUS": "two lines"}


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    assert not notifier.send(READY="1")
    assert notifier.watchdog_every is None
    assert Notifier({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}).watchdog_every is None
    assert not Notifier({"NOTIFY_SOCKET": "/nonexistent/socket"}).send(READY="1")


def test_signs_of_life_stop_when_nothing_moves(tmp_path: Path) -> None:
    """An executor that never answers: the sign of life ends, so that systemd starts the daemon again."""
    manager = Systemd(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"})
    root = tmp_path / "photos"
    root.mkdir()
    executor = FixedExecutor()
    options = often(stall=1.5, check_every=0.5)
    with watched(tmp_path / "state", root, options=options, executor=executor, notifier=notifier) as daemon:
        assert manager.receive()["READY"] == "1"
        (root / "a.jpg").write_bytes(jpeg())
        daemon.until(lambda: daemon.status().counts.indexed == 1)
        executor.gate.clear()
        (root / "b.jpg").write_bytes(jpeg())
        daemon.until(lambda: daemon.libraries[0].is_stuck(time.monotonic()))
        quiet = threading.Event()
        manager.socket.settimeout(0.05)
        while not quiet.is_set():  # what was sent before
            try:
                manager.receive()
            except TimeoutError:
                quiet.set()
        manager.socket.settimeout(2.5)
        with pytest.raises(TimeoutError):
            while "WATCHDOG" not in manager.receive():
                pass
        executor.gate.set()
        manager.socket.settimeout(20)
        while "WATCHDOG" not in manager.receive():
            pass
    manager.socket.close()


def test_the_status_tells_counts_and_what_is_wrong(tmp_path: Path) -> None:
    manager = Systemd(str(tmp_path / "notify"))
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.jpg").write_bytes(jpeg())
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    with watched(tmp_path / "state", root, tmp_path / "gone", notifier=notifier):
        status = ""
        while "2 libraries, 1 photos indexed" not in status or "gone is offline" not in status:
            status = manager.receive().get("STATUS", status)
    assert manager.receive() is not None
    manager.socket.close()
