"""Run the real program on real folders, with a state folder of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Cli:
    """`cli("rescan", folder)` runs the program; `cli.json(...)` parses what it prints with --json."""

    state: Path

    def __call__(
        self, *words: object, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "SIDECAR_FACES_STATE_DIR": str(self.state), "COLUMNS": "200", **environment}
        command = [sys.executable, "-m", "sidecar_faces", *map(str, words)]
        result = subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            errors="surrogateescape",
        )
        assert "Traceback" not in result.stderr, result.stderr
        if code is not None:
            assert result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def json(self, *words: object, code: int | None = 0, **environment: str) -> Any:
        return json.loads(self(*words, "--json", code=code, **environment).stdout)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "state")


@dataclass(frozen=True)
class Tree:
    """Every file of a folder: content, mode, modification time."""

    files: dict[str, tuple[str, int, int]]

    @classmethod
    def of(cls, root: Path) -> Tree:
        return cls(dict(sorted(_files(root))))

    def without(self, *suffixes: str) -> dict[str, tuple[str, int, int]]:
        return {name: value for name, value in self.files.items() if not name.endswith(suffixes)}


def _files(root: Path) -> Iterator[tuple[str, tuple[str, int, int]]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                yield os.path.relpath(path, root), (digest, status.st_mode, status.st_mtime_ns)
