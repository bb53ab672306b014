"""ONNX Runtime: it works for us, and tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from sidecar_faces.engine.decode_dali import has_gpu
from sidecar_faces.engine.fpenet import spec
from sidecar_faces.engine.onnx import CPU, CUDA, Session
from sidecar_faces.errors import ModelError

_MODEL = Path(str(resources.files("sidecar_faces.models"))) / "fpenet80.onnx"
_INFER = """
import sys
import numpy as np
from sidecar_faces.engine.fpenet import spec
from sidecar_faces.engine.onnx import Session
Session(sys.argv[1], spec(80, visibility=True))(np.zeros((1, 1, 80, 80), np.float32))
"""


def test_it_reports_nothing_and_keeps_no_identifier(tmp_path: Path) -> None:
    """It would keep both what it reports and the identifier in the user's cache."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
    command = [sys.executable, "-c", _INFER, str(_MODEL)]
    subprocess.run(command, env={**clean, "HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.skipif(has_gpu(), reason="for machines without a GPU")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_cannot_be_used_is_said() -> None:
    """ONNX Runtime would go on by the CPU and say nothing that anybody reads."""
    with pytest.raises(ModelError, match=r"fpenet80\.onnx: ONNX Runtime .* cannot use CUDAExecutionProvider"):
        Session(str(_MODEL), spec(80, visibility=True), providers=(CUDA, CPU))
