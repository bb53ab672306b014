"""Find and read the regions of a sidecar, MWG-RS and Microsoft Photo, in every serialisation of RDF."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from sidecar_faces.core.frames import Area
from sidecar_faces.core.regions import Region
from sidecar_faces.errors import SidecarError
from sidecar_faces.sidecar.rdf import (
    LI,
    MP,
    MP_REG,
    MP_RI,
    MWG_RS,
    ST_AREA,
    ST_DIM,
    Struct,
    array,
    find_rdf,
    structure,
)
from sidecar_faces.sidecar.tree import Node

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_AREA_FIELDS = {(ST_AREA, key) for key in ("x", "y", "w", "h", "unit")}


@dataclass(frozen=True, slots=True)
class RegionList:
    """Where a sidecar's regions stand.

    `rdf`: the packet's rdf:RDF. `property`: the `mwg-rs:Regions` element, None where there is none; `holder`:
    the element that its fields stand in; `list`: the `RegionList` element; `items`: its rdf:Bag or rdf:Seq.
    `elements`: the rdf:li of every MWG region, in order; `regions`: all regions, MWG first.
    """

    rdf: Node
    property: Node | None = None
    holder: Node | None = None
    list: Node | None = None
    items: Node | None = None
    elements: tuple[Node, ...] = ()
    regions: tuple[Region, ...] = ()


def read_regions(root: Node) -> RegionList:
    """Read all regions; raises SidecarError where the region structure has a shape that we cannot edit."""
    rdf = find_rdf(root)
    found = [node for block in rdf.children for node in block.all((MWG_RS, "Regions"))]
    if any((MWG_RS, "Regions") in block.attributes for block in rdf.children):
        raise SidecarError("holds mwg-rs:Regions as an attribute")
    if len(found) > 1:
        raise SidecarError("holds mwg-rs:Regions more than once")
    if not found:
        return RegionList(rdf, regions=tuple(_mp_regions(rdf, 0)))
    return _read_mwg(rdf, found[0])


def _read_mwg(rdf: Node, property_: Node) -> RegionList:
    struct = structure(property_)
    if struct is None:
        raise SidecarError("holds mwg-rs:Regions in a form that cannot be edited safely")
    listed = struct.properties.get((MWG_RS, "RegionList"))
    if listed is None:
        return RegionList(rdf, property_, struct.holder, regions=tuple(_mp_regions(rdf, 0)))
    items = array(listed) if isinstance(listed, Node) else None
    if items is None or not isinstance(listed, Node):
        raise SidecarError("holds an mwg-rs:RegionList in a form that cannot be edited safely")
    scale = _dimensions(struct)
    mwg = [_mwg_region(index, li, scale) for index, li in enumerate(items.children)]
    regions = (*mwg, *_mp_regions(rdf, len(mwg)))
    return RegionList(rdf, property_, struct.holder, listed, items, tuple(items.children), regions)


def _dimensions(struct: Struct) -> tuple[float, float] | None:
    applied = struct.struct((MWG_RS, "AppliedToDimensions"))
    if applied is None:
        return None
    width, height = (_number(applied.text((ST_DIM, key))) for key in ("w", "h"))
    return (width, height) if width and height and width > 0 and height > 0 else None


def _number(text: str | None) -> float | None:
    if text is None or not _NUMBER.fullmatch(text.strip()):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _mwg_region(index: int, li: Node, scale: tuple[float, float] | None) -> Region:
    struct = structure(li)
    if struct is None:
        return Region(index, "mwg", None, None, None, plain=False)
    name, kind = struct.text((MWG_RS, "Name")), struct.text((MWG_RS, "Type"))
    fields = struct.struct((MWG_RS, "Area"))
    area = _area(fields, scale) if fields else None
    plain = (
        area is not None
        and fields is not None
        and not li.is_annotated()
        and kind == "Face"
        and set(struct.properties) == {(MWG_RS, "Area"), (MWG_RS, "Type")}
        and set(fields.properties) == _AREA_FIELDS
        and fields.text((ST_AREA, "unit")) == "normalized"
    )
    return Region(index, "mwg", area, name, kind, plain)


def _area(fields: Struct, scale: tuple[float, float] | None) -> Area | None:
    x, y, w, h, d = (_number(fields.text((ST_AREA, key))) for key in ("x", "y", "w", "h", "d"))
    w, h = (d if w is None else w), (d if h is None else h)
    if x is None or y is None or w is None or h is None:
        return None
    if fields.text((ST_AREA, "unit")) != "pixel":
        return Area(x, y, w, h)
    if scale is None:
        return None
    return Area(x / scale[0], y / scale[1], w / scale[0], h / scale[1])


def _mp_regions(rdf: Node, first: int) -> list[Region]:
    """Microsoft Photo rectangles: "x, y, w, h" of the top left corner, normalized."""
    regions: list[Region] = []
    for info in (node for block in rdf.children for node in block.all((MP, "RegionInfo"))):
        for li in _mp_items(info):
            struct = structure(li)
            text = struct.text((MP_REG, "Rectangle")) if struct else None
            name = struct.text((MP_REG, "PersonDisplayName")) if struct else None
            area = _rectangle(text) if text else None
            regions.append(Region(first + len(regions), "mp", area, name, None, plain=False))
    return regions


def _mp_items(info: Node) -> list[Node]:
    struct = structure(info)
    listed = struct.properties.get((MP_RI, "Regions")) if struct else None
    if not isinstance(listed, Node):
        return []
    return [li for items in listed.children for li in items.all(LI)]


def _rectangle(text: str) -> Area | None:
    numbers = [_number(part) for part in text.split(",")]
    if len(numbers) != 4 or any(value is None for value in numbers):
        return None
    x, y, w, h = (value or 0.0 for value in numbers)
    return Area(x + w / 2, y + h / 2, w, h)
