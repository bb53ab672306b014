"""Real photos for all tests: the NASA portrait that ships with scikit-image."""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image


def shared_datasets() -> Path | None:
    """The folder of evaluation photos beside the checkout; None where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "datasets"
    return folder if folder.is_dir() else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """What shares a server runs in one process: a new pytest can lose that, and nothing would say so."""
    if getattr(session.config.option, "loadgroup", False):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        assert all("@" in item.nodeid for item in grouped), "pytest-xdist does not group tests"


@pytest.fixture(scope="session")
def datasets() -> Path:
    folder = shared_datasets()
    if folder is None:
        pytest.skip("the evaluation photos (../shared/datasets) are not here")
    return folder


@pytest.fixture(scope="session")
def portrait() -> Image.Image:
    """512x512, one frontal face."""
    return Image.fromarray(skimage.data.astronaut())


@pytest.fixture(scope="session")
def portrait_jpeg(portrait: Image.Image) -> bytes:
    buffer = io.BytesIO()
    portrait.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def mount_hung(as_root: None) -> Iterator[Callable[[Path], None]]:
    """Mounts a FUSE file system that nobody serves on a folder: whoever looks at it waits."""
    libc = ctypes.CDLL(None, use_errno=True)
    mounted: list[tuple[Path, int]] = []

    def mount(folder: Path) -> None:
        try:
            device = os.open("/dev/fuse", os.O_RDWR)
        except OSError:
            pytest.skip("FUSE is not there")
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"nobody", os.fsencode(folder), b"fuse.nobody", 0, options):
            os.close(device)
            pytest.skip("mounting is not allowed here")
        mounted.append((folder, device))

    yield mount
    for folder, device in mounted:
        libc.umount2(os.fsencode(folder), 2)
        os.close(device)


@pytest.fixture
def hung(tmp_path: Path, mount_hung: Callable[[Path], None]) -> Path:
    """A folder that never answers."""
    folder = tmp_path / "hung"
    folder.mkdir()
    mount_hung(folder)
    return folder
