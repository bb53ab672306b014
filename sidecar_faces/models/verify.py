"""Whether the files of a pack are there and are what was installed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

from sidecar_faces.errors import ModelError
from sidecar_faces.models.packs import Pack, load_packs

INSTALL_HINT = "run `sidecar-faces models install`"


class State(str, Enum):
    """What a look at the files of a pack can find."""

    OK = "ok"
    MISSING = "missing"
    ALTERED = "altered"
    OUTDATED = "outdated"


@dataclass(frozen=True, slots=True)
class PackState:
    """A pack, where its files are, and what is wrong with them; `detail` is empty where all is well."""

    pack: Pack
    folder: Path
    state: State
    detail: str = ""

    @property
    def path(self) -> Path:
        """The first file of the pack: the weights."""
        return self.folder / self.pack.files[0].name


def record_path(models_dir: Path, pack: Pack) -> Path:
    """Where the installation of a pack notes what it wrote."""
    return models_dir / f"{pack.name}.json"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verify(models_dir: Path) -> tuple[PackState, ...]:
    """The state of every pack; raises nothing for a pack that is missing or altered."""
    return tuple(state_of(models_dir, pack) for pack in load_packs())


def require(models_dir: Path, name: str) -> Path:
    """The weights of a pack, checked. Raises ModelError that says what to do."""
    for pack in load_packs():
        if pack.name == name:
            found = state_of(models_dir, pack)
            if found.state is not State.OK:
                raise ModelError(f"Model pack {name!r}: {found.detail}; {INSTALL_HINT}.")
            return found.path
    raise ModelError(f"There is no model pack {name!r}; `sidecar-faces models list` shows them.")


def state_of(models_dir: Path, pack: Pack) -> PackState:
    """Compare the files of a pack with their checksums."""
    if pack.bundled:
        folder = Path(str(resources.files(__package__)))
        return _compare(pack, folder, {file.name: str(file.sha256) for file in pack.files})
    record = _read_record(record_path(models_dir, pack))
    if record is None:
        return PackState(pack, models_dir, State.MISSING, f"is not installed in {models_dir}")
    if pack.source is not None and record.get("source_sha256") != pack.source.sha256:
        return PackState(pack, models_dir, State.OUTDATED, "was installed from other weights than these")
    return _compare(pack, models_dir, record.get("files", {}))


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _compare(pack: Pack, folder: Path, expected: dict[str, str]) -> PackState:
    for file in pack.files:
        path = folder / file.name
        try:
            found = sha256_of(path)
        except FileNotFoundError:
            return PackState(pack, folder, State.MISSING, f"{path} is missing")
        except OSError as error:
            return PackState(pack, folder, State.MISSING, f"{path} cannot be read ({error.strerror})")
        if found != expected.get(file.name):
            return PackState(pack, folder, State.ALTERED, f"{path} was altered (its SHA-256 is {found})")
    return PackState(pack, folder, State.OK)
