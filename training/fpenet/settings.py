"""Command line and TOML settings shared by every step."""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Settings:
    """The parsed config file and the two folders every step needs."""

    data: Path
    work: Path
    seed: int
    table: dict[str, Any]

    def section(self, name: str) -> dict[str, Any]:
        """The table `[name]` of the config file."""
        return dict(self.table[name])


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options every step has."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--config", type=Path, default=HERE / "config.toml")
    p.add_argument("--data", type=Path, help="dataset folder (overrides the config)")
    p.add_argument("--work", type=Path, help="folder for derived files (overrides the config)")
    return p


def load(args: argparse.Namespace) -> Settings:
    """Read the config, apply the overrides, seed the generators of Python and numpy."""
    table = tomllib.loads(args.config.read_text())
    data = args.data or Path(table["data"])
    work = args.work or Path(table["work"])
    work.mkdir(parents=True, exist_ok=True)
    seed = int(table["seed"])
    random.seed(seed)
    np.random.seed(seed)
    return Settings(data, work, seed, table)
