"""Step 5: write `fpenet104.onnx` and `fpenet80.onnx` from `weights.pt` and check them against PyTorch.

Input `input_face_images` (N, 1, 80, 80) FP32 0..255. Outputs: `conv_keypoints_m80` (N, K, 80, 80) logits,
`softargmax` (N, K, 2) x, y in crop pixels (continuous, 0..80), `softargmax:1` (N, K) the peak of the softmax
(one pixel of 80 x 80), `visibility` (N, K) probability that the point is visible.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from training.fpenet.layout import POINTS
from training.fpenet.model import CELLS, CROP, Fpenet
from training.fpenet.settings import Settings, load, parser

INPUT = "input_face_images"
OUTPUTS = ["conv_keypoints_m80", "softargmax", "softargmax:1", "visibility"]


class Exported(nn.Module):
    """The network with the published outputs, cut to its first `points` points."""

    def __init__(self, net: Fpenet, points: int) -> None:
        super().__init__()
        self.net = net.eval()
        self.points = points
        with torch.no_grad():
            net.head = nn.Parameter(net.head[:points])
            net.hidden.weight, net.hidden.bias = (
                nn.Parameter(t[:points]) for t in (net.hidden.weight, net.hidden.bias)
            )
            net.seen = nn.Parameter(net.seen[:points])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fine, coarse = self.net.features(x)
        flat = self.net.head @ fine
        p = flat.softmax(2)
        both = self.net.read(p, fine)
        peak = p.amax(2)
        hidden = self.net.occluded(both, peak, coarse)
        maps = flat.reshape(-1, self.points, CELLS, CELLS)
        large = nn.functional.interpolate(maps, scale_factor=2.0, mode="nearest")
        return large, both[:, :, :2], peak * (CELLS / CROP) ** 2, torch.sigmoid(-hidden)


def load_net(s: Settings, weights: Path | None) -> Fpenet:
    """The averaged weights in a fresh network; random ones without a path."""
    torch.manual_seed(s.seed)
    net = Fpenet(POINTS, s.section("model"))
    if weights is not None:
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()


def write(net: Exported, path: Path, meta: dict[str, str]) -> None:
    """Trace, export, state the outputs' shapes, annotate, check."""
    x, k = torch.rand(2, 1, CROP, CROP) * 255, net.points
    axes: dict[str, dict[int, str]] = {n: {0: "n"} for n in [INPUT, *OUTPUTS]}
    torch.onnx.export(
        net,
        (x,),
        str(path),
        input_names=[INPUT],
        output_names=OUTPUTS,
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    model = onnx.load(str(path))
    shapes = ((k, CROP, CROP), (k, 2), (k,), (k,))
    for output, shape in zip(model.graph.output, shapes, strict=True):
        made = onnx.helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, ["n", *shape])
        output.CopyFrom(made)
    onnx.helper.set_model_props(model, meta)
    model.producer_name, model.producer_version, model.doc_string = "sidecar-faces training/fpenet", "", ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def compare(net: nn.Module, path: Path, n: int = 5) -> float:
    """Largest difference of coordinates (crop pixels) and probabilities between PyTorch and ONNX Runtime."""
    x = torch.rand(n, 1, CROP, CROP) * 255
    session: Any = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        want = net(x)
    got = session.run(OUTPUTS, {INPUT: x.numpy()})
    return max(float(np.abs(a.numpy() - b).max()) for a, b in zip(want[1:], got[1:], strict=True))


def main() -> None:
    """Export both files."""
    p = parser(__doc__)
    p.add_argument("--weights", type=Path, help="default <work>/run/weights.pt")
    p.add_argument("--random", action="store_true", help="random weights, to try the graph")
    p.add_argument("--out", type=Path, default=Path("sidecar_faces/models"))
    args = p.parse_args()
    s = load(args)
    weights = None if args.random else args.weights or s.work / "run" / "weights.pt"
    args.out.mkdir(parents=True, exist_ok=True)
    for points in (104, 80):
        net, path = Exported(load_net(s, weights), points).eval(), args.out / f"fpenet{points}.onnx"
        write(net, path, {"crop_enlarge": str(s.section("augment")["enlarge"]), "layout": str(points)})
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(
            f"{path.name} {path.stat().st_size} bytes, differs by {compare(net, path):.2g}, sha256 {digest}"
        )


if __name__ == "__main__":
    main()
