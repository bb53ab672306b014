"""`undo`: take back what we wrote."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import click

from sidecar_faces.cli.common import (
    App,
    dry_run_option,
    emit,
    errors,
    hold_libraries,
    json_option,
    paths_argument,
    place_options,
)
from sidecar_faces.cli.wiring import layout_for
from sidecar_faces.errors import ExitCode, SidecarError
from sidecar_faces.log import printable
from sidecar_faces.sidecar.undo import Undone, remembered
from sidecar_faces.sidecar.undo import undo as undo_one
from sidecar_faces.store import Store


@click.command()
@paths_argument
@dry_run_option
@place_options
@json_option
@click.pass_obj
def undo(app: App, /, paths: tuple[str, ...], *, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Remove exactly what we wrote about photos, and nothing else.

    Our anonymous regions leave the sidecars, landmark files go, and so does a sidecar that we made and
    that nobody touched since. Regions that got a name, and everything else in a sidecar, stay.

    \b
    sidecar-faces undo --dry-run ~/Photos
    sidecar-faces undo ~/Photos/2024
    """
    settings = app.settings(**flags)
    total = _Total()
    with ExitStack() as stack:
        store = stack.enter_context(Store(settings.database))
        targets = hold_libraries(stack, paths, store, settings, "undo")
        for path, root in targets:
            layout = layout_for(settings, root)
            for photo in remembered(layout, path):
                try:
                    total.add(undo_one(photo, layout, dry_run=dry_run))
                except SidecarError as error:
                    total.problem(photo, str(error))
                    continue
                if not dry_run:
                    store.forget([photo])
    emit(total.as_json(dry_run=dry_run)) if as_json else total.print(dry_run=dry_run)
    if total.problems:
        raise SystemExit(int(ExitCode.PROBLEM))


@dataclass(slots=True)
class _Total:
    photos: int = 0
    sidecars_removed: int = 0
    sidecars_edited: int = 0
    regions: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)

    def add(self, undone: Undone | None) -> None:
        """Count one photo."""
        if undone is not None:
            self.photos += 1
            self.sidecars_removed += undone.sidecar_removed
            self.sidecars_edited += undone.regions > 0
            self.regions += undone.regions

    def problem(self, photo: str, reason: str) -> None:
        """Say what could not be undone; its landmark file stays, so that undo can be run again."""
        errors.print(reason)
        self.problems.append({"path": printable(photo), "reason": reason})

    def as_json(self, *, dry_run: bool) -> dict[str, Any]:
        """The result for scripts; `photos` is the number of landmark files removed."""
        return {
            "photos": self.photos,
            "sidecars_removed": self.sidecars_removed,
            "sidecars_edited": self.sidecars_edited,
            "regions_removed": self.regions,
            "dry_run": dry_run,
            "problems": self.problems,
        }

    def print(self, *, dry_run: bool) -> None:
        """The result for people."""
        would = "would be " if dry_run else ""
        click.echo(
            f"{self.photos} landmark files {would}removed\n"
            f"{self.sidecars_removed} sidecars of ours {would}removed\n"
            f"{self.regions} regions {would}taken out of {self.sidecars_edited} other sidecars"
        )
        if self.problems:
            click.echo(f"{len(self.problems)} photos could not be undone; see above.")
