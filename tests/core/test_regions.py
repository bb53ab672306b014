"""Areas as text, and which regions are the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar_faces.core.frames import Area, Size, StoredBox, from_area
from sidecar_faces.core.regions import Region, face_area, number, overlaps, same_place

sizes = st.builds(Size, st.integers(1, 100_000), st.integers(1, 100_000))
coordinates = st.floats(-1e5, 2e5)
lengths = st.floats(0, 2e5)


@given(sizes, coordinates, coordinates, lengths, lengths)
def test_an_area_reads_back_from_its_text_as_the_same_number(
    size: Size, x: float, y: float, w: float, h: float
) -> None:
    area = face_area(StoredBox(x, y, w, h), size)
    if area is None:
        return
    for value in (area.x, area.y, area.w, area.h):
        assert float(number(value)) == value
        assert "e" not in number(value)
    assert area.w > 0
    assert area.h > 0
    assert area.x - area.w / 2 >= -1e-8
    assert area.y + area.h / 2 <= 1 + 1e-8


@given(sizes, st.data())
def test_rounding_stays_below_a_thousandth_of_a_pixel(size: Size, data: st.DataObject) -> None:
    w = data.draw(st.floats(1, size.width)) if size.width > 1 else 1.0
    h = data.draw(st.floats(1, size.height)) if size.height > 1 else 1.0
    box = StoredBox(0, 0, w, h)
    area = face_area(box, size)
    assert area is not None
    back = from_area(area, size)
    assert max(abs(back.w - w), abs(back.h - h), abs(back.x), abs(back.y)) <= 2e-3


def test_nothing_is_left_of_a_face_outside_or_without_extent() -> None:
    size = Size(100, 100)
    assert face_area(StoredBox(100, 0, 10, 10), size) is None
    assert face_area(StoredBox(10, 10, 0, 10), size) is None
    assert face_area(StoredBox(10, 10, 1e-9, 10), size) is None


def test_numbers() -> None:
    assert [number(v) for v in (0.0, 1.0, 0.5, 1e-8, 0.33333333)] == [
        "0",
        "1",
        "0.5",
        "0.00000001",
        "0.33333333",
    ]


def test_the_same_place_after_another_program_rounded_it() -> None:
    area = Area(0.123456, 0.2, 0.3, 0.4)
    assert same_place(area, Area(0.12346, 0.2, 0.3, 0.4))
    assert not same_place(area, Area(0.1237, 0.2, 0.3, 0.4))
    assert overlaps(area, area)
    assert not overlaps(area, Area(0.5, 0.2, 0.3, 0.4))


def test_a_name_of_blanks_is_no_name() -> None:
    assert not Region(0, "mwg", None, "  ", "Face", plain=False).is_named
    assert not Region(0, "mwg", None, None, "Face", plain=False).is_named
    assert Region(0, "mwg", None, "Zoë", "Face", plain=False).is_named
