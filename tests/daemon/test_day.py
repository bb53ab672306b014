"""Import, edits in a manager, moves, deletions, a Triton restart, a full disk, a reboot: one run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.usefixtures("as_root")
def test_a_day_in_the_life(tmp_path: Path, portrait_jpeg: bytes) -> None:
    (tmp_path / "portrait.jpg").write_bytes(portrait_jpeg)
    command = ["unshare", "--mount", sys.executable, "-m", "tests.daemon.day", str(tmp_path)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900, check=False)
    if "unshare failed" in result.stderr:
        pytest.skip("mount namespaces are not allowed here")
    assert result.stdout.endswith("a good day\n"), result.stdout + result.stderr
