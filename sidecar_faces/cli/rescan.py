"""`rescan`: index photos once, or again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sidecar_faces.cli.common import (
    App,
    dry_run_option,
    emit,
    errors,
    excludes,
    json_option,
    library_of,
    outermost,
    paths_argument,
    place_options,
)
from sidecar_faces.cli.wiring import LibraryWriter, engine_settings, open_executor
from sidecar_faces.config import Settings
from sidecar_faces.core.batching import Batcher
from sidecar_faces.core.types import Outcome
from sidecar_faces.engine.base import EngineSettings, Executor
from sidecar_faces.engine.passes import canvas_key
from sidecar_faces.engine.worker import worker_fingerprint
from sidecar_faces.errors import ExitCode
from sidecar_faces.library.lock import hold
from sidecar_faces.library.probe import Limits
from sidecar_faces.library.scan import ScanProblem, scan
from sidecar_faces.log import printable
from sidecar_faces.pipeline import (
    Ended,
    Infer,
    Select,
    Stage,
    Summary,
    Write,
    batch_up,
    forget_vanished,
    remember,
    run_threaded,
)
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.store import Store

_MAX_LISTED = 1000
"""Problems kept for the JSON result; all of them are printed and stand in the store."""


@click.command()
@paths_argument
@click.option("--force", is_flag=True, help="Index photos again that are unchanged.")
@click.option("--restore", is_flag=True, help="Write regions again that somebody removed from a sidecar.")
@dry_run_option
@click.option(
    "--workers", type=click.IntRange(min=0), help="Worker processes; 0, the default, is one per core."
)
@click.option("--engine", type=click.Choice(["auto", "local"]), help="Where models run.")
@click.option("--min-score", type=float, help="Drop faces below this detection score (0 to 1, default 0.5).")
@click.option("--min-face", type=int, metavar="PX", help="Drop faces smaller than this, in photo pixels.")
@click.option(
    "--detail", type=click.Choice(["fast", "normal", "fine"]), help="How small a face is looked for."
)
@place_options
@json_option
@click.pass_obj
def rescan(
    app: App,
    paths: tuple[str, ...],
    *,
    force: bool,
    restore: bool,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Find the faces in photos and write them to their sidecars; what is unchanged is skipped.

    PATHs are folders or single photos. Ctrl-C finishes what is in flight; the next run goes on from there.

    \b
    sidecar-faces rescan ~/Photos
    sidecar-faces rescan --detail fine ~/Photos/2024 ~/Photos/portrait.jpg
    sidecar-faces rescan --dry-run --json ~/Photos
    """
    settings = app.settings(**flags)
    engine = engine_settings(settings)
    store = Store(settings.database)
    report = _Report()
    with ExitStack() as stack:
        stack.callback(store.close)
        targets = [(path, library_of(path, store)) for path in outermost(paths)]
        for root in outermost(root for _, root in targets):
            stack.enter_context(hold(root, settings.lock_dir, "sidecar-faces rescan"))
        run = _Run(settings, engine, store, report, force=force, restore=restore, dry_run=dry_run)
        with (
            ExifTool() as exiftool,
            open_executor(settings, engine) as executor,
            _stop_on_interrupt(run.stop),
        ):
            for path, root in targets:
                if not run.stop.is_set():
                    run.index(path, root, exiftool, executor)
    report.finish(run.stop.is_set(), dry_run=dry_run)
    emit(report.as_json()) if as_json else report.print(paths)
    if run.stop.is_set():
        raise SystemExit(int(ExitCode.INTERRUPTED))
    if report.summary.quarantined or report.unreadable:
        raise SystemExit(int(ExitCode.PROBLEM))


@dataclass
class _Run:
    settings: Settings
    engine: EngineSettings
    store: Store
    report: _Report
    force: bool
    restore: bool
    dry_run: bool
    stop: threading.Event = field(default_factory=threading.Event)

    def index(self, path: str, root: str, exiftool: ExifTool, executor: Executor) -> None:
        """Index one PATH of a library."""
        models = worker_fingerprint(self.engine)
        writer = LibraryWriter(
            self.settings, root, exiftool, models, restore=self.restore, dry_run=self.dry_run
        )
        before = self.report.summary.seen
        with _progress(path, excludes(self.settings)) as tick:
            source = self._until_stopped(scan(path, excludes(self.settings), self.report.problem))
            for ended in run_threaded(source, self._stages(writer, executor, models)):
                self.report.add(ended)
                tick(self.report.summary)
        if self.dry_run:
            return
        if os.path.isdir(path):
            self.store.register(root)
            forget_vanished(self.store, path)
        if not self.stop.is_set():
            self.store.finish_run(
                path, {**self.report.as_json(), "photos": self.report.summary.seen - before}
            )

    def _stages(self, writer: LibraryWriter, executor: Executor, models: str) -> list[Stage]:
        detail, tries = self.engine.detail, self.settings.max_tries
        stages: list[Stage] = [
            Select(self.store, writer, models, Limits(), force=self.force, restore=self.restore),
            batch_up(lambda: Batcher(lambda photo: canvas_key(photo.displayed, detail)), self.stop.is_set),
            Infer(executor, tries),
            Write(writer, models, tries),
        ]
        return stages if self.dry_run else [*stages, remember(self.store)]

    def _until_stopped(self, candidates: Iterator[Any]) -> Iterator[Any]:
        for candidate in candidates:
            if self.stop.is_set():
                return
            yield candidate


class _Report:
    """Counts, problems and the time of the run."""

    def __init__(self) -> None:
        self.summary = Summary()
        self.problems: list[dict[str, str]] = []
        self.unreadable = 0
        self.interrupted = False
        self.dry_run = False
        self._started = time.perf_counter()
        self.seconds = 0.0

    def add(self, ended: Ended) -> None:
        """Count a photo, and say what is wrong with it the first time it is found."""
        self.summary.add(ended)
        if ended.outcome in (Outcome.DONE, Outcome.UNCHANGED):
            return
        if ended.record is not None:
            errors.print(f"{ended.outcome.value}: {_sentence(ended.path, ended.reason)}")
        self._list({"path": printable(ended.path), "outcome": ended.outcome.value, "reason": ended.reason})

    def problem(self, problem: ScanProblem) -> None:
        """Count a folder that could not be read."""
        self.unreadable += 1
        errors.print(f"folder not read: {printable(problem.path)}: {problem.reason}")
        self._list({"path": printable(problem.path), "outcome": "folder not read", "reason": problem.reason})

    def _list(self, row: dict[str, str]) -> None:
        if len(self.problems) < _MAX_LISTED:
            self.problems.append(row)

    def finish(self, interrupted: bool, *, dry_run: bool) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._started
        self.interrupted, self.dry_run = interrupted, dry_run

    def as_json(self) -> dict[str, Any]:
        """The result for scripts."""
        summary = self.summary
        seconds = self.seconds or time.perf_counter() - self._started
        return {
            "photos": summary.seen,
            "unchanged": summary.unchanged,
            "indexed": summary.indexed,
            "with_faces": summary.with_faces,
            "faces": summary.faces,
            "quarantined": summary.quarantined,
            "refused": summary.refused,
            "folders_not_read": self.unreadable,
            "seconds": round(seconds, 3),
            "photos_per_second": round(summary.seen / seconds, 2),
            "dry_run": self.dry_run,
            "interrupted": self.interrupted,
            "problems": self.problems,
        }

    def print(self, paths: tuple[str, ...]) -> None:
        """The result for people."""
        s = self.summary
        would = " (dry run: nothing was written)" if self.dry_run else ""
        click.echo(
            f"{s.seen} photos in {self.seconds:.1f} s ({s.seen / self.seconds:.1f} photos/s){would}\n"
            f"  {s.unchanged} unchanged\n"
            f"  {s.indexed} indexed: {s.with_faces} with faces, {s.faces} faces\n"
            f"  {s.quarantined} quarantined, {s.refused} refused"
        )
        if self.unreadable:
            click.echo(f"  {self.unreadable} folders could not be read")
        if self.interrupted:
            click.echo("Interrupted: run the same command again to go on.")
        if s.quarantined or s.refused:
            click.echo("Why: sidecar-faces status; to try again: sidecar-faces retry")
        if s.with_faces or s.unchanged:
            click.echo(f"Look at a photo: sidecar-faces show {_example(paths)}")


def _sentence(path: str, reason: str) -> str:
    """Reasons are phrases that follow the name; errors of sidecars name their file themselves."""
    return reason if reason.startswith("/") else f"{printable(path)} {reason}"


def _example(paths: tuple[str, ...]) -> str:
    return printable(paths[0]) if os.path.isfile(paths[0]) else f"{printable(paths[0]).rstrip('/')}/PHOTO.jpg"


@contextmanager
def _stop_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets what is in flight end; a second one ends at once."""

    def ask(_signal: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        errors.print("Stopping: photos in flight are finished first (Ctrl-C again to stop at once).")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _progress(path: str, globs: tuple[str, ...]) -> Iterator[Any]:
    """A progress bar on a terminal; its total is counted beside the run, so that nothing waits for it."""
    if not errors.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[faces]} faces"),
        TimeRemainingColumn(),
    )
    done = threading.Event()
    with Progress(*columns, console=errors) as progress:
        task = progress.add_task("indexing", total=None, faces=0)

        def count() -> None:
            total = 0
            for total, _ in enumerate(scan(path, globs), 1):
                if done.is_set():
                    return
            progress.update(task, total=total)

        threading.Thread(target=count, daemon=True).start()
        seen_before: list[int] = []

        def tick(summary: Summary) -> None:
            seen_before.append(summary.seen - 1) if not seen_before else None
            progress.update(task, completed=summary.seen - seen_before[0], faces=summary.faces)

        try:
            yield tick
        finally:
            done.set()
