"""FPENet: from photos to weights. No step reports to the makers of ONNX Runtime (engine/onnx.py)."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
