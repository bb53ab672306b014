"""A library in a folder, the real exiftool, and what the worker would report."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from sidecar_faces.core.frames import Size, StoredBox
from sidecar_faces.core.types import Face, FaceResult, FileSignature, ImageFormat, Landmarks, Photo
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.sidecar.layout import SidecarLayout
from sidecar_faces.sidecar.writer import SidecarWriter

SIZE = Size(640, 480)
BOX = (100.0, 100.0, 80.0, 90.0)
OTHER = (400.0, 200.0, 60.0, 60.0)


@pytest.fixture(scope="session")
def exiftool() -> Iterator[ExifTool]:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    with ExifTool() as tool:
        yield tool


def jpeg(size: Size = SIZE, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (size.width, size.height), (80, 90, 100)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def landmarks() -> Landmarks:
    return Landmarks(
        *("centerface-5", ((1.123456, 2.0, 0.987654321),) * 5, (2, 2, 2, 2, 1), 1.23456, (3.0, 4.987654)),
        pose=(-12.345, 6.0, 0.04),
    )


@dataclass
class Library:
    """A folder of photos; `write("a.jpg", BOX)` merges one face into its sidecar."""

    root: Path
    tool: ExifTool
    layout: SidecarLayout = field(init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        self.layout = SidecarLayout(str(self.root))

    def add(self, name: str, data: bytes | None = None) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg() if data is None else data)
        return path

    def path(self, name: str) -> str:
        return str(self.root / name)

    def photo(self, name: str, orientation: int = 1) -> Photo:
        status = os.stat(self.path(name))
        signature = FileSignature(status.st_size, status.st_mtime_ns)
        return Photo(self.path(name), signature, ImageFormat.JPEG, SIZE, orientation)

    def result(self, name: str, *boxes: tuple[float, float, float, float]) -> FaceResult:
        faces = tuple(Face(StoredBox(*box), 0.875, landmarks()) for box in boxes)
        return FaceResult(self.photo(name), faces)

    def writer(
        self, *, restore: bool = False, dry_run: bool = False, models: str = "models"
    ) -> SidecarWriter:
        return SidecarWriter(self.layout, self.tool, models, restore=restore, dry_run=dry_run)

    def write(self, name: str, *boxes: tuple[float, float, float, float]) -> int:
        return self.writer().write(self.result(name, *boxes))

    def tree(self, *, times: bool = True) -> dict[str, tuple[str, int, int]]:
        """Every file: content, mode, modification time (0 without `times`)."""
        return {
            os.path.relpath(os.path.join(folder, name), self.root): _of(
                os.path.join(folder, name), times=times
            )
            for folder, _, names in os.walk(self.root)
            for name in names
        }


def _of(path: str, *, times: bool) -> tuple[str, int, int]:
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    status = os.stat(path)
    return digest, status.st_mode, status.st_mtime_ns if times else 0


@pytest.fixture
def library(tmp_path: Path, exiftool: ExifTool) -> Library:
    return Library(tmp_path / "photos", exiftool)


@pytest.fixture
def small_disk(tmp_path: Path, as_root: None) -> Iterator[Path]:
    """A file system of 256 KB."""
    point = tmp_path / "small"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(point)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount here")
    yield point
    subprocess.run(["umount", str(point)], check=True)
