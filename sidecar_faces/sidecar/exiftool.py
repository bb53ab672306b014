"""exiftool, kept at a distance: it reads photos through fixed names, and every answer has a deadline.

It only makes the seed of a new sidecar, in a scratch folder. It never sees a path of the library (a newline
in one injects arguments), never a file that is not a photo by its first bytes, never a configuration file
(which is a program), and it never writes into a library.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sidecar_faces.core.types import ImageFormat
from sidecar_faces.errors import SidecarError, ToolFailedError, ToolMissingError
from sidecar_faces.log import printable
from sidecar_faces.sidecar.mapping import MAPPINGS
from sidecar_faces.sidecar.region_list import read_regions
from sidecar_faces.sidecar.text import decode
from sidecar_faces.sidecar.tree import parse

MIN_VERSION = (12, 15)
"""The first that pyexiftool can talk to."""
ADVICE = "install it (Debian: apt install libimage-exiftool-perl; else https://exiftool.org)"
_MAX_SEED = 16 << 20
_MAGIC = {
    ImageFormat.JPEG: (b"\xff\xd8\xff",),
    ImageFormat.PNG: (b"\x89PNG\r\n\x1a\n",),
    ImageFormat.WEBP: (b"RIFF",),
    ImageFormat.TIFF: (b"II*\0", b"MM\0*"),
}


@dataclass(frozen=True, slots=True)
class _Running:
    """The child process, and a handle on its exiftool that outlives the reuse of process numbers."""

    child: subprocess.Popen[bytes]
    tool: int
    version: str


class ExifTool:
    """A context manager; `seed` may be called from any thread, one call at a time.

    `program`: name or path of exiftool. `deadline`: seconds that one answer may take; then exiftool is
    killed, ToolFailedError raised, and the next call starts it again.
    """

    def __init__(self, program: str = "exiftool", deadline: float = 20.0) -> None:
        self.program = program
        self.deadline = deadline
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._scratch = ""

    def __enter__(self) -> ExifTool:
        self._scratch = tempfile.mkdtemp(prefix="sidecar-faces-")
        try:
            self._started()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def version(self) -> str:
        """Of the exiftool that runs. Raises ToolMissingError, ToolFailedError."""
        with self._lock:
            return self._started().version

    def found_at(self) -> str | None:
        """Where the program lies."""
        return shutil.which(self.program)

    def seed(self, photo: str, kind: ImageFormat) -> bytes | None:
        """What a new sidecar of the photo must say: its embedded XMP, then what Exif and IPTC say beyond it.

        None where it says nothing. Without `tiff:Orientation`, which in a sidecar overrides the photo's.
        Raises SidecarError where the photo cannot be read, ToolFailedError, ToolMissingError.
        """
        with self._lock, _opened(photo, kind) as fd:
            source, target = f"photo.{kind.value}", "seed.xmp"
            try:
                self._clear(source, target)
                os.symlink(f"/proc/{os.getpid()}/fd/{fd}", os.path.join(self._scratch, source))
                return self._extract(source, target)
            except OSError as error:
                why = os.strerror(error.errno or 0)
                raise ToolFailedError(f"{self._scratch}: {why}; exiftool works there.") from error
            finally:
                self._clear(source, target)

    def _extract(self, source: str, target: str) -> bytes | None:
        self._call("-tagsfromfile", source, "-xmp", target)
        if not _is_editable(self._read(target)):
            self._clear(target)  # broken packets, and those in several parts: value by value
            self._call("-tagsfromfile", source, "-xmp:all", target)
        self._call("-tagsfromfile", source, *MAPPINGS, "-wm", "cg", target)
        seed = self._read(target)
        if seed and b"Orientation" in seed:
            self._call("-xmp-tiff:orientation=", target)
            seed = self._read(target)
        return seed

    def _call(self, *arguments: str) -> None:
        """One command on files of the scratch folder; warnings about the photo are not ours to judge."""
        running = self._started()
        located = [
            os.path.join(self._scratch, word) if word.startswith(("photo.", "seed.")) else word
            for word in arguments
        ]
        request = json.dumps(["-q", "-q", "-m", "-overwrite_original", *located]) + "\n"
        assert running.child.stdin is not None  # noqa: S101 - it was asked for
        try:
            running.child.stdin.write(request.encode())
            running.child.stdin.flush()
            said = str(self._answer(running.child, time.monotonic() + self.deadline).get("stderr"))
        except (OSError, ValueError) as error:
            self._stop()
            raise ToolFailedError(f"exiftool did not answer ({error}); run again.") from error
        if (
            "Error:" in said and "Nothing to write" not in said
        ):  # a seed that is cut short would hide the rest
            raise ToolFailedError(f"exiftool failed ({said.strip().split(' - ')[0]}).")

    def _started(self) -> _Running:
        if self._running is not None:
            return self._running
        if self.found_at() is None:
            raise ToolMissingError(f"{printable(self.program)} was not found; {ADVICE}.")
        command = [sys.executable, "-m", "sidecar_faces.sidecar.exiftool_child", self.program]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            said = self._answer(child, time.monotonic() + self.deadline)
        except (OSError, ValueError) as error:
            _end(child)
            raise ToolFailedError(f"{printable(self.program)} does not start ({error}); {ADVICE}.") from error
        if "pid" not in said:
            _end(child)
            raise ToolMissingError(
                f"{printable(self.program)} cannot be used: {said.get('error')}; {ADVICE}."
            )
        self._running = _Running(child, os.pidfd_open(said["pid"]), str(said["version"]))
        if _version(self._running.version) < MIN_VERSION:
            self._stop()
            raise ToolMissingError(f"exiftool {said['version']} is too old, 12.15 is needed; {ADVICE}.")
        return self._running

    def _answer(self, child: subprocess.Popen[bytes], until: float) -> dict[str, Any]:
        """One line of JSON from the child. Raises OSError where it ends or the deadline passes."""
        assert child.stdout is not None  # noqa: S101 - it was asked for
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer within {self.deadline:.0f} s")
            part = os.read(child.stdout.fileno(), 65536)
            if not part:
                raise BrokenPipeError("it ended")
            line += part
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("it answered nonsense")  # noqa: TRY004 - of what it said, not of our code
        return answer

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(running.tool, signal.SIGKILL)  # stopped programs obey nothing else
            select.select([running.tool], [], [], 1.0)  # until it is gone
        os.close(running.tool)
        _end(running.child)

    def _read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError), open(os.path.join(self._scratch, name), "rb") as file:
            data = file.read(_MAX_SEED + 1)
            if len(data) > _MAX_SEED:
                raise SidecarError("holds more metadata than a sidecar may be large")
            return data
        return None

    def _clear(self, *names: str) -> None:
        for name in (*names, *(f"{name}_exiftool_tmp" for name in names)):  # which a killed exiftool leaves
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._scratch, name))


@contextmanager
def _opened(photo: str, kind: ImageFormat) -> Iterator[int]:
    """The photo, open, if its first bytes are those of its format: what exiftool gets cannot be exchanged."""
    try:
        fd = os.open(photo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SidecarError(
            f"{printable(photo)}: cannot be read ({os.strerror(error.errno or 0)})."
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not os.pread(fd, 16, 0).startswith(_MAGIC[kind]):
            raise SidecarError(f"{printable(photo)}: is no {kind.value} file any more.")
        yield fd
    finally:
        os.close(fd)


def _is_editable(seed: bytes | None) -> bool:
    """Whether a packet can be taken as it is: well-formed, whole, and with regions that we can edit."""
    if seed is None:
        return True
    try:
        read_regions(parse(decode(seed).work))
    except SidecarError:
        return False
    return b"HasExtendedXMP" not in seed


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was not sent cannot be sent any more
                pipe.close()
    child.wait()
