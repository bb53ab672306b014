"""Metrics: on a port of this machine, and as a file."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

import pytest

from sidecar_faces.errors import ConfigError
from sidecar_faces.metrics import Metric, export


def numbers() -> list[Metric]:
    indexed = Metric("faces_indexed", "Photos indexed.", "counter", ("library",))
    indexed.add(3, '/photos "x"\n')
    awake = Metric("faces_awake", "Whether it is awake.", "gauge")
    awake.add(1)
    return [indexed, awake]


WANTED = [
    'faces_indexed_total{library="/photos \\"x\\"\\n"} 3.0',
    "faces_awake 1.0",
    "# TYPE faces_indexed_total counter",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_on_a_port_of_this_machine_alone() -> None:
    port = free_port()
    with export(str(port), numbers):
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        assert re.findall(rf"(\w+):{port:04X} \w+:0000 0A", listening) == ["0100007F"]
        with pytest.raises(ConfigError, match=f"port {port} cannot be used"), export(str(port), numbers):
            pass
    for line in WANTED:
        assert line in text
    with export(str(port), numbers):  # given back
        pass


def test_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "faces.prom"
    with export(str(file), numbers):
        for line in WANTED:
            assert line in file.read_text()
    with pytest.raises(ConfigError, match="cannot be written"), export("/nonexistent/x.prom", numbers):
        pass


def test_off_costs_nothing() -> None:
    with export("off", numbers):
        pass
