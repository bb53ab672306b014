"""Tell a photo manager to read again: a program, a webhook, PhotoPrism's index, Immich's metadata job.

Off unless asked for. Photos are collected and told of together, at most once per interval. A manager that
does not answer is said once and tried again, and never keeps indexing from going on.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from sidecar_faces.log import printable

log = structlog.get_logger()

_TIMEOUT_S = 60.0
_MOST_PATHS = 10_000
_FIRST_DELAY_S = 2.0

Call = Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class PathMap:
    """How a manager calls our paths: what begins with `ours` begins with `theirs` there."""

    ours: str = ""
    theirs: str = ""

    def __call__(self, path: str) -> str:
        return self.theirs + path[len(self.ours) :] if self.ours and path.startswith(self.ours) else path


def command(program: Sequence[str]) -> Call:
    """Run a program with the photos on its stdin, a NUL after each path; no shell is involved."""

    def call(paths: Sequence[str]) -> None:
        data = b"".join(os.fsencode(path) + b"\0" for path in paths)
        subprocess.run(
            list(program), input=data, check=True, timeout=_TIMEOUT_S, stdout=subprocess.DEVNULL
        )  # fmt: skip

    return call


def webhook(url: str, token: str, rename: PathMap) -> Call:
    """POST `{"paths": [...]}`; the token, if any, as a bearer token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    def call(paths: Sequence[str]) -> None:
        _post(url, {"paths": [printable(rename(path)) for path in paths]}, headers)

    return call


def photoprism(url: str, token: str, rename: PathMap) -> Call:
    """Index the folders of the photos; `rename` makes paths relative to PhotoPrism's originals folder."""
    headers = {"Authorization": f"Bearer {token}"}

    def call(paths: Sequence[str]) -> None:
        for folder in _outermost(os.path.dirname(rename(path)) for path in paths):
            body = {"path": "/" + printable(folder).lstrip("/"), "rescan": False, "cleanup": False}
            _post(f"{url.rstrip('/')}/api/v1/index", body, headers)

    return call


def immich(url: str, token: str, rename: PathMap) -> Call:
    """Ask Immich which assets the photos are, and let it read their metadata again."""
    headers = {"x-api-key": token}
    base = url.rstrip("/")

    def call(paths: Sequence[str]) -> None:
        ids: list[str] = []
        for path in paths:
            found = _post(f"{base}/api/search/metadata", {"originalPath": printable(rename(path))}, headers)
            ids += [asset["id"] for asset in (found or {}).get("assets", {}).get("items", [])]
        if ids:
            _post(f"{base}/api/assets/jobs", {"assetIds": ids, "name": "refresh-metadata"}, headers)

    return call


KINDS: dict[str, Callable[[str, str, PathMap], Call]] = {
    "json": webhook,
    "photoprism": photoprism,
    "immich": immich,
}


def _outermost(folders: Iterable[str]) -> list[str]:
    """Folders without those that lie below another."""
    result: list[str] = []
    for folder in sorted(set(folders)):
        if not result or not os.path.join(folder, "").startswith(os.path.join(result[-1], "")):
            result.append(folder)
    return result


def _post(url: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url}: is no address of a web server")
    data = json.dumps(body).encode()
    sent = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    request = urllib.request.Request(url, data, sent, method="POST")  # noqa: S310 - http only, see above
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        text = answer.read()
    try:
        return json.loads(text)
    except ValueError:
        return None


class Hooks:
    """Collects photos whose sidecars changed, and calls every hook with them, in a thread of its own."""

    def __init__(self, calls: Sequence[tuple[str, Call]], interval: float) -> None:
        self._calls = calls
        self._interval = interval
        self._paths: dict[str, None] = {}
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._ended = threading.Event()
        self._failing: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)

    def __enter__(self) -> Hooks:
        if self._calls:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What was collected is told of first."""
        self._ended.set()
        self._some.set()
        if self._calls:
            self._thread.join()

    def changed(self, path: str) -> None:
        """The sidecar of a photo was written."""
        if self._calls:
            with self._lock:
                if len(self._paths) >= _MOST_PATHS:  # the manager's own scan will find the oldest
                    self._paths.pop(next(iter(self._paths)))
                self._paths[path] = None
            self._some.set()

    def _work(self) -> None:
        while not self._ended.is_set():
            self._some.wait()
            self._ended.wait(_FIRST_DELAY_S)  # a moment for more to come
            self._some.clear()
            with self._lock:
                paths, self._paths = list(self._paths), {}
            if paths:
                for name, call in self._calls:
                    self._try(name, call, paths)
                self._ended.wait(self._interval)

    def _try(self, name: str, call: Call, paths: Sequence[str]) -> None:
        try:
            call(paths)
        except (OSError, ValueError, subprocess.SubprocessError, KeyError, TypeError) as error:
            if name not in self._failing:
                log.warning("a hook failed and is tried again", hook=name, reason=str(error))
            self._failing.add(name)
            for path in paths:
                self.changed(path)
            return
        if name in self._failing:
            log.info("a hook works again", hook=name)
            self._failing.discard(name)
