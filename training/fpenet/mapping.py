"""Step 2: fit the sparse linear map 478 mesh vertices -> 104 points.

iBUG 1-68: each point is its own vertex plus a weighted sum of the offsets to the 10 nearest vertices, fitted by ridge
regression (towards the single vertex) on landmarks68_pseudo_pytorch and dlib_faces, with the left/right symmetry built in
by adding every face's mirror image. Points 69-104 are fixed combinations (`layout.extra_rows`).
The result `map104.json` is committed: {point: {vertex: weight}}; every row sums to one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from training.fpenet.layout import IBUG_VERTICES, MIRROR, VERTICES, dense, extra_rows
from training.fpenet.settings import HERE, Settings, load, parser

Doubles = NDArray[np.float64]
MAP = HERE / "map104.json"
FIT_SETS = ("landmarks68_pseudo_pytorch", "dlib_faces")


def read_map(path: Path = MAP) -> Doubles:
    """(104, 478) matrix."""
    rows = json.loads(path.read_text())
    return dense([{int(v): float(w) for v, w in row.items()} for row in rows])


def eval_points(s: Settings) -> list[dict[str, Any]]:
    """The cut faces that the teacher meshed, each with `mesh` (478, 3) and `points` (68, 2) in crop pixels."""
    z = np.load(s.work / "eval_meshes.npz")
    meshes = dict(zip(z["name"].tolist(), z["mesh"], strict=True))
    rows = []
    for r in json.loads((s.work / "eval_faces.json").read_text()):
        if r["file"] in meshes:
            x, y, side = r["crop"]
            points = (np.array(r["points"]) + 0.5 - [x, y]) * 200 / side
            rows.append(r | {"mesh": meshes[r["file"]], "points": points})
    return rows


def inter_ocular(points: Doubles) -> Doubles:
    """Distance of the outer eye corners, iBUG 37 and 46; points (..., 68+, 2)."""
    return np.asarray(np.linalg.norm(points[..., 36, :] - points[..., 45, :], axis=-1))


def nme(found: Doubles, truth: Doubles) -> Doubles:
    """Mean error over inter-ocular distance; (n, 68, 2) each."""
    return np.asarray(np.linalg.norm(found - truth, axis=-1).mean(-1) / inter_ocular(truth))


def mean_mesh(meshes: Doubles) -> Doubles:
    """(478, 3): scaled, centred, averaged over the faces and their mirror images would-be; only for neighbourhoods."""
    m = meshes - meshes.mean(1, keepdims=True)
    return np.asarray((m / np.linalg.norm(m, axis=(1, 2), keepdims=True)).mean(0))


def mirror_vertices(mean: Doubles) -> NDArray[np.int64]:
    """The vertex opposite each vertex, from the mean mesh."""
    flipped = mean * [-1, 1, 1]
    cost = np.linalg.norm(mean[:, None] - flipped[None], axis=-1)
    return np.asarray(linear_sum_assignment(cost)[1], np.int64)


def fit_point(i: int, mesh: Doubles, points: Doubles, near: NDArray[np.int64], ridge: float) -> dict[int, float]:
    """Weights of point `i`; mesh (n, 478, 2) and points (n, 68, 2) in inter-ocular units."""
    base = IBUG_VERTICES[i]
    offsets = mesh[:, near] - mesh[:, [base]]
    a = offsets.transpose(0, 2, 1).reshape(-1, len(near))
    b = (points[:, i] - mesh[:, base]).reshape(-1)
    w = np.linalg.solve(a.T @ a + ridge * len(a) * np.eye(len(near)), a.T @ b)
    row = {base: 1.0 - float(w.sum())}
    for v, x in zip(near.tolist(), w, strict=True):
        row[v] = row.get(v, 0.0) + float(x)
    return row


def fit(mesh: Doubles, points: Doubles, neighbours: int, ridge: float) -> list[dict[int, float]]:
    """Rows for the 68 points; mesh (n, 478, 3), points (n, 68, 2)."""
    mean = mean_mesh(mesh)
    opposite = mirror_vertices(mean)
    unit = inter_ocular(points)[:, None, None]
    xy, target = mesh[:, :, :2] / unit, points / unit
    both = np.concatenate([xy, (xy * [-1, 1])[:, opposite]])
    targets = np.concatenate([target, (target * [-1, 1])[:, MIRROR[:68]]])
    rows = []
    for i in range(68):
        distance = np.linalg.norm(mean - mean[IBUG_VERTICES[i]], axis=1)
        near = np.argsort(distance)[1 : neighbours + 1]
        rows.append(fit_point(i, both, targets, near, ridge))
    return rows


def leave_one_out(mesh: Doubles, points: Doubles, c: dict[str, Any], folds: int = 10) -> Doubles:
    """NME of each face under a map fitted without its fold."""
    out = np.zeros(len(mesh))
    for k in range(folds):
        held = np.arange(len(mesh)) % folds == k
        m = dense(fit(mesh[~held], points[~held], c["neighbours"], c["ridge"]))
        out[held] = nme(m @ mesh[held, :, :2], points[held])
    return out


def main() -> None:
    """Fit, report, write `map104.json`."""
    s = load(parser(__doc__).parse_args())
    c, rows = s.section("map"), eval_points(s)
    mesh = np.stack([r["mesh"] for r in rows]).astype(np.float64)
    points = np.stack([r["points"] for r in rows])
    sets = np.array([r["set"] for r in rows])
    use = np.isin(sets, FIT_SETS)
    fitted = fit(mesh[use], points[use], c["neighbours"], c["ridge"])
    held = leave_one_out(mesh[use], points[use], c)
    single = dense([{v: 1.0} for v in IBUG_VERTICES])
    for name in sorted(set(sets)):
        m = sets == name
        a, b = (np.median(nme(x @ mesh[m, :, :2], points[m])) * 100 for x in (single, dense(fitted)))
        cross = f", cross-validated {np.median(held[sets[use] == name]) * 100:.2f}" if name in FIT_SETS else ""
        print(f"{name}: median NME {a:.2f} % one vertex, {b:.2f} % fitted{cross}")
    extra = extra_rows(c["ear_out"], c["ear_back_top"], c["ear_back_bottom"])
    text = ",\n".join(json.dumps({str(k): round(w, 5) for k, w in r.items()}) for r in [*fitted, *extra])
    MAP.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
