"""The real program as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path


class Process:
    """The running program; `said` is what it wrote to stderr so far."""

    def __init__(self, state: Path, *words: object, **environment: str) -> None:
        env = {
            **os.environ,
            "SIDECAR_FACES_STATE_DIR": str(state),
            "SIDECAR_FACES_QUIET": "0.3",
            **environment,
        }
        self.log = state.parent / f"log-{time.monotonic_ns()}"
        command = [sys.executable, "-m", "sidecar_faces", *map(str, words)]
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, true: Callable[[], bool], seconds: float = 90) -> None:
        pause, deadline = threading.Event(), time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.said
            assert self.child.poll() is None, f"exit {self.child.returncode}\n{self.said}"
            pause.wait(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.child.poll() is None:
            self.child.send_signal(number)
        return self.child.wait(90)
