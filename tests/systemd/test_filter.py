"""The program under the unit's own system-call filter, loaded by the same library that systemd uses."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "sidecar-faces.service"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or ctypes.util.find_library("seccomp") is None,
    reason="systemd-analyze or libseccomp is not installed (apt install systemd)",
)

FILTERED = """
import ctypes, ctypes.util, errno, json, os, sys
allowed, command = json.loads(sys.argv[1]), sys.argv[2:]
lib = ctypes.CDLL(ctypes.util.find_library("seccomp"))
lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_load.argtypes = [ctypes.c_void_p]
add_rule = lib.seccomp_rule_add_array
add_rule.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
ALLOW, REFUSE, MASKED = 0x7FFF0000, 0x00050000 | errno.EPERM, 7
context = lib.seccomp_init(REFUSE)
assert context
calls = {name: lib.seccomp_syscall_resolve_name(name.encode()) for name in allowed}
for name, number in calls.items():
    if number < 0:
        continue
    if name == "mprotect":      # MemoryDenyWriteExecute=: nothing becomes executable,
        rules = [Compare(2, MASKED, 4, 0)]
    elif name == "mmap":        # and nothing is writable and executable at once
        rules = [Compare(2, MASKED, 6, 0)], [Compare(2, MASKED, 6, 2)], [Compare(2, MASKED, 6, 4)]
        for rule in rules:
            assert add_rule(context, ALLOW, number, 1, ctypes.byref(rule[0])) == 0
        continue
    else:
        rules = []
    array = (Compare * len(rules))(*rules)
    assert add_rule(context, ALLOW, number, len(rules), array) == 0, name
assert lib.seccomp_load(context) == 0
os.execv(command[0], command)
"""


def members(group: str) -> set[str]:
    """System calls of a group, groups within it included."""
    listing = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", group], capture_output=True, text=True, check=True
    ).stdout
    names = [line.strip() for line in listing.splitlines()[1:]]
    found = {name for name in names if re.fullmatch(r"\w+", name)}
    for inner in (name for name in names if name.startswith("@")):
        found |= members(inner)
    return found


def allowed() -> list[str]:
    """What the unit's SystemCallFilter= lines leave."""
    calls: set[str] = set(members("@default"))
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), flags=re.MULTILINE):
        groups = [members(group) for group in line.removeprefix("~").split()]
        calls = calls - set().union(*groups) if line.startswith("~") else calls.union(*groups)
    return sorted(calls)


def test_a_library_is_watched_under_the_filter(tmp_path: Path, portrait_jpeg: bytes) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.jpg").write_bytes(portrait_jpeg)
    command = [sys.executable, "-m", "sidecar_faces", "watch", "--workers", "1", str(root)]
    child = subprocess.Popen(
        [sys.executable, "-c", FILTERED, json.dumps(allowed()), *command],
        env={**os.environ, "SIDECAR_FACES_STATE_DIR": str(tmp_path / "state"), "SIDECAR_FACES_QUIET": "0.3"},
        stderr=subprocess.PIPE,
        text=True,
    )
    pause, deadline = threading.Event(), time.monotonic() + 90
    while not (root / "b.jpg.faces.json").exists() and child.poll() is None and time.monotonic() < deadline:
        if (root / "a.jpg.faces.json").exists() and not (root / "b.jpg").exists():
            (root / "b.jpg").write_bytes(portrait_jpeg)
        pause.wait(0.05)
    child.terminate()
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    assert (root / "b.jpg.xmp").is_file(), said
    assert "Traceback" not in said


def test_the_filter_refuses() -> None:
    """That the filter of the other test is in force: a call of @resources and writable code are refused."""
    code = (
        "import os, mmap\n"
        "both = mmap.PROT_WRITE | mmap.PROT_EXEC\n"
        "for refused in (lambda: os.nice(1), lambda: mmap.mmap(-1, 4096, prot=both)):\n"
        "    try:\n"
        "        refused()\n"
        "        print('allowed')\n"
        "    except PermissionError:\n"
        "        print('refused')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", FILTERED, json.dumps(allowed()), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.split() == ["refused", "refused"], result.stderr
