"""Editing by splicing: what was put in comes out exactly, and nothing of anybody else is touched."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from sidecar_faces.core.frames import Area, Size
from sidecar_faces.errors import SidecarError
from sidecar_faces.sidecar.document import EMPTY, Document, digest
from tests.sidecar.packets import NAMESPACES, RDF, Foreign, Style, Writer, area_strategy, packets

SIZE = Size(640, 480)


def nodes_that_are_not_ours(data: bytes, ours: list[Area]) -> list[tuple[str, ...]]:
    """Every element, attribute, text, comment and PI, by a reading of its own; our regions left out."""
    root = etree.fromstring(data)
    rs, area = NAMESPACES["mwg-rs"], NAMESPACES["stArea"]
    wanted = [tuple(f"{v:.8f}" for v in (a.x, a.y, a.w, a.h)) for a in ours]
    for li in root.findall(f".//{{{RDF}}}li"):
        found = li.find(f"{{{rs}}}Area")
        if found is None or li.find(f"{{{rs}}}Name") is not None or len(li) != 2:
            continue
        values = tuple(f"{float(found.findtext(f'{{{area}}}{k}') or 0):.8f}" for k in "xywh")
        if values in wanted:
            wanted.remove(values)
            parent = li.getparent()
            assert parent is not None
            parent.remove(li)
    rows = []
    for node in root.iter():
        if isinstance(node.tag, str):
            attributes = [f"{key!s}={value!s}" for key, value in sorted(node.attrib.items())]
            rows.append((node.tag, (node.text or "").strip(), *attributes))
        else:
            rows.append((str(type(node)), node.text or ""))
    return rows


@settings(max_examples=1500, deadline=None)
@given(packets(), st.lists(area_strategy, min_size=1, max_size=4, unique=True))
def test_put_in_and_taken_out_leaves_the_same_bytes(
    packet: tuple[bytes, list[Foreign]], areas: list[Area]
) -> None:
    data, foreign = packet
    document = Document.read(data)
    assert [r.area for r in document.regions] == [f.area for f in foreign]
    assert [r.name for r in document.regions] == [f.name for f in foreign]

    edited = document.edit((), areas, SIZE)
    after = Document.read(edited.data)
    assert [r.area for r in after.regions] == [*(f.area for f in foreign), *areas]
    assert all(region.plain for region in after.regions[len(foreign) :])
    before_nodes = nodes_that_are_not_ours(data, [])
    after_nodes = nodes_that_are_not_ours(edited.data, areas)
    assert not Counter(before_nodes) - Counter(after_nodes)

    ours = range(len(foreign), len(foreign) + len(areas))
    back = after.edit(list(ours), (), SIZE, edited.container, digest(data))
    assert back.data == data


@settings(max_examples=300, deadline=None)
@given(packets(), st.lists(area_strategy, min_size=2, max_size=5, unique=True), st.data())
def test_changes_in_several_steps_come_out_too(
    packet: tuple[bytes, list[Foreign]], areas: list[Area], data: st.DataObject
) -> None:
    original, foreign = packet
    first = Document.read(original).edit((), areas, SIZE)
    gone = data.draw(st.sets(st.integers(0, len(areas) - 1)))
    more = [Area(0.125, 0.125, 0.0625, 0.0625)] if data.draw(st.booleans()) else []
    indexes = [len(foreign) + i for i in sorted(gone)]
    second = Document.read(first.data).edit(indexes, more, SIZE, first.container, digest(original))
    left = len(areas) - len(gone) + len(more)
    if left == 0:
        assert second.data == original
        return
    rest = [len(foreign) + i for i in range(left)]
    last = Document.read(second.data).edit(rest, (), SIZE, second.container, digest(original))
    assert last.data == original


def test_what_somebody_added_to_our_container_stays() -> None:
    data = Writer(Style()).packet(None, block=False)
    edited = Document.read(data).edit((), [Area(0.5, 0.5, 0.2, 0.2)], SIZE)
    assert edited.container == "block"
    theirs = b'<odd:Theirs xmlns:odd="http://example.org/odd/">1</odd:Theirs>'
    added = edited.data.replace(b"</mwg-rs:RegionList>", b"</mwg-rs:RegionList>" + theirs)
    back = Document.read(added).edit([0], (), SIZE, "block", digest(data))
    assert theirs in back.data
    assert b"stArea:x" not in back.data
    assert not Document.read(back.data).regions


@pytest.mark.parametrize(
    "place",
    [b"<mwg-rs:RegionList>", b"<rdf:Bag>", b"</rdf:Bag>", b'<mwg-rs:Regions rdf:parseType="Resource">'],
)
def test_a_comment_in_our_container_stays(place: bytes) -> None:
    edited = Document.read(EMPTY).edit((), [Area(0.5, 0.5, 0.2, 0.2)], SIZE)
    noted = edited.data.replace(place, place + b"<!-- mine -->", 1)
    back = Document.read(noted).edit([0], (), SIZE, edited.container, digest(EMPTY))
    assert b"<!-- mine -->" in back.data
    assert not Document.read(back.data).regions


def test_a_region_with_a_comment_in_it_is_not_taken_for_ours() -> None:
    edited = Document.read(EMPTY).edit((), [Area(0.5, 0.5, 0.2, 0.2)], SIZE)
    noted = edited.data.replace(b"<mwg-rs:Type>", b"<!-- who? --><mwg-rs:Type>")
    assert not Document.read(noted).regions[0].plain


def test_prefixes_that_mean_something_else_are_left_alone() -> None:
    text = (
        f'<RDF xmlns="{RDF}"><Description xmlns:rdf="http://example.org/rdf" rdf:x="1"'
        f' xmlns:stArea="{NAMESPACES["mwg-rs"]}"/></RDF>'
    )
    wrapped = text.replace(
        f'<RDF xmlns="{RDF}"', f'<RDF xmlns="{RDF}" xmlns:rdf="http://a" xmlns:stDim="http://b"'
    )
    for packet in (text, wrapped):
        edited = Document.read(packet.encode()).edit((), [Area(0.5, 0.5, 0.2, 0.2)], SIZE)
        assert Document.read(edited.data).regions[0].plain
        back = Document.read(edited.data).edit([0], (), SIZE, edited.container, digest(packet.encode()))
        assert back.data == packet.encode()


def test_regions_that_all_change_leave_a_comment_in_place() -> None:
    edited = Document.read(EMPTY).edit((), [Area(0.5, 0.5, 0.2, 0.2)], SIZE)
    noted = edited.data.replace(b"<rdf:Bag>", b"<rdf:Bag><!-- mine -->")
    again = Document.read(noted).edit([0], [Area(0.2, 0.2, 0.1, 0.1)], SIZE, edited.container)
    assert b"<!-- mine -->" in again.data
    assert [region.area for region in Document.read(again.data).regions] == [Area(0.2, 0.2, 0.1, 0.1)]


def test_no_region_list_is_made_twice() -> None:
    edited = Document.read(EMPTY).edit((), [Area(0.5, 0.5, 0.2, 0.2)], SIZE)
    again = Document.read(edited.data).edit((), [Area(0.2, 0.2, 0.1, 0.1)], SIZE, edited.container)
    assert again.data.count(b"<mwg-rs:RegionList>") == 1
    assert again.container == "block"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('<rdf:Description xmlns:m="{mwg-rs}" m:Regions="x"/>', "as an attribute"),
        ('<rdf:Description xmlns:m="{mwg-rs}"><m:Regions/><m:Regions/></rdf:Description>', "more than once"),
        (
            '<rdf:Description xmlns:m="{mwg-rs}"><m:Regions rdf:parseType="Literal"><b/></m:Regions>'
            "</rdf:Description>",
            "safely",
        ),
        (
            '<rdf:Description xmlns:m="{mwg-rs}"><m:Regions rdf:parseType="Resource"><m:RegionList>'
            "<rdf:Alt/></m:RegionList></m:Regions></rdf:Description>",
            "safely",
        ),
        ("<rdf:li/>", "something else"),
    ],
)
def test_structures_that_cannot_be_edited_are_refused(content: str, reason: str) -> None:
    text = f'<rdf:RDF xmlns:rdf="{RDF}">' + content.replace("{mwg-rs}", NAMESPACES["mwg-rs"]) + "</rdf:RDF>"
    with pytest.raises(SidecarError, match=reason):
        Document.read(text.encode())
