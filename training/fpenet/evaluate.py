"""Step 6: measure the exported network. Writes `evaluation.json` and contact sheets into `<work>/evaluation`.

- photo sets with 68 points: boxes from CenterFace, crops as the product cuts them, next to the teacher's own
  error
- held-out crops (a source that was never trained on) and validation crops, against the teacher, by source,
  group and roll
- visibility: average precision of "occluded" on crops with synthetic occluders; the share of mouth points
  flagged on faces with and without masks
- confidence: the curve from a map's peak to the probability of a small error, as `engine.fpenet` has it
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sidecar_faces.engine.fpenet import cut, place
from training.fpenet import sheet
from training.fpenet.augment import Crops, Faces, make, plain
from training.fpenet.faces import SETS
from training.fpenet.layout import GROUPS
from training.fpenet.mapping import inter_ocular, nme, read_map, to_points
from training.fpenet.settings import Settings, load, parser
from training.fpenet.train import read_faces

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Net = Callable[[Floats], tuple[Floats, Floats, Floats]]
VALIDATION, HELD_OUT = 1, 2
ROLLS = (-45, -30, -15, 0, 15, 30, 45)
FAILED, SURE = 0.1, 0.035  # of the distance between the eyes; of the crop's side
MOUTH = range(48, 68)


def open_net(path: Path) -> Net:
    """(n, 1, 80, 80) crops to points (n, k, 2), peaks (n, k), visibility (n, k)."""
    session: Any = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = ["softargmax", "softargmax:1", "visibility"]

    def run(crops: Floats) -> tuple[Floats, Floats, Floats]:
        parts = [
            session.run(names, {"input_face_images": crops[i : i + 64]}) for i in range(0, len(crops), 64)
        ]
        points, peaks, visible = (np.concatenate(p) for p in zip(*parts, strict=True))
        return points, peaks, visible

    return run


def median(errors: Doubles) -> float:
    """Median in per cent, two digits."""
    return round(float(np.median(errors)) * 100, 2)


def groups_of(found: Doubles, truth: Doubles) -> dict[str, float]:
    """Median error by point group, in per cent of the distance between the outer eye corners."""
    error = np.linalg.norm(found - truth, axis=2) / inter_ocular(truth)[:, None]
    return {g: median(error[:, m].mean(1)) for g, m in GROUPS.items() if max(m) < found.shape[1]}


def photo_sets(s: Settings, net: Net) -> dict[str, Any]:
    """NME of the 68 points in photos, and the teacher's on the same faces; photos of failures by name."""
    z = np.load(s.work / "eval_meshes.npz")
    meshes, (rows, shifts) = (
        dict(zip(z["name"].tolist(), z["mesh"].astype(np.float64), strict=True)),
        read_map(),
    )
    out: dict[str, Any] = {}
    faces = [f for f in json.loads((s.work / "eval_faces.json").read_text()) if f["file"]]
    for name in SETS:
        mine = [f for f in faces if f["set"] == name]
        truth = np.array([f["points"] for f in mine]) + 0.5
        found = np.stack([in_photo(s, f, net) for f in tqdm(mine, desc=name)])
        meshed = [i for i, f in enumerate(mine) if f["file"] in meshes]
        taught = to_points(np.stack([meshes[mine[i]["file"]] for i in meshed]), rows, shifts)[:, :68]
        xy, side = np.array([f["crop"][:2] for f in mine]), np.array([f["crop"][2] for f in mine])
        taught = taught * side[meshed, None, None] / 200 + xy[meshed, None]
        linear = (
            (rows[:68] @ np.stack([meshes[mine[i]["file"]][:, :2] for i in meshed]))
            * side[meshed, None, None]
            / 200
        )
        errors = nme(found, truth)
        out[name] = {
            "faces": len(mine), "median": median(errors), "without_jaw": median(part_nme(found,
            truth, range(17, 68))),
            "teacher": median(nme(taught, truth[meshed])),
            "teacher_linear": median(nme(linear + xy[meshed, None], truth[meshed])),
            "failures": [mine[i]["file"] for i in np.flatnonzero(errors > FAILED)],
            "groups": groups_of(found, truth),
        }  # fmt: skip
    return out


def part_nme(found: Doubles, truth: Doubles, members: range) -> Doubles:
    """NME over some of the points."""
    error = np.linalg.norm(found - truth, axis=2)[:, members].mean(1)
    return np.asarray(error / inter_ocular(truth))


def in_photo(s: Settings, face: dict[str, Any], net: Net) -> Doubles:
    """(68, 2) points in photo pixels."""
    image = np.asarray(Image.open(s.data / face["photo"]).convert("RGB"))
    crop = place(np.array(face["box"], np.float64), np.array(face["marks"], np.float64))
    points, _, _ = net(cut(image, crop)[None, None])
    return np.asarray(crop.to_image(points[0, :68].astype(np.float64)))


def against_teacher(faces: Faces, index: Tensor, net: Net, enlarge: float) -> dict[str, Any]:
    """Median NME by roll (crops are not levelled here) and, upright, by group."""
    out: dict[str, Any] = {"faces": len(index), "roll": {}}
    for roll in ROLLS:
        crops = plain(faces, index, enlarge, roll)
        found, truth = net(crops.image.numpy())[0].astype(np.float64), crops.points.numpy().astype(np.float64)
        out["roll"][str(roll)] = median(nme(found[:, :68], truth[:, :68]))
        if roll == 0:
            out |= {"median": out["roll"]["0"], "groups": groups_of(found, truth)}
    return out


def average_precision(score: Doubles, truth: NDArray[np.bool_]) -> float:
    """Area under precision over recall, as the mean precision at each true one."""
    order = np.argsort(-score)
    hits = truth[order]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return round(float(precision[hits].mean()), 4)


def visibility(faces: Faces, index: Tensor, net: Net, s: Settings) -> dict[str, float]:
    """Average precision of "occluded" on augmented crops, occluders on every one, and the share of
    occluded points.
    """
    a = s.section("augment") | {"occluded": 1.0, "upside_down": 0.0, "jigsaw": 0.0}
    batches = [make(faces, index, s.seed + i, a) for i in range(4)]
    hidden = np.concatenate([b.hidden.numpy() for b in batches])
    score = 1 - np.concatenate([net(b.image.numpy())[2] for b in batches])
    known = hidden >= 0
    truth = hidden[known] == 1
    return {
        "average_precision": average_precision(score[known], truth),
        "occluded": round(float(truth.mean()), 3),
    }


def undisputed(faces: Faces, index: Tensor, net: Net, enlarge: float) -> Faces:
    """Faces whose points have no visibility where the network calls them hidden before anything covers them:
    nobody has marked the straps, visors and masks of the photos.
    """
    hidden, called = faces.hidden.clone(), net(plain(faces, index, enlarge).image.numpy())[2] < 0.5
    hidden[index] = torch.where(torch.from_numpy(called) & (hidden[index] == 0), -1, hidden[index])
    return replace(faces, hidden=hidden)


def masks(
    s: Settings, faces: Faces, fold: Tensor, source: list[str], net: Net, enlarge: float
) -> dict[str, Any]:
    """Share of mouth points called occluded on validation crops, per source; for mask sources where a mask
    is sure.
    """
    covered = np.load(s.work / "dataset.npz")["cover"] > 0.75
    out: dict[str, Any] = {}
    for name in sorted(set(source)):
        k = (np.array(source) == name) & (fold.numpy() > 0) & (fold.numpy() < 3)
        k &= covered if name in ("maskon", "facemask") else ~covered
        if k.any():
            crops = plain(faces, torch.from_numpy(np.flatnonzero(k)), enlarge)
            flagged = net(crops.image.numpy())[2][:, MOUTH] < 0.5
            most = (flagged.mean(1) > 0.5).mean()
            out[name] = {
                "faces": int(k.sum()),
                "points": round(float(flagged.mean()), 3),
                "most": round(float(most), 3),
            }
    return out


def calibrate(faces: Faces, index: Tensor, net: Net, s: Settings) -> dict[str, float]:
    """Logistic curve over the logarithm of the peak: where it is one half, and how steep."""
    batches = [make(faces, index, s.seed + 10 + i, s.section("augment")) for i in range(4)]
    x, y = zip(*(_peaks_and_hits(b, net) for b in batches), strict=True)
    peak, hit = torch.from_numpy(np.concatenate(x)).log(), torch.from_numpy(np.concatenate(y)).float()
    w = torch.zeros(2, requires_grad=True)
    fit = torch.optim.LBFGS([w], max_iter=100)

    def closure() -> Tensor:
        fit.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(w[0] + w[1] * (peak + 4), hit)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    fit.step(closure)
    offset, steepness = w.tolist()
    return {"half": round(float(np.exp(-4 - offset / steepness)), 5), "steepness": round(steepness, 3)}


def _peaks_and_hits(crops: Crops, net: Net) -> tuple[Floats, NDArray[np.bool_]]:
    points, peaks, _ = net(crops.image.numpy())
    error = np.linalg.norm(points - crops.points.numpy(), axis=2) / crops.image.shape[-1]
    use = crops.weight.numpy() > 0.2
    return peaks[use], error[use] < SURE


def sheets(faces: Faces, index: Tensor, net: Net, enlarge: float, out: Path) -> None:
    """64 random crops upright, and 64 as training sees them."""
    pick = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(1))[:64]]
    crops = plain(faces, pick, enlarge)
    points, _, visible = net(crops.image.numpy())
    sheet.save(
        (
            sheet.tile(c[0].astype(np.uint8), p, 1 - v)
            for c, p, v in zip(crops.image.numpy(), points, visible, strict=True)
        ),
        out,
    )


def main() -> None:
    """Measure, print, write."""
    p = parser(__doc__)
    p.add_argument("--model", type=Path, default=Path("sidecar_faces/models/fpenet104.onnx"))
    args = p.parse_args()
    s, net = load(args), open_net(args.model)
    out, enlarge = s.work / "evaluation", float(s.section("augment")["enlarge"])
    out.mkdir(exist_ok=True)
    faces, fold, source = read_faces(
        s.work / "dataset.npz", torch.device("cpu"), s.section("train")["spread"]
    )
    held, val = (torch.nonzero(fold == k).flatten() for k in (HELD_OUT, VALIDATION))
    sources = {n: held[[source[i] == n for i in held.tolist()]] for n in s.section("dataset")["hold_out"]}
    result = {
        "photos": photo_sets(s, net),
        "held_out": {n: against_teacher(faces, i, net, enlarge) for n, i in sources.items()},
        "validation": against_teacher(faces, val, net, enlarge),
        "visibility": {
            name: {
                "as_labelled": visibility(faces, i, net, s),
                "undisputed": visibility(undisputed(faces, i, net, enlarge), i, net, s),
            }
            for name, i in {"validation": val, "held_out": held, **sources}.items()
        },
        "masks": masks(s, faces, fold, source, net, enlarge),
        "confidence": calibrate(faces, val, net, s),
    }
    (out / "evaluation.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    sheets(faces, held, net, enlarge, out / "held_out.png")


if __name__ == "__main__":
    main()
