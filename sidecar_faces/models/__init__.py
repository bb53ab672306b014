"""Model packs: which weights, from where, under which licence, with which checksums."""

from __future__ import annotations

from sidecar_faces.models.install import install
from sidecar_faces.models.packs import Pack, load_packs
from sidecar_faces.models.verify import PackState, State, require, verify

__all__ = ["Pack", "PackState", "State", "install", "load_packs", "require", "verify"]
