"""`export coco`: what the landmark files of a library say, as one COCO file."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import click

from sidecar_faces import __version__
from sidecar_faces.cli.common import (
    App,
    emit,
    errors,
    excludes,
    json_option,
    library_of,
    outermost,
    paths_argument,
    place_options,
)
from sidecar_faces.cli.wiring import layout_for
from sidecar_faces.config import Settings
from sidecar_faces.core.coco import CocoWriter
from sidecar_faces.core.frames import Size
from sidecar_faces.core.merge import FaceState
from sidecar_faces.core.types import Outcome
from sidecar_faces.errors import ConfigError, DiskFullError, ExitCode, LibraryError, SidecarError
from sidecar_faces.library.probe import Limits, open_regular, probe
from sidecar_faces.library.scan import scan
from sidecar_faces.log import printable
from sidecar_faces.sidecar.landmark_file import LandmarkFile, load
from sidecar_faces.sidecar.layout import SidecarLayout
from sidecar_faces.store import Store

_MAX_BYTES = 256 << 20


@click.group()
def export() -> None:
    """Write what was found in the formats of other tools."""


@export.command()
@paths_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; replaced where it exists.",
)
@click.option("--segmentation", is_flag=True, help="Add a polygon round the landmarks of each face.")
@click.option("--empty", is_flag=True, help="List photos without a face, too, where they were indexed.")
@click.option("--min-score", type=float, help="Leave out faces below this detection score (0 to 1).")
@place_options
@json_option
@click.pass_obj
def coco(
    app: App,
    paths: tuple[str, ...],
    *,
    output: Path,
    segmentation: bool,
    empty: bool,
    min_score: float | None,
    as_json: bool,
    landmarks: str | None,
    sidecar_dir: Path | None,
) -> None:
    """Write a COCO file of the faces in photos: boxes, keypoints, rotation, centre, score.

    Boxes and keypoints are in pixels of the photo as stored (before its Exif orientation). File names are
    relative to PATH, or to the folder that several PATHs share. Faces that somebody removed from a sidecar
    are left out.

    \b
    sidecar-faces export coco ~/Photos -o instances.json
    sidecar-faces export coco --segmentation --min-score 0.8 ~/Photos/2024 -o faces-2024.json
    """
    settings = app.settings(landmarks=landmarks, sidecar_dir=sidecar_dir)
    if settings.landmarks == "off":
        raise ConfigError("landmarks = 'off': what is exported stands in the landmark files.")
    with ExitStack() as stack:
        store = stack.enter_context(Store(settings.database))
        targets = outermost(paths)
        base = _common_folder(targets)
        out, spool = stack.enter_context(_replacing(output)), stack.enter_context(_spool(output))
        info = {
            "description": "Faces found by sidecar-faces",
            "version": __version__,
            "root": printable(base),
        }
        run = _Export(
            settings, store, CocoWriter(out, spool, info, outline=segmentation), base, empty, min_score or 0
        )
        for path in targets:
            run.add(path)
        run.writer.close()
    run.report(output, as_json=as_json)


@dataclass(slots=True)
class _Export:
    settings: Settings
    store: Store
    writer: CocoWriter
    base: str
    empty: bool
    min_score: float
    problems: list[dict[str, str]] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Export one PATH."""
        layout = layout_for(self.settings, library_of(path, self.store))
        for candidate in scan(path, excludes(self.settings), lambda p: self._problem(p.path, p.reason)):
            try:
                self._photo(candidate.path, layout)
            except (LibraryError, SidecarError) as error:
                self._problem(candidate.path, str(error))

    def _photo(self, photo: str, layout: SidecarLayout) -> None:
        name = os.path.relpath(photo, self.base)
        file = _read(photo, layout)
        if file is None and not (self.empty and self._is_known_empty(photo)):
            return
        if not _is_text(name):
            raise LibraryError("has a name that JSON cannot hold (it is not UTF-8)")
        if file is None:
            seen = probe(photo, Limits())
            self.writer.add(name, seen.stored, seen.orientation, ())
        else:
            faces = [
                (face.box, face.score, face.landmarks)
                for face in file.faces
                if face.state is not FaceState.REJECTED and face.score >= self.min_score
            ]
            if faces or self.empty:
                self.writer.add(name, Size(file.stored.width, file.stored.height), file.orientation, faces)

    def _is_known_empty(self, photo: str) -> bool:
        record = self.store.get(photo)
        return record is not None and record.outcome is Outcome.DONE and record.faces == 0

    def _problem(self, path: str, reason: str) -> None:
        errors.print(f"left out: {printable(path)}: {reason}")
        self.problems.append({"path": printable(path), "reason": reason})

    def report(self, output: Path, *, as_json: bool) -> None:
        """Say what was written; exit code 1 where something had to be left out."""
        images, faces = self.writer.images, self.writer.annotations
        if as_json:
            emit({"images": images, "annotations": faces, "output": str(output), "problems": self.problems})
        else:
            click.echo(f"{images} images, {faces} faces: {printable(str(output))}")
        if self.problems:
            raise SystemExit(int(ExitCode.PROBLEM))


def _read(photo: str, layout: SidecarLayout) -> LandmarkFile | None:
    place = layout.landmark_file(photo)
    if not os.path.lexists(place.path):
        return None
    with open_regular(place.path) as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise SidecarError("has a landmark file of more than 256 MiB")
    try:
        return load(data)
    except SidecarError as error:
        raise SidecarError(f"has a landmark file that {error}") from None


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _common_folder(paths: list[str]) -> str:
    common = os.path.commonpath(paths)
    return common if os.path.isdir(common) else os.path.dirname(common)


@contextmanager
def _replacing(target: Path) -> Iterator[TextIO]:
    """A text file that takes the target's place once it is complete."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        kind = DiskFullError if error.errno == errno.ENOSPC else LibraryError
        raise kind(f"{printable(str(target))}: cannot be written ({error.strerror}).") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _spool(target: Path) -> Iterator[TextIO]:
    """A nameless file on the target's file system, which has the room or says so."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=target.absolute().parent) as file:
        yield file
