"""One run per library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sidecar_faces.errors import LockedError
from sidecar_faces.library.lock import hold

_CHILD = """
import sys
from pathlib import Path
from sidecar_faces.library.lock import hold
with hold(sys.argv[1], Path(sys.argv[2]), "sidecar-faces rescan"):
    print("held", flush=True)
    sys.stdin.read()
"""


def other_run(root: Path, locks: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CHILD, str(root), str(locks)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


@pytest.mark.parametrize("wanted", ["library", "library/2020", "."])
def test_a_second_run_says_who_holds_the_library(tmp_path: Path, wanted: str) -> None:
    (tmp_path / "library" / "2020").mkdir(parents=True)
    with other_run(tmp_path / "library", tmp_path / "locks") as child:
        with (
            pytest.raises(LockedError, match=rf"process {child.pid} on .* at work on"),
            hold(str(tmp_path / wanted), tmp_path / "locks", "second"),
        ):
            pass
        child.communicate("")


def test_libraries_side_by_side_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    with other_run(tmp_path / "a", tmp_path / "locks") as child:
        with hold(str(tmp_path / "ab"), tmp_path / "locks", "second"):
            pass
        child.communicate("")


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    with other_run(tmp_path / "library", tmp_path / "locks") as child:
        child.kill()
    with hold(str(tmp_path / "library"), tmp_path / "locks", "second") as holder:
        assert holder.root == str(tmp_path / "library")
    with hold(str(tmp_path), tmp_path / "locks", "third"):
        pass
