"""Recall, precision and average precision of the face detector on sets of photos with known boxes.

    python benchmarks/accuracy.py DATASET...                      at the default detail
    python benchmarks/accuracy.py --detail fast --json DATASET    for scripts

A DATASET is a folder with a gt.json: {"set": NAME, "items": [{"file", "faces": [[x, y, width, height], ...],
"expected_faces"}, ...]}. Faces of a size class that a detection may match, but need not, are those of the
other classes: a detection that matches one of them counts neither for nor against the class.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidecar_faces.config import load
from sidecar_faces.core.frames import Floats
from sidecar_faces.core.types import Batch, FaceResult
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.passes import PLANS, iou
from sidecar_faces.engine.worker import LocalWorker
from sidecar_faces.library.probe import Limits, probe

IOUS = (0.3, 0.5)
CLASSES = ((0, 1_000_000), (24, 1_000_000), (0, 12), (12, 24), (24, 48), (48, 96), (96, 1_000_000))
"""Ranges of a face's shorter side, in pixels of the photo."""
LOWEST_SCORE = 0.05
"""Average precision needs the detections below the threshold too."""


@dataclass(frozen=True)
class Scored:
    """One photo: detections (boxes x1, y1, x2, y2 and scores, best first) and the true boxes."""

    boxes: Floats
    scores: Floats
    truth: Floats
    expected: int | None


@dataclass(frozen=True)
class Line:
    """The figures of one size class at one IoU."""

    smallest: int
    largest: int
    iou: float
    faces: int
    found: int
    false: int
    recall: float
    precision: float
    average_precision: float


def matches(photo: Scored, limit: float) -> list[int]:
    """Per detection, best first, the true face that it finds, or -1; each face is found once."""
    free, result = np.ones(len(photo.truth), dtype=bool), []
    for box in photo.boxes:
        overlaps = np.where(free, iou(box, photo.truth), -1.0) if free.size else np.array([-1.0])
        best = int(overlaps.argmax())
        result.append(best if overlaps[best] >= limit else -1)
        if overlaps[best] >= limit:
            free[best] = False
    return result


def figures(photos: Sequence[Scored], sides: tuple[int, int], limit: float, threshold: float) -> Line:
    """Recall, precision and average precision of one size class."""
    scores: list[float] = []
    hits: list[bool] = []
    faces = 0
    for photo in photos:
        in_class = _in_class(photo.truth, sides)
        detected = _in_class(photo.boxes, sides)
        faces += int(in_class.sum())
        for number, match in enumerate(matches(photo, limit)):
            if (match >= 0 and not in_class[match]) or (match < 0 and not detected[number]):
                continue
            scores.append(float(photo.scores[number]))
            hits.append(match >= 0)
    order = np.argsort(-np.array(scores), kind="stable")
    hit = np.array(hits, dtype=bool)[order]
    above = int((np.array(scores) >= threshold).sum())
    found = int(hit[:above].sum())
    return Line(
        *sides,
        iou=limit,
        faces=faces,
        found=found,
        false=above - found,
        recall=found / faces if faces else float("nan"),
        precision=found / above if above else float("nan"),
        average_precision=average_precision(hit, faces),
    )


def _in_class(boxes: Floats, sides: tuple[int, int]) -> Any:
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=1e9)
    return (shorter >= sides[0]) & (shorter < sides[1])


def average_precision(hit: Any, faces: int) -> float:
    """Area under precision (its running maximum from the right) over recall; `hit` is best first."""
    if not faces:
        return float("nan")
    true = np.cumsum(hit)
    precision = true / np.arange(1, len(hit) + 1)
    smooth = np.maximum.accumulate(precision[::-1])[::-1]
    return float((smooth * hit).sum() / faces)


def run(dataset: Path, worker: LocalWorker) -> list[Scored]:
    """Detect the faces of every photo of a set."""
    photos = []
    for item in json.loads((dataset / "gt.json").read_text())["items"]:
        (result,) = worker.process(Batch((probe(str(dataset / item["file"]), Limits()),)))
        photos.append(_scored(result, item))
    return photos


def _scored(result: FaceResult, item: dict[str, Any]) -> Scored:
    if result.failure is not None:
        raise SystemExit(f"{result.photo.path} {result.failure.reason}")
    found = sorted(result.faces, key=lambda face: -face.score)
    boxes = [(f.box.x, f.box.y, f.box.x + f.box.w, f.box.y + f.box.h) for f in found]
    truth = [(x, y, x + w, y + h) for x, y, w, h in item["faces"]]
    return Scored(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([face.score for face in found]),
        np.array(truth, dtype=np.float64).reshape(-1, 4),
        item.get("expected_faces"),
    )


def report(name: str, photos: Sequence[Scored], threshold: float) -> dict[str, Any]:
    """All figures of a set."""
    found = [int((photo.scores >= threshold).sum()) for photo in photos]
    result: dict[str, Any] = {"set": name, "photos": len(photos), "detections": sum(found)}
    if any(photo.expected is not None for photo in photos):
        pairs = [
            (n, photo.expected) for n, photo in zip(found, photos, strict=True) if photo.expected is not None
        ]
        result["same_count"] = sum(n == expected for n, expected in pairs)
        result["too_few"] = sum(max(0, expected - n) for n, expected in pairs)
        result["too_many"] = sum(max(0, n - expected) for n, expected in pairs)
    if any(len(photo.truth) for photo in photos):
        lines = [figures(photos, sides, limit, threshold) for sides in CLASSES for limit in IOUS]
        result["figures"] = [asdict(line) for line in lines if line.faces]
    return result


def show(result: dict[str, Any]) -> None:
    """The figures as a table."""
    counts = ", ".join(
        f"{value} {key.replace('_', ' ')}" for key, value in result.items() if isinstance(value, int)
    )
    print(f"{result['set']}: {counts}")
    for line in result.get("figures", ()):
        largest = f"..{line['largest']}" if line["largest"] < CLASSES[0][1] else "+"
        print(
            f"  side {line['smallest']:3}{largest:5} IoU {line['iou']}  {line['faces']:4} faces  "
            f"recall {line['recall']:.3f}  precision {line['precision']:.3f}  "
            f"AP {line['average_precision']:.3f}  ({line['found']} found, {line['false']} false)"
        )


def main() -> None:
    """Parse flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET")
    parser.add_argument("--detail", choices=sorted(PLANS), default="normal")
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("--min-face", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = EngineSettings(str(load({}).models_dir), min_face=options.min_face, detail=options.detail)
    worker = LocalWorker(replace(wanted, min_score=LOWEST_SCORE))
    results = [report(path.name, run(path, worker), options.min_score) for path in options.datasets]
    if options.json:
        json.dump(results, sys.stdout, indent=2)
    else:
        for result in results:
            show(result)


if __name__ == "__main__":
    main()
