"""Step 2: fit the map from 478 mesh vertices to 104 points.

iBUG 1-68: each point is its own vertex plus a weighted sum of the offsets to the 10 nearest vertices, fitted
by ridge regression (towards the single vertex) on landmarks68_pseudo_pytorch and dlib_faces, with the
left/right symmetry built in by adding every face's mirror image. Points 69-104 are fixed combinations
(`layout.extra_rows`).

Such a map moves with the skin, but iBUG's outline does not: on a head turned away it is the contour that one
sees, and that slides over the skin. So a second, small part is fitted to what is left: a shift of each of the
68 points in proportion to the sine of the yaw, one for each direction.

The result `map104.json` is committed: `rows` = {vertex: weight} per point, each summing to one, and `yaw`
(2, 68, 2) = the shift at a sine of one, right and left, along the eyes' axis and across it, in distances
between the outer eye corners.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from training.fpenet.layout import IBUG_VERTICES, MIRROR, TRAGUS_LEFT, TRAGUS_RIGHT, dense, extra_rows
from training.fpenet.settings import HERE, Settings, load, parser

Doubles = NDArray[np.float64]
MAP = HERE / "map104.json"
FIT_SETS = ("landmarks68_pseudo_pytorch", "dlib_faces")


def read_map(path: Path = MAP) -> tuple[Doubles, Doubles]:
    """(104, 478) matrix and (2, 68, 2) shifts with the yaw."""
    table = json.loads(path.read_text())
    rows = dense([{int(v): float(w) for v, w in row.items()} for row in table["rows"]])
    return rows, np.array(table["yaw"])


@dataclass(frozen=True, slots=True)
class Heads:
    """Of n meshes: `axis` (n, 2) unit vector from the image-left to the image-right eye; `unit` (n,) distance
    of the outer eye corners in space; `yaw` (n,) radians, positive where the image-right ear is the
    farther one."""

    axis: Doubles
    unit: Doubles
    yaw: Doubles


def heads(mesh: Doubles) -> Heads:
    """Pose and size of meshes (n, 478, 3)."""
    eyes = mesh[:, 263] - mesh[:, 33]
    axis = eyes[:, :2] / np.linalg.norm(eyes[:, :2], axis=1, keepdims=True)
    ears = mesh[:, TRAGUS_RIGHT] - mesh[:, TRAGUS_LEFT]
    yaw = np.arctan2(ears[:, 2], (ears[:, :2] * axis).sum(1))
    return Heads(axis, np.linalg.norm(eyes, axis=1), yaw)


def yaw_features(yaw: Doubles) -> Doubles:
    """(n, 2): the sine of the yaw to the right and to the left, each 0 on the other side; no more than at
    45 degrees.
    """
    sine = np.sin(yaw).clip(-(0.5**0.5), 0.5**0.5)
    return np.stack([sine.clip(0), (-sine).clip(0)], 1)


def yaw_shift(h: Heads, shifts: Doubles) -> Doubles:
    """(n, 68, 2) pixels to add to the points of the linear map."""
    along, across = np.moveaxis(np.einsum("nf,fpc->npc", yaw_features(h.yaw), shifts), 2, 0)[..., None]
    normal = np.stack([-h.axis[:, 1], h.axis[:, 0]], 1)
    return np.asarray((along * h.axis[:, None] + across * normal[:, None]) * h.unit[:, None, None])


def to_points(mesh: Doubles, rows: Doubles, shifts: Doubles) -> Doubles:
    """(n, 104, 2) or, with 68 rows, (n, 68, 2) points of meshes (n, 478, 3)."""
    points = np.asarray(rows @ mesh[:, :, :2])
    points[:, :68] += yaw_shift(heads(mesh), shifts)
    return points


def eval_points(s: Settings) -> list[dict[str, Any]]:
    """The cut faces that the teacher meshed, each with `mesh` (478, 3) and `points` (68, 2) in crop
    pixels.
    """
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
    """(478, 3): scaled, centred, averaged over the faces and their mirror images would-be; only for
    neighbourhoods.
    """
    m = meshes - meshes.mean(1, keepdims=True)
    return np.asarray((m / np.linalg.norm(m, axis=(1, 2), keepdims=True)).mean(0))


def mirror_vertices(mean: Doubles) -> NDArray[np.int64]:
    """The vertex opposite each vertex, from the mean mesh."""
    flipped = mean * [-1, 1, 1]
    cost = np.linalg.norm(mean[:, None] - flipped[None], axis=-1)
    return np.asarray(linear_sum_assignment(cost)[1], np.int64)


def fit_point(
    i: int, mesh: Doubles, points: Doubles, near: NDArray[np.int64], ridge: float
) -> dict[int, float]:
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


def fit_shifts(mesh: Doubles, points: Doubles, rows: Doubles, ridge: float) -> Doubles:
    """(2, 68, 2) shifts with the yaw, from what the linear map leaves; symmetric like the map."""
    h = heads(mesh)
    left = (points - rows @ mesh[:, :, :2]) / h.unit[:, None, None]
    normal = np.stack([-h.axis[:, 1], h.axis[:, 0]], 1)
    own = np.stack([(left * h.axis[:, None]).sum(2), (left * normal[:, None]).sum(2)], 2)
    features = yaw_features(h.yaw)
    a = np.concatenate([features, features[:, ::-1]])
    b = np.concatenate([own, own[:, MIRROR[:68]] * [-1, 1]]).reshape(len(a), -1)
    return np.linalg.solve(a.T @ a + ridge * len(a) * np.eye(2), a.T @ b).reshape(2, 68, 2)


def fit_both(mesh: Doubles, points: Doubles, c: dict[str, Any]) -> tuple[list[dict[int, float]], Doubles]:
    """Rows and shifts."""
    rows = fit(mesh, points, c["neighbours"], c["ridge"])
    return rows, fit_shifts(mesh, points, dense(rows), c["yaw_ridge"])


def cross_validate(mesh: Doubles, points: Doubles, c: dict[str, Any], folds: int = 10) -> Doubles:
    """NME of each face under a map fitted without its fold."""
    out = np.zeros(len(mesh))
    for k in range(folds):
        held = np.arange(len(mesh)) % folds == k
        rows, shifts = fit_both(mesh[~held], points[~held], c)
        out[held] = nme(to_points(mesh[held], dense(rows), shifts), points[held])
    return out


def report(
    mesh: Doubles, points: Doubles, sets: NDArray[np.str_], rows: Doubles, shifts: Doubles, held: Doubles
) -> None:
    """Median NME of each set: one vertex a point, the linear map, and with the yaw; `held` cross-validated
    or NaN.
    """
    single = dense([{v: 1.0} for v in IBUG_VERTICES])
    turned = np.abs(heads(mesh).yaw) > np.deg2rad(20)
    for name in sorted(set(sets)):
        m = sets == name
        found = [single @ mesh[:, :, :2], rows @ mesh[:, :, :2], to_points(mesh, rows, shifts)]
        errors = [nme(f, points) * 100 for f in found]
        for label, k in (("", m), (" turned by more than 20 degrees", m & turned)):
            a, b, d = (np.median(e[k]) for e in errors)
            cross = f", cross-validated {np.median(held[k]) * 100:.2f}" if name in FIT_SETS else ""
            print(
                f"{name}{label}: {k.sum()} faces, {a:.2f} % one vertex, {b:.2f} linear, "
                f"{d:.2f} with yaw{cross}"
            )


def main() -> None:
    """Fit, report, write `map104.json`."""
    s = load(parser(__doc__).parse_args())
    c, faces = s.section("map"), eval_points(s)
    mesh = np.stack([r["mesh"] for r in faces]).astype(np.float64)
    points = np.stack([r["points"] for r in faces])
    sets = np.array([r["set"] for r in faces])
    use = np.isin(sets, FIT_SETS)
    rows, shifts = fit_both(mesh[use], points[use], c)
    held = np.full(len(mesh), np.nan)
    held[use] = cross_validate(mesh[use], points[use], c)
    report(mesh, points, sets, dense(rows), shifts, held)
    extra = extra_rows(c["ear_out"], c["ear_back_top"], c["ear_back_bottom"])
    text = ",\n".join(json.dumps({str(k): round(w, 5) for k, w in r.items()}) for r in [*rows, *extra])
    MAP.write_text(f'{{"rows": [\n{text}\n],\n"yaw": {json.dumps(shifts.round(5).tolist())}}}\n')


if __name__ == "__main__":
    main()
