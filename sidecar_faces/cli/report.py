"""What a run found, for people and for scripts."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from typing import Any

import click

from sidecar_faces.cli.common import errors
from sidecar_faces.core.types import Outcome
from sidecar_faces.library.scan import ScanProblem
from sidecar_faces.log import printable
from sidecar_faces.pipeline import Ended, Summary

_MAX_LISTED = 1000
"""Problems kept for the JSON result; all of them are printed and stand in the store."""


class Report:
    """Counts, problems and the time of a run."""

    def __init__(self) -> None:
        self.total = Summary()
        self.problems: list[dict[str, str]] = []
        self.unreadable = 0
        self._example = ""
        self._started = time.perf_counter()

    def add(self, ended: Ended) -> None:
        """Count a photo, and say what is wrong with it the first time it is found."""
        self.total.add(ended)
        if ended.faces and not self._example:
            self._example = ended.path
        if ended.outcome in (Outcome.DONE, Outcome.UNCHANGED):
            return
        if ended.record is not None:
            errors.print(f"{ended.outcome.value}: {_sentence(ended.path, ended.reason)}")
        self._list(ended.path, ended.outcome.value, ended.reason)

    def problem(self, problem: ScanProblem) -> None:
        """Count a folder that could not be read."""
        self.unreadable += 1
        errors.print(f"folder not read: {printable(problem.path)}: {problem.reason}")
        self._list(problem.path, "folder not read", problem.reason)

    def _list(self, path: str, outcome: str, reason: str) -> None:
        if len(self.problems) < _MAX_LISTED:
            self.problems.append({"path": printable(path), "outcome": outcome, "reason": reason})

    @property
    def has_problems(self) -> bool:
        return bool(self.total.quarantined or self.unreadable)

    def as_json(self, *, dry_run: bool, interrupted: bool) -> dict[str, Any]:
        """The result for scripts."""
        return {
            **counts(self.total),
            "folders_not_read": self.unreadable,
            **self._speed(),
            "dry_run": dry_run,
            "interrupted": interrupted,
            "problems": self.problems,
        }

    def _speed(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._started
        return {"seconds": round(seconds, 3), "photos_per_second": round(self.total.seen / seconds, 2)}

    def print(self, *, dry_run: bool, interrupted: bool) -> None:
        """The result for people."""
        s, speed = self.total, self._speed()
        rate = f"{speed['seconds']:.1f} s ({speed['photos_per_second']:.1f} photos/s)"
        click.echo(
            f"{s.seen} photos in {rate}{' (dry run: nothing was written)' if dry_run else ''}\n"
            f"  {s.unchanged} unchanged\n"
            f"  {s.indexed} indexed: {s.with_faces} with faces, {s.faces} faces\n"
            f"  {s.quarantined} quarantined, {s.refused} refused"
        )
        if self.unreadable:
            click.echo(f"  {self.unreadable} folders could not be read")
        if interrupted:
            click.echo("Interrupted: run the same command again to go on.")
        if s.quarantined or s.refused:
            click.echo(f"Why: {_program()} status; to try again: {_program()} retry")
        if self._example:
            click.echo(f"Look at a photo: {_program()} show {shlex.quote(printable(self._example))}")


def counts(summary: Summary) -> dict[str, int]:
    """Photos by what became of them, and the faces of those that were indexed."""
    return {
        "photos": summary.seen,
        "unchanged": summary.unchanged,
        "indexed": summary.indexed,
        "with_faces": summary.with_faces,
        "faces": summary.faces,
        "quarantined": summary.quarantined,
        "refused": summary.refused,
    }


def _sentence(path: str, reason: str) -> str:
    """Reasons are phrases that follow the name; errors of sidecars name their file themselves."""
    return reason if reason.startswith("/") else f"{printable(path)} {reason}"


def _program() -> str:
    """How to call us: by name, or by path where the shell would not find us."""
    beside = os.path.join(os.path.dirname(sys.executable), "sidecar-faces")
    found = shutil.which("sidecar-faces")
    if found is None and os.path.isfile(beside):
        relative = os.path.relpath(beside)
        return shlex.quote(beside if relative.startswith("..") else relative)
    return "sidecar-faces"
