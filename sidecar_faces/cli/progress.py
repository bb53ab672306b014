"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sidecar_faces.cli.common import errors
from sidecar_faces.library.scan import scan

Tick = Callable[[int, int], None]
"""Takes the photos ended and the faces found so far, both of this PATH."""


@contextmanager
def progress_bar(path: str, globs: tuple[str, ...]) -> Iterator[Tick]:
    """Show a bar; its total is counted beside the run, so that nothing waits for it."""
    if not errors.is_terminal:
        yield lambda _photos, _faces: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[faces]} faces"),
        TimeRemainingColumn(),
    )
    done = threading.Event()
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task("indexing", total=None, faces=0)

        def count() -> None:
            total = 0
            for _ in scan(path, globs):
                total += 1
                if done.is_set():
                    return
            bar.update(task, total=total)

        threading.Thread(target=count, daemon=True).start()
        try:
            yield lambda photos, faces: bar.update(task, completed=photos, faces=faces)
        finally:
            done.set()
