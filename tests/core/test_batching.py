"""Grouping by shape: nothing is lost, nothing mixed, memory bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar_faces.core.batching import Batcher
from sidecar_faces.core.frames import Size
from sidecar_faces.core.types import Batch, FileSignature, ImageFormat, Photo


def photo(number: int, width: int) -> Photo:
    return Photo(f"/{number}.jpg", FileSignature(1, 1), ImageFormat.JPEG, Size(width, 10), 1)


@given(st.lists(st.integers(1, 9), max_size=200), st.integers(1, 8), st.integers(1, 20))
def test_every_photo_leaves_once_with_its_shape(widths: list[int], size: int, waiting: int) -> None:
    batcher = Batcher(lambda p: p.stored, size, waiting)
    batches: list[Batch] = []
    held = 0
    for number, width in enumerate(widths):
        held += 1
        if (batch := batcher.add(photo(number, width))) is not None:
            batches.append(batch)
            held -= len(batch.photos)
        assert held < max(waiting, 1) or waiting == 1
    batches.extend(batcher.flush())
    assert sorted(p.path for b in batches for p in b.photos) == sorted(
        f"/{n}.jpg" for n in range(len(widths))
    )
    assert all(len({p.stored for p in b.photos}) == 1 for b in batches)
    assert all(len(b.photos) <= size for b in batches)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=100), st.integers(1, 10))
def test_no_photo_lingers(arrivals: list[tuple[int, int]], linger: int) -> None:
    batcher = Batcher(lambda p: p.stored, size=8)
    came: dict[str, int] = {}
    now = 0
    for number, (width, pause) in enumerate(arrivals):
        now += pause
        overdue = list(batcher.overdue(now - linger))
        assert all(min(came.pop(p.path) for p in batch.photos) < now - linger for batch in overdue)
        assert all(time >= now - linger for time in came.values())
        came[f"/{number}.jpg"] = now
        if (batch := batcher.add(photo(number, width), now)) is not None:
            for leaving in batch.photos:
                del came[leaving.path]
    assert {p.path for batch in batcher.flush() for p in batch.photos} == set(came)
