"""Step 1: let the teacher (Face Mesh with attention) mesh every crop, seen from several slightly different
views.

Needs an environment of its own (mediapipe 0.10.21, numpy < 2). Resumable: finished shards are skipped.
Writes `eval_meshes.npz` and `meshes.npz`: name (N,), mesh (N, 478, 3) in crop pixels (x, y, z; z grows away
from the camera), spread (N,) = mean standard deviation of a vertex over the views, in pixels, views (N,) =
how many views found the face.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from training.fpenet.settings import Settings, load, parser

Floats = NDArray[np.float32]
VERTICES = 478


class Teacher:
    """Face Mesh with irises over square crops of one face."""

    def __init__(self, size: int, confidence: float, views: Sequence[Sequence[float]]) -> None:
        import mediapipe as mp

        self._size, self._views = size, views
        self._net: Any = mp.solutions.face_mesh.FaceMesh(
            static_image_mode=True,
            max_num_faces=1,
            refine_landmarks=True,
            min_detection_confidence=confidence,
        )

    def _one(self, crop: Image.Image, scale: float, roll: float) -> Floats | None:
        """The mesh of one view, (478, 3) in pixels of `crop`, or None."""
        side, out = crop.width, self._size
        turn, centre = _rotation(roll) * (side / out / scale), np.array([side, side]) / 2
        shift = centre - turn @ np.array([out, out]) / 2
        matrix = (turn[0, 0], turn[0, 1], shift[0], turn[1, 0], turn[1, 1], shift[1])
        view = crop.transform((out, out), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        found = self._net.process(np.asarray(view)).multi_face_landmarks
        if not found:
            return None
        p = np.array([(v.x, v.y, v.z) for v in found[0].landmark], np.float32) * out
        flat = p[:, :2] @ turn.T + shift
        return np.concatenate([flat, p[:, 2:] * side / out / scale], 1).astype(np.float32)

    def __call__(self, crop: Image.Image) -> tuple[Floats, float, int] | None:
        """Mean mesh, spread in pixels and the number of views that found a face; None if no view did."""
        meshes = [m for scale, roll in self._views if (m := self._one(crop, scale, roll)) is not None]
        if not meshes:
            return None
        stack = np.stack(meshes)
        spread = float(np.sqrt(stack[:, :, :2].var(0).sum(1)).mean())
        return np.median(stack, 0).astype(np.float32), spread, len(meshes)


def _rotation(degrees: float) -> NDArray[np.float64]:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def teacher(s: Settings) -> Teacher:
    """The teacher as the config describes it."""
    c = s.section("label")
    return Teacher(int(c["size"]), float(c["min_detection_confidence"]), c["views"])


def shards(names: list[str], size: int) -> Iterator[tuple[int, list[str]]]:
    """(index, names) of each slice of `size` names."""
    for i in range(0, len(names), size):
        yield i // size, names[i : i + size]


def label_shard(net: Teacher, folder: Path, names: list[str], out: Path) -> None:
    """Mesh `names` and write one shard."""
    rows = [(n, r) for n in names if (r := net(Image.open(folder / n).convert("RGB"))) is not None]
    tmp = out.with_suffix(".tmp.npz")
    np.savez(
        tmp,
        name=np.array([n for n, _ in rows]),
        mesh=np.stack([r[0] for _, r in rows]) if rows else np.zeros((0, VERTICES, 3), np.float32),
        spread=np.array([r[1] for _, r in rows], np.float32),
        views=np.array([r[2] for _, r in rows], np.int64),
    )
    tmp.rename(out)


def label(s: Settings, folder: Path, names: list[str], name: str) -> None:
    """Mesh `names` of `folder` shard by shard, then join the shards into `<work>/<name>.npz`."""
    parts = s.work / name
    parts.mkdir(exist_ok=True)
    net, done = teacher(s), []
    for i, chunk in tqdm(list(shards(names, int(s.section("label")["shard"]))), unit="shard", desc=name):
        out = parts / f"{i:04d}.npz"
        if not out.exists():
            label_shard(net, folder, chunk, out)
        done.append(out)
    loaded = [np.load(p) for p in done]
    np.savez(s.work / f"{name}.npz", **{k: np.concatenate([d[k] for d in loaded]) for k in loaded[0].files})
    found = sum(len(d["name"]) for d in loaded)
    print(f"{found} of {len(names)} crops meshed")


def main() -> None:
    """Mesh the crops that step 0 cut from the photo sets, then all crops of `faces/`."""
    s = load(parser(__doc__).parse_args())
    cut = [r["file"] for r in json.loads((s.work / "eval_faces.json").read_text()) if r["file"]]
    label(s, s.work / "eval_faces", cut, "eval_meshes")
    folder = s.data / "faces"
    label(s, folder, [r["file"] for r in csv.DictReader((folder / "faces.csv").open())], "meshes")


if __name__ == "__main__":
    main()
