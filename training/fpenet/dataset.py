"""Step 3: join crops and labels into one file, `dataset.npz`, small enough to carry to another machine.

- points (N, 104, 2) in crop pixels (continuous: the crop spans 0..200), from the averaged mesh through the
  linear part of `map104.json`; `shifts`, the other part, with axis (N, 2), unit (N,) and yaw (N,), because
  augmentation turns the heads
- azimuth (N, 104): degrees from the camera, round the head's axis, at which each point lies; depth (N, 25,
  25): the mesh's depth in crop pixels, smoothed and continued beyond the face
- hidden (N, 104): 1 occluded, 0 visible, -1 unknown: mouths and lower jaws of masked faces, from a small
  classifier of the lower face, trained on the source folders (masks against none) out of fold
- fold (N,): 0 train, 1 validation, 2 sources never trained on, 3 unused (bad label, or like a face of an
  evaluation set)
- gray JPEG bytes: `blob` (uint8), `start` (N + 1,)

Crops that look alike (frames of one clip, one photo in two sources) are grouped and share a fold: persons
cannot be told apart by name here, look-alikes can.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from training.fpenet.faces import FACE
from training.fpenet.layout import POINTS, TRAGUS_LEFT, TRAGUS_RIGHT
from training.fpenet.mapping import Heads, heads, read_map
from training.fpenet.settings import Settings, load, parser

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
ALIGNED, DEPTH_CELLS = 32, 25
# Template of (eye, eye, mouth centre) in the aligned thumbnail, as fractions of its side.
TEMPLATE = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.78]])


def aligned(image: Image.Image, points: Doubles) -> NDArray[np.float32]:
    """(32, 32, 3) thumbnail with eyes and mouth at fixed places."""
    three = np.stack([points[36:42].mean(0), points[42:48].mean(0), points[48:60].mean(0)])
    source = np.concatenate([TEMPLATE * ALIGNED, np.ones((3, 1))], 1)
    matrix = np.linalg.solve(source, three).T.reshape(-1)
    thumb = image.transform(
        (ALIGNED, ALIGNED), Image.Transform.AFFINE, tuple(matrix), Image.Resampling.BILINEAR
    )
    return np.asarray(thumb, np.float32)


def similar(thumbs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 32*32) rows of unit norm whose products are correlations of gray thumbnails."""
    gray = thumbs.mean(-1).reshape(len(thumbs), -1)
    gray = gray - gray.mean(1, keepdims=True)
    return np.asarray(gray / np.maximum(np.linalg.norm(gray, axis=1, keepdims=True), 1e-6), np.float32)


def groups(rows: NDArray[np.float32], limit: float) -> Ints:
    """Group number of each row: connected components of correlation > limit."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = [], []
    for i in range(0, len(rows), 1024):
        x, y = np.nonzero(rows[i : i + 1024] @ rows.T > limit)
        a.append(x + i)
        b.append(y)
    pairs = (np.concatenate(a), np.concatenate(b))
    graph = coo_matrix((np.ones(len(pairs[0])), pairs), shape=(len(rows), len(rows)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def azimuth(points3: Doubles, mesh: Doubles, h: Heads) -> Doubles:
    """(N, 104) degrees: 0 faces the camera, 90 lies on the horizon at the image's right, beyond is turned
    away.
    """
    ray = points3 - mesh[:, [TRAGUS_LEFT, TRAGUS_RIGHT]].mean(1, keepdims=True)
    return np.asarray(np.rad2deg(np.arctan2((ray[..., :2] * h.axis[:, None]).sum(2), -ray[..., 2])))


def depth_field(mesh: Doubles, cells: int = DEPTH_CELLS, crop: int = 200) -> Doubles:
    """(cells, cells) depth of the nearest vertices, smoothed over a cell; beyond the face that of its rim."""
    step = crop / cells
    g = (np.arange(cells) + 0.5) * step
    at = np.stack(np.meshgrid(g, g), -1).reshape(-1, 1, 2)
    square = np.square(at - mesh[None, :, :2]).sum(2) / (2 * step**2)
    weight = np.exp(square.min(1, keepdims=True) - square)
    return np.asarray((weight @ mesh[:, 2] / weight.sum(1)).reshape(cells, cells))


def masked(thumbs: NDArray[np.float32], source: NDArray[np.str_], group: Ints, seed: int) -> Doubles:
    """(N,) probability that the lower face is covered, each from a model that never saw the face's group."""
    import torch

    torch.manual_seed(seed)
    x = torch.from_numpy(thumbs).permute(0, 3, 1, 2) / 255 - 0.5
    x = x[:, :, 8:]
    y = torch.from_numpy(np.isin(source, ["maskon", "facemask"]).astype(np.float32))
    sure = torch.from_numpy(np.isin(source, ["maskon", "without_mask", "ytf", "facemask"]))
    part = torch.from_numpy(group % 3)
    out = torch.zeros(len(x))
    for k in range(3):
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 24, 5, 2), torch.nn.ReLU(), torch.nn.Conv2d(24, 48, 3, 2), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.LazyLinear(1),
        )  # fmt: skip
        _train_small(net, x[sure & (part != k)], y[sure & (part != k)])
        with torch.no_grad():
            net.eval()
            out[part == k] = net(x[part == k]).squeeze(1).sigmoid()
    return np.asarray(out.numpy(), np.float64)


def _train_small(net: Any, x: Any, y: Any, epochs: int = 12) -> None:
    import torch

    net(x[:2])
    opt = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    for _ in tqdm(range(epochs), desc="mask classifier"):
        for i in torch.randperm(len(x)).split(128):
            flip = torch.flip(x[i], [3]) if torch.rand(()) < 0.5 else x[i]
            gain = 1 + 0.3 * torch.randn(len(i), 3, 1, 1)
            soft = y[i] * 0.9 + 0.05
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(flip * gain).squeeze(1), soft)
            opt.zero_grad()
            loss.backward()
            opt.step()


def cover_mouths(hidden: Ints, cover: Doubles, source: NDArray[np.str_]) -> Ints:
    """Mark mouth, lower jaw and nose base of covered lower faces; unsure ones become unknown."""
    hidden = hidden.copy()
    sets = np.isin(source, ["maskon", "facemask", "people"])
    hide, unsure = sets & (cover > 0.75), sets & (cover > 0.15) & (cover <= 0.75)
    core, fringe = np.r_[5:12, 48:68], np.r_[2:5, 12:15, 29:36]
    hidden[np.ix_(hide, core)] = 1
    hidden[np.ix_(hide, fringe)] = -1
    hidden[np.ix_(unsure, np.r_[core, fringe])] = -1
    return hidden


def folds(source: NDArray[np.str_], group: Ints, c: dict[str, Any], seed: int) -> Ints:
    """0 train, 1 validation, 2 held-out source. A group that touches a held-out source is never trained
    on.
    """
    held = np.isin(source, c["hold_out"])
    numbers = np.random.default_rng(seed).permutation(np.unique(group))
    val = np.isin(group, numbers[: int(len(numbers) * c["fold_size"])])
    fold = np.where(val, 1, 0)
    fold[np.isin(group, group[held])] = 3
    fold[held] = 2
    return fold


def evaluation_thumbs(s: Settings, m: Doubles) -> NDArray[np.float32]:
    """Aligned thumbnails of the evaluation faces, to keep look-alikes out of training."""
    z = np.load(s.work / "eval_meshes.npz")
    rows = zip(z["name"].tolist(), z["mesh"], strict=True)
    return np.stack([aligned(Image.open(s.work / "eval_faces" / n), m @ mesh[:, :2]) for n, mesh in rows])


def gray(path: Path) -> bytes:
    """The file without its colour, with its own luminance quantisation: a quarter smaller, next to no
    loss.
    """
    image = Image.open(path)
    tables = image.quantization
    image.draft("L", image.size)
    out = io.BytesIO()
    image.convert("L").save(out, "JPEG", qtables={0: tables[0]}, optimize=True)
    return out.getvalue()


def pack(paths: list[Path]) -> tuple[NDArray[np.uint8], Ints]:
    """All files in one array and where each begins."""
    data = [gray(p) for p in paths]
    start = np.cumsum([0, *map(len, data)])
    return np.frombuffer(b"".join(data), np.uint8), start.astype(np.int64)


def split(
    s: Settings, thumbs: NDArray[np.float32], source: NDArray[np.str_], rows: Doubles
) -> tuple[Ints, Ints]:
    """Group and fold of every face; look-alikes of evaluation faces are not trained on."""
    c, unit = s.section("dataset"), similar(thumbs)
    group = groups(unit, c["duplicate"])
    fold = folds(source, group, c, s.seed)
    near = (similar(evaluation_thumbs(s, rows)) @ unit.T).max(0) > c["duplicate"]
    fold[np.isin(group, group[near]) & (fold < 2)] = 3
    return group, fold


def geometry(mesh: Doubles, rows: Doubles, shifts: Doubles) -> dict[str, NDArray[Any]]:
    """What the meshes say, as arrays to store."""
    points3, h = np.einsum("pv,nvc->npc", rows, mesh), heads(mesh)
    depth = np.stack([depth_field(m) for m in tqdm(mesh, desc="depth")])
    return {
        "points": points3[..., :2].astype(np.float32), "azimuth": azimuth(points3, mesh,
        h).astype(np.float16),
        "axis": h.axis.astype(np.float32), "unit": h.unit.astype(np.float32), "yaw": h.yaw.astype(np.float32),
        "shifts": shifts.astype(np.float32), "depth": depth.round().clip(-127, 127).astype(np.int8),
    }  # fmt: skip


def main() -> None:
    """Build `dataset.npz` and print what is in it."""
    s = load(parser(__doc__).parse_args())
    rows, shifts = read_map()
    z = np.load(s.work / "meshes.npz")
    names, geo = z["name"], geometry(z["mesh"].astype(np.float64), rows, shifts)
    table = {r["file"]: r for r in csv.DictReader((s.data / "faces" / "faces.csv").open())}
    source = np.array([table[n]["source"] for n in names])
    box = np.array([[float(table[n][k]) for k in ("x0", "y0", "x1", "y1")] for n in names], np.float32)
    images = (Image.open(s.data / "faces" / n).convert("RGB") for n in names)
    pairs = zip(
        tqdm(images, total=len(names), desc="thumbnails"), geo["points"].astype(np.float64), strict=True
    )
    thumbs = np.stack([aligned(im, p) for im, p in pairs])
    group, fold = split(s, thumbs, source, rows)
    relative = z["spread"] / FACE
    fold[(relative > s.section("dataset")["max_spread"]) & (fold < 2)] = 3
    cover = masked(thumbs, source, group, s.seed)
    hidden = cover_mouths(np.zeros((len(names), POINTS), np.int64), cover, source)
    blob, start = pack([s.data / "faces" / n for n in names])
    np.savez_compressed(
        s.work / "dataset.npz", **geo,
        name=names, source=source, box=box, hidden=hidden.astype(np.int8),
        fold=fold.astype(np.int8), group=group,
        spread=relative.astype(np.float32), cover=cover.astype(np.float32), blob=blob, start=start,
    )  # fmt: skip
    report(source, fold, group, np.abs(np.rad2deg(geo["yaw"])), cover, relative)


def report(source: Any, fold: Any, group: Any, yaw: Any, cover: Any, spread: Any) -> None:
    """One line per source."""
    for name in np.unique(source):
        k = source == name
        counts = np.bincount(fold[k], minlength=4)
        print(json.dumps({
            "source": str(name), "faces": int(k.sum()), "train": int(counts[0]), "val": int(counts[1]),
            "held_out": int(counts[2]), "unused": int(counts[3]),
            "covered": round(float((cover[k] > 0.75).mean()), 3),
            "unsure": round(float(((cover[k] > 0.15) & (cover[k] <= 0.75)).mean()), 3),
            "spread": np.quantile(spread[k], [0.5, 0.9, 0.99]).round(4).tolist(),
            "yaw": np.quantile(yaw[k], [0.5, 0.75, 0.9, 0.99]).round(1).tolist(),
        }))  # fmt: skip
    print(len(np.unique(group)), "groups; the largest", int(np.bincount(group).max()))


if __name__ == "__main__":
    main()
