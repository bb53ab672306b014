"""`rescan`: index photos once, or again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import click

from sidecar_faces.cli.common import (
    App,
    dry_run_option,
    emit,
    errors,
    excludes,
    hold_libraries,
    json_option,
    paths_argument,
    place_options,
)
from sidecar_faces.cli.engines import engine_options
from sidecar_faces.cli.progress import progress_bar
from sidecar_faces.cli.report import Report, counts
from sidecar_faces.cli.wiring import Engine, open_engine, stages
from sidecar_faces.config import Settings
from sidecar_faces.errors import ExitCode
from sidecar_faces.library.mounts import mount_of
from sidecar_faces.library.scan import scan
from sidecar_faces.pipeline import Summary, forget_vanished, run_threaded
from sidecar_faces.store import Store


@click.command()
@paths_argument
@click.option("--force", is_flag=True, help="Index photos again that are unchanged.")
@click.option("--restore", is_flag=True, help="Write regions again that somebody removed from a sidecar.")
@dry_run_option
@click.option("--workers", type=click.IntRange(min=0), help="Worker processes; default: one per core.")
@engine_options
@click.option("--min-score", type=float, help="Drop faces below this score (0 to 1, default 0.5).")
@click.option("--min-face", type=int, metavar="PX", help="Drop faces smaller than this, in photo pixels.")
@click.option(
    "--detail", type=click.Choice(["fast", "normal", "fine"]), help="How small a face is looked for."
)
@place_options
@json_option
@click.pass_obj
def rescan(
    app: App,
    /,
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
    with ExitStack() as stack:
        store = stack.enter_context(Store(settings.database))
        targets = hold_libraries(stack, paths, store, settings, "rescan")
        run = _Run(settings, store, force=force, restore=restore, dry_run=dry_run)
        with open_engine(settings) as engine, _stop_on_interrupt(run.stop):
            for path, root in targets:
                run.index(path, root, engine)
    end = {"dry_run": dry_run, "interrupted": run.stop.is_set()}
    emit(run.report.as_json(**end)) if as_json else run.report.print(**end)
    if run.stop.is_set():
        raise SystemExit(int(ExitCode.INTERRUPTED))
    if run.report.has_problems:
        raise SystemExit(int(ExitCode.PROBLEM))


@dataclass(slots=True)
class _Run:
    settings: Settings
    store: Store
    force: bool
    restore: bool
    dry_run: bool
    report: Report = field(default_factory=Report)
    stop: threading.Event = field(default_factory=threading.Event)

    def index(self, path: str, root: str, engine: Engine) -> None:
        """Index one PATH of a library."""
        if self.stop.is_set():
            return
        summary, globs = Summary(), excludes(self.settings)
        made = stages(
            self.settings, self.store, engine, root, stopped=self.stop.is_set,
            force=self.force, restore=self.restore, dry_run=self.dry_run,
        )  # fmt: skip
        with progress_bar(path, globs) as tick:
            source = self._until_stopped(scan(path, globs, self.report.problem))
            for ended in run_threaded(source, made):
                summary.add(ended)
                self.report.add(ended)
                tick(summary.seen, summary.faces)
        if not self.dry_run:
            self._remember(path, root, summary)

    def _remember(self, path: str, root: str, summary: Summary) -> None:
        if os.path.isdir(path):
            self.store.register(root)
            if summary.seen:  # not where the folder of an unmounted library was scanned by mistake
                self.store.set_home(root, mount_of(root).point)
            forget_vanished(self.store, path)
        if not self.stop.is_set():
            self.store.finish_run(path, counts(summary))

    def _until_stopped(self, candidates: Iterator[Any]) -> Iterator[Any]:
        for candidate in candidates:
            if self.stop.is_set():
                return
            yield candidate


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
