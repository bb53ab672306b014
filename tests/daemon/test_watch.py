"""`sidecar-faces watch` as a process: the real program, the real networks, signals, locks, logs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Tree
from tests.daemon.harness import jpeg
from tests.daemon.process import Process

OURS = (".xmp", ".faces.json")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "state")


@pytest.fixture
def library(tmp_path: Path, portrait_jpeg: bytes) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.jpg").write_bytes(portrait_jpeg)
    return root


@pytest.fixture
def watch(cli: Cli) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*words: object, **environment: str) -> Process:
        process = Process(cli.state, "watch", "--workers", 1, *words, **environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.end(signal.SIGKILL)


def test_a_new_photo_gets_its_sidecar_and_status_tells(
    cli: Cli, watch: Callable[..., Process], library: Path, portrait_jpeg: bytes
) -> None:
    before = Tree.of(library)
    process = watch(library)
    process.until((library / "a.jpg.xmp").exists)
    (library / "new.jpg").write_bytes(portrait_jpeg)
    process.until((library / "new.jpg.faces.json").exists)
    process.until(lambda: (cli.json("status", library)[0]["watch"] or {}).get("indexed") == 2)
    (report,) = cli.json("status", library)
    assert report["watch"]["pid"] == process.child.pid
    assert report["watch"]["mode"] == "inotify"
    assert f"watched by process {process.child.pid} (inotify)" in cli("status", library).stdout
    assert f"process {process.child.pid}" in cli("rescan", library, code=6).stderr  # one at a time
    assert process.end() == 0
    assert cli.json("status", library)[0]["watch"] is None
    assert cli.json("rescan", library)["unchanged"] == 2
    cli("undo", library)
    (library / "new.jpg").unlink()
    assert Tree.of(library) == before


def test_double_starts_say_who_holds_it(cli: Cli, watch: Callable[..., Process], library: Path) -> None:
    process = watch(library)
    process.until((library / "a.jpg.xmp").exists)
    command = [sys.executable, "-m", "sidecar_faces", "watch", str(library)]
    env = {**os.environ, "SIDECAR_FACES_STATE_DIR": str(cli.state)}
    for _ in range(2):
        others = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(4)]
        for other in others:
            _, said = other.communicate(timeout=90)
            assert other.returncode == 6
            assert f"'sidecar-faces watch' (process {process.child.pid}" in said
    assert process.child.poll() is None


def test_sighup_reads_the_settings_again(
    tmp_path: Path, watch: Callable[..., Process], library: Path, portrait_jpeg: bytes
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('exclude = ["private"]\n')
    (library / "private").mkdir()
    (library / "private/b.jpg").write_bytes(portrait_jpeg)
    process = watch(library, SIDECAR_FACES_CONFIG=str(config))
    process.until((library / "a.jpg.xmp").exists)
    config.write_text("exclude = 7\n")
    process.child.send_signal(signal.SIGHUP)
    process.until(lambda: "the old ones stay in force" in process.said)
    process.until(lambda: process.said.count("watching") == 2)
    assert not (library / "private/b.jpg.xmp").exists()
    config.write_text("exclude = []\n")
    process.child.send_signal(signal.SIGHUP)
    process.until((library / "private/b.jpg.xmp").exists)
    assert process.end() == 0


def test_sigterm_finishes_what_is_in_flight(
    cli: Cli, watch: Callable[..., Process], library: Path, portrait_jpeg: bytes
) -> None:
    for number in range(60):
        (library / f"{number}.jpg").write_bytes(portrait_jpeg)
    process = watch(library)
    process.until(lambda: len(list(library.glob("*.xmp"))) > 3)
    assert process.end() == 0
    done = len(list(library.glob("*.xmp")))
    assert done == len(list(library.glob("*.faces.json"))) < 61
    assert not [name for name in os.listdir(library) if name.startswith(".")]
    result = cli.json("rescan", library)
    assert (result["unchanged"], result["indexed"]) == (done, 61 - done)


def test_sigkill_costs_nothing(
    cli: Cli, watch: Callable[..., Process], library: Path, portrait_jpeg: bytes
) -> None:
    for number in range(20):
        (library / f"{number}.jpg").write_bytes(portrait_jpeg)
    for wanted in (2, 6, 10):
        process = watch(library)
        process.until(lambda wanted=wanted: len(list(library.glob("*.xmp"))) >= wanted)  # type: ignore[misc]
        process.end(signal.SIGKILL)
    process = watch(library)
    process.until(lambda: len(list(library.glob("*.faces.json"))) == 21)
    process.end()
    assert cli.json("rescan", library)["faces"] == 0
    for sidecar in library.glob("*.xmp"):
        assert cli.json("inspect", sidecar.with_suffix(""))["faces"][0]["state"] == "written"


def test_wrong_settings_and_usage_end_at_once(cli: Cli, library: Path) -> None:
    assert "metrics" in cli("watch", "--metrics", "http", library, code=3).stderr
    assert "--quiet" in cli("watch", "--quiet", "0", library, code=3).stderr
    cli("watch", code=2)


def test_log_lines_for_the_journal_and_as_json(
    cli: Cli, watch: Callable[..., Process], library: Path, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    process = watch(library, absent, "--mode", "scans")
    process.until(lambda: "offline" in process.said)
    assert re.search(r"\[warning *\] offline .*absent", process.said)
    process.end()
    json_lines = Process(cli.state, "--log-json", "watch", library)
    json_lines.until(lambda: "watching" in json_lines.said)
    (line,) = [json.loads(line) for line in json_lines.said.splitlines() if "watching" in line]
    assert (line["event"], line["level"], line["libraries"]) == ("watching", "info", [str(library)])
    json_lines.end()
    with open(tmp_path / "journal", "wb") as journal:
        status = os.fstat(journal.fileno())
        env = {
            **os.environ,
            "SIDECAR_FACES_STATE_DIR": str(cli.state),
            "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
        }
        command = [sys.executable, "-m", "sidecar_faces", "watch", str(absent), str(library)]
        child = subprocess.Popen(command, env=env, stderr=journal)
    pause, deadline = threading.Event(), time.monotonic() + 60
    while "offline" not in (said := (tmp_path / "journal").read_text()) and time.monotonic() < deadline:
        pause.wait(0.05)
    child.terminate()
    assert child.wait(60) == 0
    assert re.search(r"^<6>watching libraries=", said, flags=re.MULTILINE), said
    assert re.search(r'^<4>offline library=\S*absent reason="the folder', said, flags=re.MULTILINE), said


@contextmanager
def program(folder: Path, text: str) -> Iterator[Path]:
    file = folder / "hook"
    file.write_text(text)
    file.chmod(0o755)
    yield file


def test_a_hook_hears_of_written_sidecars_only(
    watch: Callable[..., Process], library: Path, tmp_path: Path, portrait_jpeg: bytes
) -> None:
    with program(tmp_path, f"#!/bin/sh\ncat >> {tmp_path}/told\n") as hook:
        (library / "none.jpg").write_bytes(jpeg(200, 150))
        process = watch(
            library, SIDECAR_FACES_HOOK_COMMAND=json.dumps([str(hook)]), SIDECAR_FACES_HOOK_INTERVAL="1"
        )
        process.until((tmp_path / "told").exists)
        shutil.copy(library / "a.jpg", library / "b.jpg")
        told = f"{library}/a.jpg\0{library}/b.jpg\0".encode()
        process.until(lambda: (tmp_path / "told").read_bytes() == told)
        assert process.end() == 0


def test_a_server_that_is_not_up_yet_is_waited_for(watch: Callable[..., Process], library: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = watch(library, "--engine", "triton", "--triton-url", address)
    process.until(lambda: "the engine is waited for" in process.said)
    assert process.end() == -signal.SIGTERM  # nothing was in flight
