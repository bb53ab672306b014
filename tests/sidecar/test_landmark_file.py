"""The landmark file: its JSON Schema, and a strict reader that agrees with it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar_faces.core.frames import Area, Size, StoredBox
from sidecar_faces.core.merge import FaceState, Known
from sidecar_faces.core.types import FileSignature, Landmarks
from sidecar_faces.errors import SidecarError
from sidecar_faces.sidecar.landmark_file import KnownFace, LandmarkFile, SidecarRecord, dump, load
from tests.sidecar.conftest import BOX, OTHER, Library

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "landmark-file.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

floats = st.floats(-1e6, 1e6)
shapes = st.tuples(floats, floats, floats, floats)
marks = st.builds(
    Landmarks,
    st.sampled_from(["centerface-5", "fpenet-80"]),
    st.lists(st.tuples(floats, floats, floats), max_size=5).map(tuple),
    st.lists(st.integers(0, 2), max_size=5).map(tuple),
    floats,
    st.tuples(floats, floats),
)
digests = st.sampled_from(["", "0" * 64])
records = st.builds(
    SidecarRecord, st.text(), st.booleans(), st.sampled_from(["", "list", "block"]), digests, digests, digests
)
faces = st.builds(
    KnownFace,
    st.integers(1, 10**6),
    st.sampled_from(FaceState),
    floats,
    shapes.map(lambda s: StoredBox(*s)),
    shapes.map(lambda s: Area(*s)),
    st.none() | marks,
)
files = st.builds(
    LandmarkFile,
    st.binary(max_size=30).map(os.fsdecode),
    st.builds(Size, st.integers(1, 10**5), st.integers(1, 10**5)),
    st.integers(1, 8),
    st.builds(FileSignature, st.integers(0, 2**60), st.integers(-(2**62), 2**62)),
    st.text(),
    st.none() | records,
    st.lists(faces, max_size=4, unique_by=lambda face: face.id).map(tuple),
    st.lists(
        st.builds(lambda i, s: Known(i, Area(*s), FaceState.PENDING), st.integers(1, 99), shapes), max_size=2
    ).map(tuple),
)


@given(files)
def test_it_reads_back_and_is_as_its_schema_says(file: LandmarkFile) -> None:
    data = dump(file)
    VALIDATOR.validate(json.loads(data))
    assert load(data) == file
    assert dump(load(data)) == data
    assert data.isascii()


def test_a_real_one_is_as_the_schema_says(library: Library) -> None:
    library.add("a.jpg")
    library.write("a.jpg", BOX, OTHER)
    VALIDATOR.validate(json.loads((library.root / "a.jpg.faces.json").read_bytes()))


def good() -> dict[str, Any]:
    return {
        "schema": "sidecar-faces/1",
        "photo": {"file_name": "a", "width": 4, "height": 3, "orientation": 1, "size": 9, "mtime_ns": 8},
        "models": {"fingerprint": "m"},
        "sidecar": {
            "file_name": "a.xmp",
            "created": True,
            "container": "block",
            "before": "",
            "after": "0" * 64,
            "pending": "",
        },
        "faces": [
            {
                "id": 1,
                "state": "written",
                "score": 0.5,
                "bbox": [0, 0, 1, 1],
                "region": [0.5, 0.5, 0.1, 0.1],
                "rotation": 1,
                "center": [0, 0],
                "layout": "centerface-5",
                "keypoints": [[1, 2, 0.5]],
            }
        ],
    }


BAD: list[tuple[tuple[str | int, ...], object]] = [
    (("schema",), "sidecar-faces/2"),
    (("photo",), []),
    (("photo", "width"), 0),
    (("photo", "width"), "4"),
    (("photo", "width"), True),
    (("photo", "orientation"), 9),
    (("photo", "size"), -1),
    (("photo", "file_name"), None),
    (("photo", "extra"), 1),
    (("models",), "m"),
    (("models", "fingerprint"), 1),
    (("sidecar", "created"), 1),
    (("sidecar", "container"), "all"),
    (("sidecar", "after"), 5),
    (("sidecar",), None),
    (("faces",), {}),
    (("faces", 0), 5),
    (("faces", 0, "id"), 0),
    (("faces", 0, "id"), 1.5),
    (("faces", 0, "state"), "lost"),
    (("faces", 0, "score"), "high"),
    (("faces", 0, "bbox"), [1, 2, 3]),
    (("faces", 0, "region"), [1, 2, 3, None]),
    (("faces", 0, "keypoints"), [[1, 2]]),
    (("faces", 0, "center"), [1]),
    (("faces", 0, "rotation"), None),
    (("faces", 0, "visibility"), ["2"]),
    (("faces", 0, "theirs"), 1),
    (("leaving",), [{"id": 1}]),
    (("theirs",), "a note"),
]


@pytest.mark.parametrize(("where", "value"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_reader_and_schema_refuse_the_same(where: tuple[str | int, ...], value: object) -> None:
    raw: Any = good()
    load(json.dumps(raw).encode())
    VALIDATOR.validate(raw)
    node = raw
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(raw)
    with pytest.raises(SidecarError):
        load(json.dumps(raw).encode())


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{", b"\xff\xfe{}", b"[" * 200_000, b'{"schema": NaN}']
)
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(SidecarError):
        load(data)


def test_landmarks_without_a_layout_mean_nothing() -> None:
    raw = good()
    del raw["faces"][0]["layout"]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(raw)
    with pytest.raises(SidecarError, match="unknown: center"):
        load(json.dumps(raw).encode())


def test_ids_are_unique_and_numbers_finite() -> None:
    raw = good()
    raw["faces"] *= 2
    with pytest.raises(SidecarError, match="ids"):
        load(json.dumps(raw).encode())
    for text in (b"1e999", b"NaN", b"Infinity"):
        with pytest.raises(SidecarError):
            load(json.dumps(good()).encode().replace(b'"score": 0.5', b'"score": ' + text))
