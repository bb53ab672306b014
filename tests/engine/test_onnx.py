"""ONNX Runtime: it works for us, and tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from sidecar_faces.engine.decode_dali import has_gpu
from sidecar_faces.engine.fpenet import spec
from sidecar_faces.engine.onnx import CPU, CUDA, Session, padded
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


@pytest.mark.parametrize(("rows", "wanted"), [(1, 1), (2, 2), (3, 4), (5, 8), (16, 16), (17, 32)])
def test_a_gpu_sees_few_sizes_of_batches(rows: int, wanted: int) -> None:
    crops = np.random.default_rng(rows).uniform(0, 255, (rows, 1, 80, 80)).astype(np.float32)
    more = padded(crops)
    assert more.shape == (wanted, 1, 80, 80) and more.dtype == np.float32
    assert (more[:rows] == crops).all() and not more[rows:].any()


def test_padding_changes_no_result() -> None:
    """As on a GPU, whose sessions pad; here the same network on the CPU."""
    crops = np.random.default_rng(0).uniform(0, 255, (5, 1, 80, 80)).astype(np.float32)
    plain, padding = (Session(str(_MODEL), spec(80, visibility=True)) for _ in range(2))
    padding._pads = True
    for wanted, found in zip(plain(crops), padding(crops), strict=True):
        assert found.shape == wanted.shape
        assert np.allclose(found, wanted, atol=1e-4)
