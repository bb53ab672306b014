"""COCO files: what they say, that other tools read them, and that writing one takes no memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from nvidia.dali import fn, pipeline_def
from PIL import Image

from sidecar_faces.core.coco import CocoWriter, category, keypoint_names, skeleton
from sidecar_faces.core.frames import Size, StoredBox
from sidecar_faces.core.landmarks import LAYOUTS
from sidecar_faces.core.types import Landmarks
from sidecar_faces.engine.dali_graphs import decode_image

Face = tuple[StoredBox, float, Landmarks | None]


def marks(layout: str, x: float = 0.0, visibility: tuple[int, ...] = ()) -> Landmarks:
    count = LAYOUTS[layout].count
    points = tuple((x + 10 * np.cos(i) + 20, 10 * np.sin(i) + 20.5, 0.9) for i in range(count))
    return Landmarks(layout, points, visibility, rotation=-3.5, center=(x + 20, 20.0))


def written(photos: list[tuple[str, list[Face]]], **options: bool) -> dict[str, Any]:
    out, spool = io.StringIO(), io.StringIO()
    writer = CocoWriter(out, spool, {"description": "test"}, **options)
    for name, faces in photos:
        writer.add(name, Size(60, 40), 6, faces)
    writer.close()
    document: dict[str, Any] = json.loads(out.getvalue())
    return document


PHOTOS: list[tuple[str, list[Face]]] = [
    ("a.jpg", [(StoredBox(10, 8, 20, 24), 0.9, marks("fpenet-80")), (StoredBox(1, 2, 3, 4), 0.5, None)]),
    ('sub/ü "q".jpg', []),
    ("c.jpg", [(StoredBox(0.5, 0.25, 30, 30), 1.0, marks("fpenet-80", 3, (2,) * 79 + (1,)))]),
]


def test_every_face_is_an_annotation_of_its_image() -> None:
    document = written(PHOTOS)
    assert [i["file_name"] for i in document["images"]] == [name for name, _ in PHOTOS]
    assert document["images"][0] == {
        "id": 1,
        "file_name": "a.jpg",
        "width": 60,
        "height": 40,
        "orientation": 6,
    }
    first, second, third = document["annotations"]
    assert (first["image_id"], second["image_id"], third["image_id"]) == (1, 1, 3)
    assert first["bbox"] == [10, 8, 20, 24] and first["area"] == 480 and first["iscrowd"] == 0
    assert (first["score"], first["rotation"], first["center"]) == (0.9, -3.5, [20, 20])
    assert first["num_keypoints"] == 80 and len(first["keypoints"]) == 240
    assert first["keypoints"][:3] == [30, 20.5, 2] and third["keypoints"][-1] == 1
    assert "keypoints" not in second and "segmentation" not in first and "pose" not in first
    ids = [a["id"] for a in document["annotations"]]
    assert ids == [1, 2, 3]


def test_the_heads_pose_is_given_where_it_is_known() -> None:
    turned = replace(marks("fpenet-80"), pose=(20.0, -5.0, 3.0))
    (annotation,) = written([("a.jpg", [(StoredBox(1, 1, 9, 9), 0.7, turned)])])["annotations"]
    assert annotation["pose"] == [20, -5, 3]


@pytest.mark.parametrize("layout", ["", *LAYOUTS])
def test_categories_name_points_and_join_them(layout: str) -> None:
    made = category(layout)
    assert (made["name"], made["supercategory"]) == ("face", "person")
    if layout:
        count = LAYOUTS[layout].count
        assert len(set(made["keypoints"])) == len(made["keypoints"]) == count
        assert all(1 <= point <= count for pair in made["skeleton"] for point in pair)
        document = written([("a.jpg", [(StoredBox(1, 1, 9, 9), 0.7, marks(layout))])])
        assert document["annotations"][0]["category_id"] == document["categories"][0]["id"] == made["id"]


def test_names_and_skeletons_follow_the_groups() -> None:
    names = keypoint_names(LAYOUTS["fpenet-104"])
    assert (names[0], names[27], names[68], names[103]) == (
        "chin_1",
        "nose_28",
        "pupils_69",
        "eye_extras_104",
    )
    assert keypoint_names(LAYOUTS["centerface-5"])[2] == "nose"
    pairs = skeleton(LAYOUTS["fpenet-68"])
    assert [1, 2] in pairs and [42, 37] in pairs and [17, 18] not in pairs and len(pairs) == 63
    assert [72, 69] in skeleton(LAYOUTS["fpenet-80"])


@pytest.mark.parametrize("layout", ["", *LAYOUTS])
def test_the_outline_goes_round_the_face(layout: str) -> None:
    face = (StoredBox(1, 2, 30, 20), 0.7, marks(layout) if layout else None)
    (annotation,) = written([("a.jpg", [face])], outline=True)["annotations"]
    ((*polygon,),) = annotation["segmentation"]
    assert len(polygon) == {"": 8, "centerface-5": 8}.get(layout, 54)
    if layout == "fpenet-68":
        assert polygon[:2] == [30, 20.5]


def test_an_empty_file_is_a_coco_file() -> None:
    document = written([])
    assert document["images"] == document["annotations"] == []
    assert document["categories"][0]["name"] == "face"


@pytest.mark.parametrize("outline", [False, True])
def test_coco_tools_read_and_score_it(tmp_path: Path, outline: bool) -> None:
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(written(PHOTOS, outline=outline)))
    truth = COCO(str(file))
    assert sorted(truth.getImgIds()) == [1, 2, 3] and len(truth.getAnnIds(imgIds=[1])) == 2
    found = truth.loadRes(
        [{k: a[k] for k in ("image_id", "category_id", "bbox", "score")} for a in truth.anns.values()]
    )
    evaluation = COCOeval_faster(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_dali_reads_it_with_its_photos(tmp_path: Path) -> None:
    for name, _ in PHOTOS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), "gray").save(tmp_path / name)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(written(PHOTOS, outline=True)))

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        photos, boxes, labels, ids = fn.readers.coco(
            file_root=str(tmp_path), annotations_file=str(file), ltrb=False, image_ids=True, skip_empty=False
        )
        return decode_image(photos, device="cpu", adjust_orientation=False), boxes, labels, ids

    made = pipeline()
    made.build()
    seen = {}
    for _ in PHOTOS:
        image, boxes, labels, ids = (tensors.at(0) for tensors in made.run())
        assert image.shape == (40, 60, 3) and len(labels) == len(boxes)
        seen[int(ids.item())] = boxes.tolist()
    assert seen[1] == [[10, 8, 20, 24], [1, 2, 3, 4]] and seen[2] == [] and seen[3] == [[0.5, 0.25, 30, 30]]


def test_memory_does_not_grow_with_the_library(tmp_path: Path) -> None:
    face: Face = (StoredBox(10, 8, 20, 24), 0.9, marks("fpenet-80"))

    def peak(count: int) -> int:
        with open(tmp_path / "out", "w") as out, open(tmp_path / "spool", "w+") as spool:
            tracemalloc.start()
            writer = CocoWriter(out, spool, {})
            for number in range(count):
                writer.add(f"{number}.jpg", Size(60, 40), 1, [face, face])
            writer.close()
            _, high = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return high

    peak(200)
    small, large = peak(200), peak(2000)
    assert large < small + 3 * (1 << 20)  # one block of the spool; 2,000 photos are 9 MiB of text
    assert len(json.loads((tmp_path / "out").read_text())["annotations"]) == 4000
