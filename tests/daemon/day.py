"""A day in the life of a watched library, in a mount namespace of its own: run by test_day.py.

    unshare --mount python -m tests.daemon.day FOLDER

Everything is real: the program, the networks, Triton where it is installed, mounts, a full disk, SIGKILL.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sidecar_faces.sidecar.read import read_document
from tests.daemon.harness import jpeg
from tests.daemon.process import Process

_libc = ctypes.CDLL(None, use_errno=True)
_BIND, _LAZY = 4096, 2
SERVER = Path(__file__).parents[2] / ".venv-server/bin/python"


def mount(kind: str, source: Path | str, target: Path, flags: int = 0, options: str = "") -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def unmount(target: Path) -> None:
    if _libc.umount2(os.fsencode(target), _LAZY):
        raise OSError(ctypes.get_errno(), f"unmount {target}")


def regions(photo: Path) -> list[str | None]:
    """Names of the regions in a photo's sidecar, None for a nameless one; empty where there is none."""
    sidecar = photo.with_name(photo.name + ".xmp")
    if not sidecar.exists():
        return []
    return [region.name for region in read_document(str(sidecar), sidecar.read_bytes()).regions]


class Day:
    """The library, what must be true of each photo at the end, and the running programs."""

    def __init__(self, work: Path, portrait: bytes) -> None:
        self.work = work
        self.portrait = portrait
        self.disk, self.root = work / "disk", work / "photos"
        self.state = work / "state"
        self.wanted: dict[str, list[str | None]] = {}
        self.fixed: dict[str, bytes] = {}
        self.server: Process | None = None
        self.engine: tuple[object, ...] = ("--engine", "local", "--workers", 2)
        for folder in (self.disk, self.root, self.state):
            folder.mkdir()
        mount("tmpfs", "tmpfs", self.disk, options="size=24m")
        mount("none", self.disk, self.root, _BIND)

    # --- the programs

    def serve(self) -> None:
        """Triton, where it is installed."""
        if not SERVER.exists():
            click.echo("Triton is not installed here: the networks run in the daemon", err=True)
            return
        ports = [_free_port() for _ in range(3)]
        flags = zip(("--grpc-port", "--http-port", "--metrics-port"), ports, strict=True)
        words = [word for pair in flags for word in pair]
        environment = {"XDG_CACHE_HOME": str(self.work / "cache")}
        self.server = Process(self.state, "serve", "--server-python", SERVER, *words, **environment)
        self.server.until(lambda: "Triton answers" in self.server_log or _answers(ports[0]), 180)
        self.engine = ("--engine", "triton", "--triton-url", f"localhost:{ports[0]}")

    @property
    def server_log(self) -> str:
        return self.server.said if self.server else ""

    def watch(self) -> Process:
        return Process(
            self.state, "watch", *self.engine, self.root, "--scan-interval", 3600, SIDECAR_FACES_MIN_FREE="2"
        )

    def status(self) -> dict[str, Any]:
        (report,) = json.loads(self._run("status", "--json", self.root))
        return dict(report["watch"] or {})

    def _run(self, *words: object) -> str:
        env = {**os.environ, "SIDECAR_FACES_STATE_DIR": str(self.state)}
        command = [sys.executable, "-m", "sidecar_faces", *map(str, words)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    # --- what happens

    def add(self, name: str, want: list[str | None] | None = None) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.portrait)
        self.wanted[name] = [None] if want is None else want
        return path

    def until_done(self, watch: Process, seconds: float = 180) -> None:
        """Wait until every photo is as it must be."""
        watch.until(lambda: not self.missing(), seconds)

    def missing(self) -> list[str]:
        return [name for name, want in self.wanted.items() if regions(self.root / name) != want]

    def forget(self, name: str) -> None:
        del self.wanted[name]

    def move(self, old: str, new: str) -> None:
        self.wanted[new] = self.wanted.pop(old)

    def edit(self, name: str, pattern: str, replacement: str) -> None:
        """A manager saves the sidecar: a new file in the place of the old one."""
        sidecar = self.root / f"{name}.xmp"
        text, count = re.subn(pattern, replacement, sidecar.read_text(), count=1, flags=re.DOTALL)
        assert count == 1, sidecar.read_text()
        temporary = sidecar.with_name(f"{sidecar.name}.manager-saves")
        temporary.write_text(text)
        temporary.replace(sidecar)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def morning(day: Day, watch: Process) -> None:
    """Import: a slow copy, a copy by renaming, a folder moved in, a RAW+JPEG pair, a stranger's file."""
    for number in range(12):
        day.add(f"2026/import/{number}.jpg")
    ready = day.root / ".ready"
    ready.mkdir()
    (ready / "moved-in.jpg").write_bytes(day.portrait)
    ready.rename(day.root / "moved in")
    day.wanted["moved in/moved-in.jpg"] = [None]
    day.add("pair.jpg")
    (day.root / "pair.CR2").write_bytes(b"II*\0 not really")
    day.fixed["pair.xmp"] = b"the raw converter's own"
    (day.root / "pair.xmp").write_bytes(day.fixed["pair.xmp"])
    (day.root / "landscape.jpg").write_bytes(jpeg(400, 300))
    (day.root / ".rsync.jpg.tmp").write_bytes(day.portrait)
    (day.root / ".rsync.jpg.tmp").rename(day.root / "rsync.jpg")
    day.wanted["rsync.jpg"] = [None]
    with open(day.root / "slow.jpg", "wb", buffering=0) as slow:
        slow.write(day.portrait[:5000])
        day.until_done(watch)
        assert not (day.root / "slow.jpg.xmp").exists()
        slow.write(day.portrait[5000:])
    day.wanted["slow.jpg"] = [None]
    day.until_done(watch)


def noon(day: Day, watch: Process) -> None:
    """A manager: somebody is named, a face is rejected, a sidecar is broken; photos change beneath."""
    shape = r'(mwg-rs:Type(?:="Face"|>Face</mwg-rs:Type>))'
    element = "<mwg-rs:Type>" in (day.root / "2026/import/0.jpg.xmp").read_text()
    name = r"\1<mwg-rs:Name>Ada</mwg-rs:Name>" if element else r'\1 mwg-rs:Name="Ada"'
    day.edit("2026/import/0.jpg", shape, name)
    day.wanted["2026/import/0.jpg"] = ["Ada"]
    day.edit("2026/import/1.jpg", r"<rdf:Bag>.*</rdf:Bag>", "<rdf:Bag/>")
    day.wanted["2026/import/1.jpg"] = []
    for number in (0, 1, 2):  # the same photo, saved again
        photo = day.root / f"2026/import/{number}.jpg"
        temporary = photo.with_name(f".{photo.name}.saving")
        temporary.write_bytes(day.portrait + b"edited")
        temporary.rename(photo)
    day.fixed["broken.jpg.xmp"] = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><unclosed>"
    (day.root / "broken.jpg.xmp").write_bytes(day.fixed["broken.jpg.xmp"])
    (day.root / "broken.jpg").write_bytes(day.portrait)
    day.add("after-noon.jpg")
    day.until_done(watch)
    watch.until(lambda: day.status().get("quarantined") == 1)


def afternoon(day: Day, watch: Process) -> None:
    """Moves with and without sidecars, deletions, and one that is taken back."""
    (day.root / "album").mkdir()
    for suffix in (".xmp", ".faces.json", ""):
        (day.root / f"2026/import/0.jpg{suffix}").rename(day.root / f"album/ada.jpg{suffix}")
    day.move("2026/import/0.jpg", "album/ada.jpg")
    (day.root / "2026/import/3.jpg").rename(day.root / "album/alone.jpg")
    day.forget("2026/import/3.jpg")
    day.wanted["album/alone.jpg"] = [None]
    shutil.copy2(day.root / "2026/import/4.jpg", day.work / "trash.jpg")
    (day.root / "2026/import/4.jpg").unlink()
    (day.root / "2026/import/5.jpg").unlink()
    (day.root / "2026/import").rename(day.root / "2026/renamed")
    for name in [name for name in day.wanted if name.startswith("2026/import/")]:
        day.move(name, name.replace("import", "renamed"))
    day.until_done(watch)
    shutil.copy2(day.work / "trash.jpg", day.root / "2026/renamed/4.jpg")
    day.add("undeleted-too.jpg")
    day.until_done(watch)


def triton_restarts(day: Day, watch: Process) -> None:
    """The server is killed while photos come in; whoever supervises it starts it again."""
    for number in range(10):
        day.add(f"evening/{number}.jpg")
        if number == 3 and day.server is not None:
            for child in _tritons():
                os.kill(child, signal.SIGKILL)
    day.until_done(watch, 300)


def _tritons() -> Iterator[int]:
    """Servers of this namespace: ours."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            program = os.readlink(f"/proc/{name}/exe")
            ours = os.readlink(f"/proc/{name}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        except OSError:
            continue
        if ours and "tritonserver" in os.path.basename(program):
            yield int(name)


def full_disk(day: Day, watch: Process) -> None:
    """No room is left below the limit: it pauses, and goes on when there is."""
    free = os.statvfs(day.root).f_bavail * os.statvfs(day.root).f_frsize
    (day.root / "ballast.bin").write_bytes(b"x" * (free - (1 << 20)))
    day.add("late.jpg")
    watch.until(lambda: day.status().get("state") == "paused")
    assert "MiB are free" in day.status()["detail"]
    assert not (day.root / "late.jpg.xmp").exists()
    (day.root / "ballast.bin").unlink()
    day.until_done(watch)


def reboot(day: Day, watch: Process) -> Process:
    """Killed in mid-work; the library is mounted only after the daemon is up again."""
    for number in range(10):
        day.add(f"night/{number}.jpg")
    watch.until(lambda: len(list((day.root / "night").glob("*.xmp"))) > 1)
    watch.end(signal.SIGKILL)
    unmount(day.root)
    (day.root / "left in the bare folder.jpg").write_bytes(day.portrait)
    watch = day.watch()
    watch.until(lambda: day.status().get("state") == "offline")
    assert day.status()["detail"] == "its file system is not mounted"
    assert os.listdir(day.root) == ["left in the bare folder.jpg"]
    mount("none", day.disk, day.root, _BIND)
    day.until_done(watch)
    return watch


def check(day: Day, originals: dict[str, str]) -> None:
    """At the end of the day nothing is lost, doubled, torn or anybody else's."""
    assert day.missing() == []
    for name, data in day.fixed.items():
        assert (day.root / name).read_bytes() == data
    found = {str(p.relative_to(day.root)) for p in day.root.rglob("*") if p.is_file()}
    ours = {n for n in found if n.endswith((".xmp", ".faces.json"))} - set(day.fixed)
    for name in ours:
        assert name.removesuffix(".xmp").removesuffix(".faces.json").endswith(".jpg")
    for name in found - ours - set(day.fixed):
        digest = hashlib.sha256((day.root / name).read_bytes()).hexdigest()
        assert digest in originals, name
    before = {name: (day.root / name).stat().st_mtime_ns for name in found}
    result = subprocess.run(
        [sys.executable, "-m", "sidecar_faces", "rescan", *map(str, day.engine), "--json", str(day.root)],
        env={**os.environ, "SIDECAR_FACES_STATE_DIR": str(day.state)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(result.stdout)
    assert (told["indexed"], told["quarantined"]) == (0, 1), told
    assert {name: (day.root / name).stat().st_mtime_ns for name in found} == before


@contextmanager
def ended(day: Day) -> Iterator[list[Process]]:
    running: list[Process] = []
    try:
        yield running
    finally:
        for process in (*running, *([day.server] if day.server else [])):
            process.end(signal.SIGTERM)


def main() -> None:
    work = Path(sys.argv[1])
    portrait = (work / "portrait.jpg").read_bytes()
    day = Day(work, portrait)
    originals = {
        hashlib.sha256(data).hexdigest(): ""
        for data in (portrait, portrait + b"edited", jpeg(400, 300), b"II*\0 not really")
    }
    with ended(day) as running:
        day.serve()
        running.append(watch := day.watch())
        for part in (morning, noon, afternoon, triton_restarts, full_disk):
            part(day, watch)
            click.echo(part.__name__)
        running.append(watch := reboot(day, watch))
        click.echo("reboot")
        assert watch.end() == 0
        check(day, originals)
    unmount(day.root)
    assert os.listdir(day.root) == ["left in the bare folder.jpg"]
    click.echo("a good day")


if __name__ == "__main__":
    main()
