"""Faults on purpose: `kill -9` at any point of a write, and a person who saves the same sidecar meanwhile.

    python benchmarks/faults.py --kills 1000 --races 3000

Prints what was torn, lost or doubled; all must be 0. Exit code 1 where something was.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from sidecar_faces.core.frames import Size, StoredBox
from sidecar_faces.core.regions import overlaps
from sidecar_faces.core.types import Face, FaceResult, FileSignature, ImageFormat, Photo
from sidecar_faces.errors import SidecarConflictError, SidecarError
from sidecar_faces.sidecar import commit
from sidecar_faces.sidecar.document import Document
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.sidecar.layout import SidecarLayout
from sidecar_faces.sidecar.read import read_place
from sidecar_faces.sidecar.undo import undo
from sidecar_faces.sidecar.writer import SidecarWriter

SIZE = Size(640, 480)
PERSON = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    b' <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"\n'
    b'  xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"\n'
    b'  xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#">\n'
    b"  <mwg-rs:Regions><rdf:Description><mwg-rs:RegionList><rdf:Bag>\n"
    b'   <rdf:li><rdf:Description mwg-rs:Name="Ada" mwg-rs:Type="Face">\n'
    b'    <mwg-rs:Area stArea:x="0.9" stArea:y="0.9" stArea:w="0.05" stArea:h="0.05"\n'
    b'     stArea:unit="normalized"/></rdf:Description></rdf:li>\n'
    b"  </rdf:Bag></mwg-rs:RegionList></rdf:Description></mwg-rs:Regions>\n"
    b"  <dc:subject><rdf:Bag><rdf:li>0</rdf:li></rdf:Bag></dc:subject>\n"
    b" </rdf:Description>\n</rdf:RDF></x:xmpmeta>\n"
)


@dataclass
class Counts:
    """What went wrong.

    `torn`: a sidecar that does not parse; `lost`: a person's node that is gone; `doubled`: a region that
    stands twice; `stuck`: a run after the fault that does not come to the right end.
    """

    torn: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0

    def is_clean(self) -> bool:
        return not any(asdict(self).values())


def result_for(path: str, *boxes: tuple[float, float, float, float]) -> FaceResult:
    """Faces as the worker would report them for a photo."""
    status = os.stat(path)
    photo = Photo(path, FileSignature(status.st_size, status.st_mtime_ns), ImageFormat.JPEG, SIZE, 1)
    return FaceResult(photo, tuple(Face(StoredBox(*box), 0.9, None) for box in boxes))


def jpeg() -> bytes:
    """A photo without metadata."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE.width, SIZE.height)).save(buffer, "JPEG")
    return buffer.getvalue()


@contextmanager
def exchange(*, enabled: bool) -> Iterator[None]:
    """Take RENAME_EXCHANGE away, as NFS and most FUSE file systems lack it."""
    real = commit.rename

    def refusing(folder: int, old: str, new: str, flags: int) -> None:
        if flags:
            raise OSError(errno.EINVAL, "no flags here", new)
        real(folder, old, new, flags)

    commit.rename = real if enabled else refusing
    try:
        yield
    finally:
        commit.rename = real


def open_writer(layout: SidecarLayout, *, restore: bool = False) -> SidecarWriter:
    """A writer whose exiftool is never needed, because every new sidecar has another one to start from."""
    return SidecarWriter(layout, ExifTool(), "models", restore=restore)


# --- kill -9 ---------------------------------------------------------------------------------------------

FIRST = ((10.0, 10.0, 60.0, 60.0), (200.0, 100.0, 80.0, 90.0))
SECOND = ((14.0, 12.0, 60.0, 60.0), (400.0, 200.0, 80.0, 90.0))
LAST = ((11.0, 11.0, 60.0, 60.0), (300.0, 300.0, 50.0, 50.0))


def kills(count: int, folder: Path, seed: int = 0) -> Counts:
    """Kill a process that writes and undoes, `count` times; look, mend, look again."""
    chance = random.Random(seed)
    counts = Counts()
    for number in range(count):
        root = folder / f"{number % 64}"
        mode = ("edit", "create", "edit without exchange", "create without exchange")[number % 4]
        layout = _library(root, create=mode.startswith("create"))
        with exchange(enabled="without" not in mode):
            _kill_one(layout, chance.uniform(0, 0.03))
            _examine(layout, counts)
    return counts


def _library(root: Path, *, create: bool) -> SidecarLayout:
    """One photo with a person's sidecar beside it; with `create` ours goes elsewhere and is new."""
    root.mkdir(exist_ok=True)
    for place in (root, root / "xmp"):
        place.mkdir(exist_ok=True)
        for name in os.listdir(place):
            if os.path.isfile(place / name):
                os.unlink(place / name)
    (root / "a.jpg").write_bytes(jpeg())
    (root / "a.jpg.xmp").write_bytes(PERSON)
    return SidecarLayout(str(root), root / "xmp" if create else None)


def _kill_one(layout: SidecarLayout, after: float) -> None:
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            _write_for_ever(layout, told)
        os._exit(1)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    until = time.perf_counter() + after
    while time.perf_counter() < until:
        pass
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError("the process to be killed ended by itself")


def _write_for_ever(layout: SidecarLayout, told: int) -> None:
    writer, path = open_writer(layout), os.path.join(layout.root, "a.jpg")
    first, second = result_for(path, *FIRST), result_for(path, *SECOND)
    os.write(told, b".")
    while True:
        writer.write(first)
        writer.write(second)
        undo(path, layout)


def _examine(layout: SidecarLayout, counts: Counts) -> None:
    path = os.path.join(layout.root, "a.jpg")
    place = layout.sidecar(path)
    try:
        raw = read_place(place)
        if raw is not None:
            _check_person(raw.data, counts)
        elif layout.sidecar_dir is None:
            counts.lost += 1
        open_writer(layout).write(result_for(path, *LAST))
        snapshot = read_place(layout.sidecar(path))
        regions = Document.read(snapshot.data).regions if snapshot else ()
        counts.doubled += len(regions) > len(LAST) + 1
        counts.stuck += len(regions) < len(LAST) + 1
        undo(path, layout)
    except SidecarError:
        counts.torn += 1
        return
    after = read_place(layout.sidecar(path))
    if layout.sidecar_dir is not None:
        counts.stuck += after is not None
    else:
        counts.lost += after is None or after.data != PERSON
    with commit.Folder(os.path.dirname(place.path), place.within) as opened:
        opened.sweep(time.time() + 10)
        left = [name for name in os.listdir(opened.fd) if name.startswith(".sidecar-faces")]
    counts.stuck += bool(left)


def _check_person(data: bytes, counts: Counts) -> None:
    """Whether what a person wrote still stands, whole."""
    regions = Document.read(data).regions
    counts.lost += b"<rdf:li>0</rdf:li>" not in data or sum(r.name == "Ada" for r in regions) != 1


# --- a person's save at the same moment ------------------------------------------------------------------


@dataclass
class Races:
    """What went wrong, and out of how many.

    `saves` of the person that were acknowledged; `unseen`, those that were out of sight for a moment, until
    ours was out of their place; `gave_up`, our writes that did (they are reported and tried again by the next
    run; nothing of them stands).
    """

    counts: Counts
    saves: int
    unseen: int
    gave_up: int


def races(count: int, folder: Path, *, with_exchange: bool = True) -> Races:
    """Write `count` times while another process saves the same sidecar as fast as it can."""
    folder.mkdir(exist_ok=True)
    layout, counts = _library(folder, create=False), Counts()
    path, place = str(folder / "a.jpg"), folder / "a.jpg.xmp"
    with exchange(enabled=with_exchange), _person(place) as person:
        # restored, because the person overwrites what we wrote since they read, which looks like a rejection
        writer, gave_up = open_writer(layout, restore=True), 0
        for number in range(count):
            result = result_for(path, *(SECOND if number % 2 else FIRST))
            try:
                writer.write(result)
            except SidecarConflictError:
                gave_up += 1
        saves, unseen, counts.lost = _end(person)
        data = place.read_bytes()
        counts.lost += f"<rdf:li>{saves}</rdf:li>".encode() not in data
        try:
            areas = [r.area for r in Document.read(data).regions if r.area and r.plain]
            counts.doubled += any(overlaps(a, b) for i, a in enumerate(areas) for b in areas[:i])
            writer.write(result_for(path, *LAST))
        except SidecarError:
            counts.torn += 1
    return Races(counts, saves, unseen, gave_up)


@contextmanager
def _person(sidecar: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _PERSON_PROGRAM, str(sidecar)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.read(1)
            yield process
        finally:
            process.kill()


def _end(person: subprocess.Popen[bytes]) -> tuple[int, int, int]:
    """Ask the person to stop; how many saves were acknowledged, how many of them they did not see at once,
    and how many never.
    """
    output, _ = person.communicate(b"stop", timeout=60)
    saves, unseen, lost = map(int, output.split())
    return saves, unseen, lost


_PERSON_PROGRAM = r"""
import os, random, re, select, sys, time
# Counts in a keyword: reads the sidecar, looks whether the last save stands, adds one, saves by rename.
path, number, unseen, lost, turn = sys.argv[1], 0, 0, 0, random.Random(1)
def look():
    with open(path, "rb") as file:
        data = file.read()
    return data, int(re.search(rb"<rdf:li>(\d+)</rdf:li></rdf:Bag></dc:subject>", data)[1])
print(".", end="", flush=True)
while not select.select([0], [], [], turn.choice([0, 0.0005, 0.002, 0.008]))[0]:
    try:
        data, stands = look()
        if stands != number:
            unseen += 1
            time.sleep(0.2)
            data, stands = look()
            lost += stands != number
    except FileNotFoundError:
        continue  # the moment in which a file system without exchange has none
    keyword = b"<rdf:li>%d</rdf:li></rdf:Bag></dc:"
    new = data.replace(keyword % stands, keyword % (number + 1))
    with open(path + ".person", "wb") as file:
        file.write(new)
    os.replace(path + ".person", path)
    number += 1
print(number, unseen, lost)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--races", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; the default is a temporary folder")
    words = parser.parse_args()
    clean = True
    with tempfile.TemporaryDirectory(dir=words.folder, prefix="faults-") as name:
        started = time.perf_counter()
        counts = kills(words.kills, Path(name), words.seed)
        print(f"{words.kills} kills in {time.perf_counter() - started:.0f} s: {counts}")
        clean = counts.is_clean()
        for with_exchange in (True, False):
            started = time.perf_counter()
            race = races(words.races, Path(name) / "race", with_exchange=with_exchange)
            how = "with exchange" if with_exchange else "without exchange"
            print(
                f"{words.races} writes against {race.saves} saves {how} in "
                f"{time.perf_counter() - started:.0f} s, {race.gave_up} gave up, "
                f"{race.unseen} saves out of sight for a moment: {race.counts}"
            )
            clean = clean and race.counts.is_clean()
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
