"""The merge: what a person wrote stands, what a person removed stays away, and nothing is written twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar_faces.core.frames import Area, area_iou
from sidecar_faces.core.merge import FaceState, Known, MergePlan, merge, recognise
from sidecar_faces.core.regions import Region, overlaps, same_place

WRITTEN, KEPT, REJECTED, PENDING = FaceState.WRITTEN, FaceState.KEPT, FaceState.REJECTED, FaceState.PENDING

grid = st.integers(1, 19).map(lambda n: round(n / 20, 8))
lengths = st.sampled_from([0.05, 0.08, 0.1, 0.2])
jitter = st.sampled_from([0.0, 0.0, 0.00002, -0.00003, 0.004, 0.01])


@st.composite
def areas(draw: st.DrawFn) -> Area:
    """Areas on a grid, some of them a little off, so that many coincide and many overlap."""
    x, y, w, h = draw(grid), draw(grid), draw(lengths), draw(lengths)
    return Area(round(x + draw(jitter), 8), y, w, h)


def plain(area: Area) -> Region:
    return Region(0, "mwg", area, None, "Face", plain=True)


def named(area: Area | None, name: str = "Ada") -> Region:
    return Region(0, "mwg", area, name, "Face", plain=False)


others = st.one_of(
    areas().map(plain),
    st.builds(named, areas()),
    st.just(named(None)),
    st.builds(lambda a: Region(0, "mwg", a, None, "Pet", plain=False), areas()),
)
photo_regions = st.builds(lambda a: Region(0, "mp", a, "Bo", None, plain=False), areas())


def number(regions: Sequence[Region]) -> list[Region]:
    ordered = [r for r in regions if r.schema == "mwg"] + [r for r in regions if r.schema != "mwg"]
    return [replace(region, index=i) for i, region in enumerate(ordered)]


def apply(regions: Sequence[Region], plan: MergePlan) -> list[Region]:
    """The regions after the plan is carried out, as `splice` does."""
    left = [region for region in regions if region.index not in plan.remove]
    mwg = [region for region in left if region.schema == "mwg"]
    return number([*mwg, *map(plain, plan.add), *(region for region in left if region.schema != "mwg")])


def remember(plan: MergePlan) -> list[Known]:
    return [Known(d.id, d.area, d.state) for d in plan.decisions]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Region], list[Known]]:
    """A sidecar and a memory as some runs and some edits by people leave them."""
    regions = number(draw(st.lists(st.one_of(others, photo_regions), max_size=5)))
    known: list[Known] = []
    for _ in range(draw(st.integers(0, 3))):
        plan = merge(regions, known, draw(st.lists(areas(), max_size=5)), restore=draw(st.booleans()))
        regions, known = apply(regions, plan), remember(plan)
        for i in draw(st.sets(st.integers(0, max(0, len(regions) - 1)), max_size=2)):
            if i < len(regions):
                edit = draw(st.sampled_from(["remove", "name", "nothing"]))
                if edit == "name":
                    regions[i] = replace(regions[i], name="Zed", plain=False)
                elif edit == "remove":
                    regions[i] = replace(regions[i], index=-1)
        regions = number([*(r for r in regions if r.index >= 0), *draw(st.lists(others, max_size=1))])
    if draw(st.booleans()):  # killed in the middle of a write
        known = [replace(k, state=PENDING) if k.state is WRITTEN else k for k in known]
    return regions, known


@settings(max_examples=2000, deadline=None)
@given(histories(), st.lists(areas(), max_size=6), st.booleans())
def test_generated_merges(
    history: tuple[list[Region], list[Known]], found: list[Area], restore: bool
) -> None:
    regions, known = history
    plan = merge(regions, known, found, restore=restore)
    ours = recognise(regions, known)
    after = apply(regions, plan)

    # no region of a person is removed; those of ours are plain
    assert set(plan.remove) <= set(ours)
    assert all(regions[i].plain and not regions[i].is_named for i in plan.remove)
    # nothing is added where somebody else's region stands, or twice
    foreign = [r.area for r in regions if r.index not in ours and r.area]
    assert not any(overlaps(area, other) for area in plan.add for other in foreign)
    assert len(set(plan.add)) == len(plan.add)
    # named first: none of ours stands before a named one
    last_named = max((r.index for r in after if r.schema == "mwg" and r.is_named), default=-1)
    memory = remember(plan)
    assert all(index > last_named for index in recognise(after, memory))
    # ids are unique, every written face stands, states are final
    assert len({d.id for d in plan.decisions}) == len(plan.decisions)
    written = [d.area for d in plan.decisions if d.state is WRITTEN]
    assert all(any(r.plain and r.area and same_place(r.area, area) for r in after) for area in written)
    assert not any(d.state is PENDING for d in plan.decisions)
    # every face found has one fate, unless it was found twice or is remembered as rejected
    for area in found:
        fates = [d for d in plan.decisions if overlaps(d.area, area) or area_iou(d.area, area) > 0.3]
        assert fates or any(overlaps(area, other) for other in foreign)
    # the second merge changes nothing
    again = merge(after, memory, found)
    assert not again.changes_sidecar
    assert [(d.id, d.area, d.state) for d in again.decisions] == [
        (d.id, d.area, d.state) for d in plan.decisions
    ]


@settings(max_examples=500, deadline=None)
@given(histories(), st.lists(areas(), max_size=6))
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
    history: tuple[list[Region], list[Known]], found: list[Area]
) -> None:
    regions, known = history
    plan = merge(regions, known, found)
    ours = recognise(regions, known)
    begun = [Known(d.id, d.area, PENDING if d.state is WRITTEN else d.state) for d in plan.decisions]
    begun += [replace(known[ours[i]], state=PENDING) for i in plan.remove]
    wanted = apply(regions, plan)
    for stands in (regions, wanted):
        resumed = apply(stands, merge(stands, begun, found))
        assert sorted(map(repr, (r.area for r in resumed if r.plain))) == sorted(
            map(repr, (r.area for r in wanted if r.plain))
        )


FACE = Area(0.5, 0.5, 0.2, 0.2)
NEAR = Area(0.51, 0.5, 0.2, 0.2)
ELSEWHERE = Area(0.1, 0.1, 0.1, 0.1)


def states(plan: MergePlan) -> list[FaceState]:
    return [d.state for d in plan.decisions]


def test_an_empty_sidecar_gets_every_face() -> None:
    plan = merge([], [], [FACE, ELSEWHERE])
    assert plan.add == (FACE, ELSEWHERE)
    assert states(plan) == [WRITTEN, WRITTEN]
    assert [d.id for d in plan.decisions] == [1, 2]
    assert plan.count(WRITTEN) == 2


def test_a_person_s_region_is_kept_and_nothing_added() -> None:
    plan = merge(number([named(NEAR)]), [], [FACE])
    assert not plan.changes_sidecar
    assert states(plan) == [KEPT]


def test_a_region_of_ours_that_someone_named_is_theirs() -> None:
    plan = merge(number([named(FACE)]), [Known(1, FACE, WRITTEN)], [FACE])
    assert not plan.changes_sidecar
    assert states(plan) == [KEPT]
    assert plan.ours == ()


def test_a_region_that_vanished_is_not_written_again_until_restore() -> None:
    known = [Known(1, FACE, WRITTEN)]
    plan = merge([], known, [NEAR])
    assert not plan.changes_sidecar
    assert states(plan) == [REJECTED]
    assert plan.decisions[0].area == FACE
    assert states(merge([], remember(plan), [])) == [REJECTED]
    restored = merge([], remember(plan), [NEAR], restore=True)
    assert restored.add == (NEAR,)
    assert states(restored) == [WRITTEN]


def test_a_face_kept_for_a_region_that_vanished_is_rejected_with_it() -> None:
    plan = merge([], [Known(4, FACE, KEPT)], [FACE])
    assert not plan.changes_sidecar
    assert states(plan) == [REJECTED]


def test_a_pending_face_that_does_not_stand_was_never_written() -> None:
    plan = merge([], [Known(1, FACE, PENDING)], [FACE])
    assert plan.add == (FACE,)


def test_a_face_that_is_no_longer_found_goes() -> None:
    plan = merge(number([plain(FACE)]), [Known(7, FACE, WRITTEN)], [])
    assert plan.remove == (0,)
    assert plan.dropped == (Known(7, FACE, WRITTEN),)
    assert plan.decisions == ()


def test_a_face_that_moved_keeps_its_id() -> None:
    moved = Area(0.53, 0.5, 0.2, 0.2)
    plan = merge(number([plain(FACE)]), [Known(7, FACE, WRITTEN)], [ELSEWHERE, moved])
    assert plan.remove == (0,)
    assert set(plan.add) == {ELSEWHERE, moved}
    assert {d.area: d.id for d in plan.decisions} == {moved: 7, ELSEWHERE: 8}


def test_a_face_found_again_within_rounding_is_not_written_again() -> None:
    again = Area(0.50000003, 0.5, 0.2, 0.2)
    plan = merge(number([plain(FACE)]), [Known(1, FACE, WRITTEN)], [again])
    assert not plan.changes_sidecar
    assert plan.decisions[0].area == FACE


def test_another_program_s_rounding_does_not_hide_ours() -> None:
    rounded = Area(0.50004, 0.49996, 0.2, 0.2)
    plan = merge(number([plain(rounded)]), [Known(1, FACE, WRITTEN)], [FACE])
    assert plan.ours == (0,)
    assert not plan.changes_sidecar


def test_ours_move_behind_a_region_that_somebody_named_later() -> None:
    regions = number([plain(FACE), named(ELSEWHERE)])
    plan = merge(regions, [Known(1, FACE, WRITTEN)], [FACE, ELSEWHERE])
    assert plan.remove == (0,)
    assert plan.add == (FACE,)
    assert states(plan) == [WRITTEN, KEPT]


def test_one_face_found_twice_is_one_face() -> None:
    plan = merge([], [], [FACE, NEAR])
    assert plan.add == (FACE,)
    assert states(plan) == [WRITTEN]


def test_a_standing_region_wins_over_the_memory_of_a_rejected_one_beside() -> None:
    known = [Known(1, Area(0.5, 0.5, 0.2, 0.2), REJECTED), Known(2, Area(0.56, 0.5, 0.2, 0.2), WRITTEN)]
    regions = number([plain(known[1].area)])
    between = Area(0.54, 0.5, 0.2, 0.2)
    assert overlaps(between, known[0].area)
    plan = merge(regions, known, [between])
    assert plan.add == (between,)
    assert [(d.id, d.state) for d in plan.decisions] == [(1, REJECTED), (2, WRITTEN)]
    assert not merge(apply(regions, plan), remember(plan), [between]).changes_sidecar


def test_a_plain_region_that_we_do_not_know_is_somebody_s() -> None:
    plan = merge(number([plain(FACE)]), [], [FACE])
    assert plan.ours == ()
    assert states(plan) == [KEPT]
