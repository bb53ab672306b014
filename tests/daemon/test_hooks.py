"""Hooks: real HTTP, real programs; collected, rate-limited, and never in the way."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar_faces.daemon.hooks import KINDS, Call, Hooks, PathMap, command

ODD = os.fsdecode(b"/photos/new\n\xe9.jpg")


class Manager:
    """A web server that remembers what it was asked, and answers as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.answers: Callable[[str, Any], tuple[int, Any]] = lambda _path, _body: (200, {})
        manager = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                manager.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                code, answer = manager.answers(self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def manager() -> Iterator[Manager]:
    server = Manager()
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_a_webhook_gets_the_paths(manager: Manager) -> None:
    KINDS["json"](f"{manager.url}/hook", "secret", PathMap("/photos", "/data"))(["/photos/a.jpg", ODD])
    ((path, headers, body),) = manager.asked
    assert path == "/hook"
    assert headers["authorization"] == "Bearer secret"
    assert body == {"paths": ["/data/a.jpg", "/data/new\\n\\xe9.jpg"]}


def test_photoprism_indexes_the_folders(manager: Manager) -> None:
    photos = ["/srv/photos/2020/a.jpg", "/srv/photos/2020/05/b.jpg", "/srv/photos/2021/c.jpg"]
    KINDS["photoprism"](manager.url + "/", "token", PathMap("/srv/photos", ""))(photos)
    assert [(path, body["path"]) for path, _, body in manager.asked] == [
        ("/api/v1/index", "/2020"),
        ("/api/v1/index", "/2021"),
    ]
    manager.asked.clear()
    KINDS["photoprism"](manager.url, "token", PathMap("/srv/photos", ""))(["/srv/photos/a.jpg"])
    assert manager.asked[0][2]["path"] == "/"


def test_immich_reads_the_metadata_of_the_assets_again(manager: Manager) -> None:
    def answers(path: str, body: Any) -> tuple[int, Any]:
        known = body.get("originalPath", "").endswith("a.jpg")
        return 200, {"assets": {"items": [{"id": "id-of-a"}] if known else []}}

    manager.answers = answers
    KINDS["immich"](manager.url, "key", PathMap("/photos", "/usr/src/app/external"))(
        ["/photos/a.jpg", "/photos/b.jpg"]
    )
    assert manager.asked[0][2] == {"originalPath": "/usr/src/app/external/a.jpg"}
    path, headers, body = manager.asked[-1]
    assert (path, headers["x-api-key"]) == ("/api/assets/jobs", "key")
    assert body == {"assetIds": ["id-of-a"], "name": "refresh-metadata"}


def test_a_program_gets_the_paths_as_they_are(tmp_path: Path) -> None:
    script = tmp_path / "hook.sh"
    script.write_text('#!/bin/sh\ncat > "$1"\n')
    script.chmod(0o755)
    command([str(script), str(tmp_path / "got")])(["/photos/a.jpg", ODD])
    assert (tmp_path / "got").read_bytes() == b"/photos/a.jpg\0/photos/new\n\xe9.jpg\0"


class Calls:
    """A hook that remembers; it fails while `failing`."""

    def __init__(self) -> None:
        self.got: list[list[str]] = []
        self.called = threading.Semaphore(0)
        self.failing = False

    def __call__(self, paths: Any) -> None:
        self.got.append(list(paths))
        self.called.release()
        if self.failing:
            raise ConnectionError("no answer")


def test_changes_are_collected(tmp_path: Path) -> None:
    calls = Calls()
    with Hooks([("calls", calls)], interval=3600) as hooks:
        for number in range(20):
            hooks.changed(f"/{number % 10}.jpg")
        assert calls.called.acquire(timeout=20)
        for number in range(5):
            hooks.changed(f"/later-{number}.jpg")
        assert not calls.called.acquire(timeout=0.2)  # not before the interval is over
    assert calls.got == [[f"/{number}.jpg" for number in range(10)]]


def test_a_hook_that_fails_is_tried_again_with_what_it_missed() -> None:
    calls = Calls()
    calls.failing = True
    with Hooks([("calls", calls)], interval=0.01) as hooks:
        hooks.changed("/a.jpg")
        assert calls.called.acquire(timeout=20)
        hooks.changed("/b.jpg")
        calls.failing = False
        assert calls.called.acquire(timeout=20)
        while set(calls.got[-1]) != {"/a.jpg", "/b.jpg"}:
            assert calls.called.acquire(timeout=20), calls.got


def test_a_manager_that_answers_with_an_error_is_a_failure(manager: Manager) -> None:
    manager.answers = lambda _path, _body: (401, {})
    with pytest.raises(OSError, match="401"):
        KINDS["json"](manager.url, "", PathMap())(["/a.jpg"])
    with pytest.raises(ValueError, match="web server"):
        KINDS["json"]("file:///etc/passwd", "", PathMap())(["/a.jpg"])


def test_no_hook_no_thread() -> None:
    before = threading.active_count()
    none: list[tuple[str, Call]] = []
    with Hooks(none, interval=1) as hooks:
        hooks.changed("/a.jpg")
        assert threading.active_count() == before


def test_what_is_collected_is_bounded() -> None:
    calls = Calls()
    hooks = Hooks([("calls", calls)], interval=1)
    for number in range(20_000):
        hooks.changed(f"/{number}.jpg")
    assert len(hooks._paths) == 10_000
    assert "/19999.jpg" in hooks._paths
