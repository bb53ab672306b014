"""`doctor`: check everything that a run needs, and say what to do about what is missing."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import PIL
from PIL import Image, features

from sidecar_faces.cli.common import App, emit, json_option, print_table
from sidecar_faces.config import Settings
from sidecar_faces.errors import ExitCode, SidecarFacesError
from sidecar_faces.library.capabilities import capabilities
from sidecar_faces.log import printable
from sidecar_faces.models.verify import INSTALL_HINT, State, verify
from sidecar_faces.sidecar.commit import can_exchange
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.store import Store

_LOW_SPACE = 100 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """`ok` is False where something must be done: `advice` says what."""

    name: str
    ok: bool
    found: str
    advice: str = ""


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path())
@json_option
@click.pass_obj
def doctor(app: App, paths: tuple[str, ...], *, as_json: bool) -> None:
    """Check exiftool, the models, the decoder, and the libraries at PATHs (default: those indexed before).

    Exit code 1 where a check failed; each failure says what to do.

    \b
    sidecar-faces doctor
    sidecar-faces doctor ~/Photos --json
    """
    settings = app.settings()
    checks = [
        *_program(settings),
        *(check for path in _libraries(paths, settings) for check in _library(path, settings)),
    ]
    if as_json:
        emit([asdict(check) for check in checks])
    else:
        rows = (
            ("ok" if c.ok else "FAILED", c.name, f"{c.found}; {c.advice}" if c.advice else c.found)
            for c in checks
        )
        print_table(("", "check", "found"), rows)
    if not all(check.ok for check in checks):
        raise SystemExit(int(ExitCode.PROBLEM))


def _libraries(paths: tuple[str, ...], settings: Settings) -> list[str]:
    if paths:
        return [os.path.abspath(path) for path in paths]
    with Store(settings.database) as store:
        return store.libraries()


def _program(settings: Settings) -> Iterator[Check]:
    yield _tried("exiftool", _exiftool)
    yield from _models(settings.models_dir)
    yield _tried("decoder", _decoder)
    yield _tried("state", lambda: _state(settings.database))


def _tried(name: str, look: Callable[[], str]) -> Check:
    """What was found, or the sentence of the error as advice."""
    try:
        return Check(name, ok=True, found=look())
    except (SidecarFacesError, OSError) as error:
        return Check(name, ok=False, found="failed", advice=str(error))


def _exiftool() -> str:
    with ExifTool() as tool:
        return f"{tool.version} at {tool.found_at()}"


def _models(folder: Path) -> Iterator[Check]:
    for state in verify(folder):
        ok = state.state is State.OK
        found = f"{state.path} ({state.pack.licence})" if ok else state.detail
        yield Check(f"model {state.pack.name}", ok, found, "" if ok else INSTALL_HINT)


def _decoder() -> str:
    """Decode a JPEG scaled, as the engine does."""
    buffer = io.BytesIO()
    Image.new("RGB", (1024, 768)).save(buffer, "JPEG")
    with Image.open(buffer) as image:
        image.draft("RGB", (256, 192))
        size = image.size
        image.load()
    if size != (256, 192):
        raise OSError("Pillow decodes JPEGs without scaling, which is slow; install Pillow from its wheel")
    turbo = features.version("libjpeg_turbo") if features.check_feature("libjpeg_turbo") else None
    return f"Pillow {PIL.__version__}, " + (f"libjpeg-turbo {turbo}" if turbo else "libjpeg")


def _state(database: Path) -> str:
    with Store(database) as store:
        return f"{database} ({len(store.libraries())} libraries)"


def _library(path: str, settings: Settings) -> Iterator[Check]:
    name = f"library {printable(path)}"
    if not os.path.isdir(path):
        yield Check(name, ok=False, found="is not a folder", advice="mount it, or name another one")
        return
    yield _readable(name, path)
    target = path if settings.sidecar_dir is None else str(settings.sidecar_dir)
    yield from _target(name if target == path else f"sidecars {printable(target)}", target)


def _readable(name: str, path: str) -> Check:
    try:
        count = len(os.listdir(path))
    except OSError as error:
        return Check(f"{name}: read", ok=False, found=str(error.strerror), advice="allow reading it")
    return Check(f"{name}: read", ok=True, found=f"{count} entries")


def _target(name: str, folder: str) -> Iterator[Check]:
    if not os.path.isdir(folder):
        yield Check(name, ok=True, found="does not exist yet; it will be made")
        return
    able = capabilities(folder)
    mount = f"{able.mount.type} at {printable(able.mount.point)}"
    advice = "" if able.writable else "allow writing, or use --sidecar-dir"
    yield Check(f"{name}: write", able.writable, "yes" if able.writable else f"no ({mount})", advice)
    low = able.free < _LOW_SPACE
    advice = "make room; a sidecar takes 4 to 20 KB" if low else ""
    yield Check(f"{name}: space", not low, f"{able.free / 2**30:.1f} GiB free", advice)
    exchange = able.writable and can_exchange(folder)
    how = "RENAME_EXCHANGE" if exchange else "no RENAME_EXCHANGE: rename and link are used"
    inotify = "inotify" if able.mount.has_inotify else "no inotify for changes by others: polling is used"
    yield Check(f"{name}: file system", ok=True, found=f"{mount}; {how}; {inotify}")
