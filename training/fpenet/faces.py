"""Step 0: cut the faces of the photo sets that have 68 points, from CenterFace boxes, in the format of
`faces/`.

Writes `eval_faces/*.png` and `eval_faces.json` (per face: file, set, photo, box, marks (5, 2), points (68,
2), and the crop's x, y, side in photo pixels). The map is fitted on two of the sets (step 2), all are
measured in the last step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from training.fpenet.detector import CenterFace, iou
from training.fpenet.settings import Settings, load, parser

SETS = {
    "landmarks68_pseudo_pytorch": "landmarks",
    "dlib_faces": "detection",
    "landmarks68_pseudo_ytf": "landmarks",
}
CROP, FACE = 200, 105


def cut(image: Image.Image, box: Any) -> tuple[Image.Image, float, float, float]:
    """The crop (longer side of the box = 105 px of 200, edges replicated) and its x, y, side in the photo."""
    x1, y1, x2, y2 = (float(v) for v in box)
    side = max(x2 - x1, y2 - y1) * CROP / FACE
    x, y = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
    pad = int(side) + 2
    wide = np.pad(np.asarray(image.convert("RGB")), ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    area = (x + pad, y + pad, x + pad + side, y + pad + side)
    return Image.fromarray(wide).resize((CROP, CROP), Image.Resampling.BICUBIC, box=area), x, y, side


def match(points: Any, boxes: Any) -> int | None:
    """Index of the detected box that overlaps the points' bounding box best, None below IoU 0.3."""
    p = np.asarray(points, np.float32)
    if not len(boxes):
        return None
    overlaps = iou(np.concatenate([p.min(0), p.max(0)]), boxes)
    best = int(overlaps.argmax())
    return best if overlaps[best] >= 0.3 else None


def photo_faces(
    name: str, parent: str, folder: Path, item: dict[str, Any], detect: CenterFace, out: Path
) -> list[dict[str, Any]]:
    """Cut the annotated faces of one photo; a face that the detector misses is listed with `file` null."""
    image = Image.open(folder / item["file"]).convert("RGB")
    boxes, _, marks = detect(image)
    rows = []
    for i, points in enumerate(item.get("landmarks68") or []):
        row: dict[str, Any] = {
            "set": name,
            "photo": f"{parent}/{name}/{item['file']}",
            "points": points,
            "file": None,
        }
        best = match(points, boxes) if points else None
        if best is not None:
            crop, x, y, side = cut(image, boxes[best])
            row |= {"file": f"{name}_{Path(item['file']).stem}_{i}.png", "crop": [x, y, side]}
            row |= {"box": boxes[best].tolist(), "marks": marks[best].tolist()}
            crop.save(out / row["file"])
        rows.append(row)
    return rows


def run(s: Settings) -> None:
    """All sets."""
    out = s.work / "eval_faces"
    out.mkdir(exist_ok=True)
    detect, rows = CenterFace(Path(s.section("evaluate")["detector"])), []
    for name, parent in SETS.items():
        folder = s.data / parent / name
        for item in tqdm(json.loads((folder / "gt.json").read_text())["items"], desc=name):
            rows += photo_faces(name, parent, folder, item, detect, out)
    (s.work / "eval_faces.json").write_text(json.dumps(rows))
    for name in SETS:
        mine = [r for r in rows if r["set"] == name]
        print(name, len(mine), "faces,", sum(r["file"] is None for r in mine), "missed by the detector")


if __name__ == "__main__":
    run(load(parser(__doc__).parse_args()))
