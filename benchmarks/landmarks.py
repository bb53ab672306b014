"""Accuracy and cost of the landmarks, through the whole embedded engine.

    python benchmarks/landmarks.py accuracy DATASET...   error by set, roll and point group; visibility
    python benchmarks/landmarks.py doubt DATASET...      what the landmarks' check of detections changes
    python benchmarks/landmarks.py false DATASET...      the same over many views of photos, and held out
    python benchmarks/landmarks.py cost DATASET          ms per face beside CenterFace; share of the run time

A DATASET is a folder with a gt.json: {"set": NAME, "items": [{"file", "faces": [[x, y, width, height], ...],
"landmarks68": [[[x, y], ...], ...]}, ...]}. Errors are distances over that of the outer eye corners (iBUG 37
and 46), in per cent. Boxes are the detector's own. What is timed alternates, in CPU time of one thread. For
`false` a folder without a gt.json holds photos without a face.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import false_detections
from benchmarks.accuracy import LOWEST_SCORE, report, run, show
from sidecar_faces.cli.engines import engine_settings
from sidecar_faces.config import load
from sidecar_faces.core.frames import Floats
from sidecar_faces.core.landmarks import LAYOUTS
from sidecar_faces.core.types import Photo
from sidecar_faces.engine.base import EngineSettings
from sidecar_faces.engine.centerface import CenterFace
from sidecar_faces.engine.detectors import open_detector
from sidecar_faces.engine.fpenet import CROP, open_estimator
from sidecar_faces.engine.passes import iou
from sidecar_faces.engine.worker import LocalWorker
from sidecar_faces.library.probe import Limits, probe

ROLLS = (0, -45, -30, -15, 15, 30, 45)
FAILED = 0.1
SAME = 0.3
JAW = 17
OCCLUDERS = ("black", "gray", "noise")
BATCH = 16


@dataclass(frozen=True)
class Error:
    """One face: (68,) distances of its points, over that of the outer eye corners."""

    name: str
    points: Floats


def truths(dataset: Path) -> Iterator[tuple[Path, list[Floats]]]:
    """Each photo with the (68, 2) points of its faces; pixel centres lie at one half."""
    for item in json.loads((dataset / "gt.json").read_text())["items"]:
        marked: list[Floats] = [np.array(p, np.float64) + 0.5 for p in item.get("landmarks68") or [] if p]
        yield dataset / item["file"], marked


def rolled(path: Path, marked: list[Floats], degrees: float, out: Path) -> tuple[Path, list[Floats]]:
    """A photo turned clockwise about its middle, as a PNG, and its points."""
    image = Image.open(path).convert("RGB")
    turned = image.rotate(-degrees, expand=True, resample=Image.Resampling.BICUBIC)
    turned.save(out)
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle, other = np.array(image.size) / 2, np.array(turned.size) / 2
    return out, [(points - middle) @ matrix.T + other for points in marked]


def errors(path: Path, marked: Sequence[Floats], worker: LocalWorker) -> list[Error | None]:
    """Per face its error, None where it was not detected."""
    faces = worker.faces(probe(str(path), Limits()))
    boxes = np.array([(f.box.x, f.box.y, f.box.x + f.box.w, f.box.y + f.box.h) for f in faces]).reshape(-1, 4)
    result: list[Error | None] = []
    for truth in marked:
        overlaps = iou(np.concatenate([truth.min(0), truth.max(0)]), boxes)
        best = int(overlaps.argmax()) if len(boxes) else -1
        marks = faces[best].landmarks if best >= 0 and overlaps[best] >= SAME else None
        if marks is None:
            result.append(None)
            continue
        found = np.array([point[:2] for point in marks.keypoints[: len(truth)]])
        distance = np.linalg.norm(found - truth, axis=1)
        result.append(Error(path.name, distance / np.linalg.norm(truth[36] - truth[45])))
    return result


def accuracy(dataset: Path, worker: LocalWorker) -> None:
    """Print the errors of a set at every roll, by group at none, and the failures."""
    with tempfile.TemporaryDirectory() as folder:
        for degrees in ROLLS:
            found = [
                error
                for path, marked in truths(dataset)
                for error in errors(*rolled(path, marked, degrees, Path(folder) / f"{path.stem}.png"), worker)
            ]
            known = [error for error in found if error is not None]
            table = np.stack([error.points for error in known])
            print(
                f"{dataset.name} roll {degrees:3}: {len(known)} of {len(found)} faces  "
                f"median {median(table)}  without the jaw {median(table[:, JAW:])}  "
                f"more than {FAILED:.0%}: {(table.mean(1) > FAILED).sum()}"
            )
            if degrees == 0:
                groups = LAYOUTS["fpenet-68"].groups.items()
                print("  " + "  ".join(f"{name} {median(table[:, list(m)])}" for name, m in groups))
                print("  " + ", ".join(e.name for e in known if e.points.mean() > FAILED))


def median(table: Floats) -> str:
    """The median over faces (rows) of the mean over points, in per cent."""
    return f"{np.median(table.mean(axis=1)):.2%}"


def visibility(dataset: Path, worker_settings: EngineSettings) -> None:
    """Average precision of "occluded" for rectangles painted over landmarks, beside the points left alone."""
    detector, estimator, rng = (
        open_detector(worker_settings),
        open_estimator(worker_settings),
        np.random.default_rng(1),
    )
    for kind in OCCLUDERS:
        scores: list[Floats] = []
        covered: list[Any] = []
        for path, _ in truths(dataset):
            image = np.array(Image.open(path).convert("RGB"))
            found = detector.detect([image])[0]
            sure = found.scores >= worker_settings.min_score
            for box, five in zip(found.boxes[sure], found.points[sure], strict=True):
                (plain,) = estimator.estimate(image, box[None], five[None])
                painted, area = paint(
                    image, plain.points[rng.integers(68)], (box[2:] - box[:2]).max(), kind, rng
                )
                (marks,) = estimator.estimate(painted, box[None], five[None])
                scores.append(1 - marks.visible[:68])
                inside = np.logical_and(plain.points > area[:2], plain.points < area[2:]).all(axis=1)
                covered.append(np.logical_or(inside, plain.visible < 0.5)[:68])
        precision = average_precision(np.concatenate(scores), np.concatenate(covered))
        print(f"{dataset.name} {kind} rectangles: average precision of occluded {precision:.3f}")


def paint(image: Any, at: Floats, side: float, kind: str, rng: np.random.Generator) -> tuple[Any, Floats]:
    """A copy with a rectangle near a point, 15 to 45 % of the face a side; and its x1, y1, x2, y2."""
    half = rng.uniform(0.15, 0.45, 2) * side / 2
    area = np.concatenate([at - half, at + half]).clip(0).round()
    x1, y1, x2, y2 = (int(v) for v in area)
    patch = image[y1:y2, x1:x2]
    colour = {"black": 0, "gray": rng.integers(40, 216), "noise": rng.integers(0, 256, patch.shape)}[kind]
    copy = image.copy()
    copy[y1:y2, x1:x2] = colour
    return copy, area


def average_precision(score: Floats, truth: Any) -> float:
    """The mean precision at each true one, best first."""
    hits = truth[np.argsort(-score, kind="stable")]
    return float((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())


def doubt(datasets: Sequence[Path], settings: EngineSettings, threshold: float) -> None:
    """Detection figures with and without the landmarks' say in the score."""
    for name, some in (("without", replace(settings, landmarks="")), ("with", settings)):
        worker = LocalWorker(replace(some, min_score=LOWEST_SCORE, layout="fpenet-80"))
        for dataset in datasets:
            print(f"{name} the landmarks' say, score {threshold:g}:", end=" ")
            show(report(dataset.name, run(dataset, worker), threshold))


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    """CPU milliseconds of each call; all runs in one thread, so that others on the machine count for less."""
    result = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        result.append((time.process_time() - started) * 1e3)
    return result


def cost(dataset: Path, settings: EngineSettings, repeats: int) -> None:
    """CPU milliseconds per face, of the network and of the whole step, and the step's share of a run."""
    estimator, detector = open_estimator(settings), open_detector(settings)
    assert isinstance(detector, CenterFace)
    crops = np.random.default_rng(1).uniform(0, 255, (BATCH, 1, CROP, CROP)).astype(np.float32)
    frame = np.zeros((480, 640, 3), np.uint8)
    photos = [probe(str(path), Limits()) for path, _ in truths(dataset)]
    workers = {"with": LocalWorker(settings), "without": LocalWorker(replace(settings, landmarks=""))}
    times: dict[str, list[float]] = {name: [] for name in ("network", "CenterFace", *workers)}
    faces = _all_faces(workers["with"], photos)
    for _ in range(repeats):
        times["network"] += timed(lambda: estimator._run(crops), 3)
        times["CenterFace"] += timed(lambda: detector.detect([frame]), 3)
        for name, worker in workers.items():
            times[name] += timed(partial(_all_faces, worker, photos), 1)
    best = {name: min(values) for name, values in times.items()}
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(f"{len(photos)} photos, {faces} faces; batches of {BATCH}, one thread")
    for name, value in (("minimum", best), ("median", middle)):
        step = value["with"] - value["without"]
        print(
            f"{name}: network {value['network'] / BATCH:.2f} ms per face, CenterFace at 640x480 "
            f"{value['CenterFace']:.1f} ms; all photos {value['with']:.0f} ms, of which landmarks "
            f"{step / faces:.2f} ms per face, {step / value['with']:.0%}"
        )


def _all_faces(worker: LocalWorker, photos: Sequence[Photo]) -> int:
    return sum(len(worker.faces(photo)) for photo in photos)


def main() -> None:
    """Parse flags and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("accuracy", "doubt", "false", "cost"))
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET")
    parser.add_argument("--layout", choices=[n for n in LAYOUTS if n != "centerface-5"], default="fpenet-80")
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--without", default="", metavar="REGEX", help="photos that `false` leaves out, by name"
    )
    options = parser.parse_args()
    settings = engine_settings(load({"landmark_layout": options.layout, "min_score": options.min_score}))
    if options.what == "doubt":
        doubt(options.datasets, settings, options.min_score)
    if options.what == "false":
        false_detections.run(options.datasets, settings, options.min_score, options.without)
    for dataset in options.datasets:
        if options.what == "accuracy":
            accuracy(dataset, LocalWorker(settings))
            visibility(dataset, settings)
        elif options.what == "cost":
            cost(dataset, settings, options.repeats)


if __name__ == "__main__":
    main()
