"""The daemon's fault runs (benchmarks/watch_faults.py), small; each fails where a promise is broken."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.watch_faults import command

ROOT = Path(__file__).parents[2]
SMALL = {
    "burst": {"files": 3000, "folders": 100},
    "limit": {"watches": 20, "folders": 60},
    "slow": {"copies": 40},
    "unmount": {"cycles": 4},
    "kill": {"kills": 15},
    "full": {"photos": 60},
}


@pytest.mark.parametrize("name", SMALL)
def test_faults(name: str) -> None:
    result = subprocess.run(
        command(name, **SMALL[name]), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    if "unshare" in result.stderr and not result.stdout:
        pytest.skip(f"namespaces are not allowed here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stdout + result.stderr
    told: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert told["run"] == name
