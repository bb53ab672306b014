"""ONNX Runtime: it works for us, and tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

_INFER = """
import sys
import numpy as np
from sidecar_faces.engine.fpenet import spec
from sidecar_faces.engine.onnx import Session
Session(sys.argv[1], spec(80, visibility=True))(np.zeros((1, 1, 80, 80), np.float32))
"""


def test_it_reports_nothing_and_keeps_no_identifier(tmp_path: Path) -> None:
    """It would keep both what it reports and the identifier in the user's cache."""
    model = Path(str(resources.files("sidecar_faces.models"))) / "fpenet80.onnx"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
    command = [sys.executable, "-c", _INFER, str(model)]
    subprocess.run(command, env={**clean, "HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("*"))
