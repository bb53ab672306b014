"""The real model, and photos in every disguise."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sidecar_faces.cli.engines import engine_settings
from sidecar_faces.config import load
from sidecar_faces.core.types import Photo
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.fpenet import Fpenet, open_estimator
from sidecar_faces.library.probe import Limits, probe
from sidecar_faces.models import install

MakePhoto = Callable[..., Photo]


@pytest.fixture(scope="session")
def engine() -> EngineSettings:
    """Settings with the installed models."""
    folder = load({}).models_dir
    install(folder)
    return EngineSettings(str(folder))


@pytest.fixture(scope="module")
def settings(engine: EngineSettings) -> EngineSettings:
    """As the command line makes them."""
    return replace(engine_settings(load({})), models=engine.models)


@pytest.fixture(scope="module")
def estimator(settings: EngineSettings) -> Fpenet:
    return open_estimator(settings)


@pytest.fixture
def photo(tmp_path: Path) -> MakePhoto:
    """`photo(data, name)` writes bytes, or an image with Pillow's options, and probes the file."""

    def make(content: bytes | Image.Image, name: str = "x.jpg", **options: Any) -> Photo:
        path = tmp_path / name
        if isinstance(content, Image.Image):
            content.save(path, **options)
        else:
            path.write_bytes(content)
        return probe(str(path), Limits())

    return make


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
