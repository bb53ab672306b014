"""An independent check of an edit, by another parser: what is not ours is the same as before.

lxml reads the bytes without DTD, entities, network or oversized nodes; the comparison is of canonical XML
(C14N 1.0 with comments), so processing instructions and comments count, too.
"""

from __future__ import annotations

from collections.abc import Collection

from lxml import etree

from sidecar_faces.errors import SidecarError
from sidecar_faces.sidecar.rdf import MWG_RS, RDF

_DIMENSIONS = f"{{{MWG_RS}}}AppliedToDimensions"
_LIST = f"{{{MWG_RS}}}RegionList"
_ITEMS = ([f"{{{RDF}}}Bag"], [f"{{{RDF}}}Seq"])


def load(work: bytes) -> etree._Element:
    """Parse UTF-8 working bytes strictly; raises SidecarError."""
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        recover=False,
    )
    try:
        root = etree.fromstring(work, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise SidecarError(f"is not well-formed XML: {error}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise SidecarError("holds a document type declaration, which XMP does not allow")
    return root


def canonical_without(work: bytes, regions: Collection[int], container: str) -> bytes:
    """Canonical form without the regions of these positions, and without the container named.

    `container` as in `splice.Spliced`: "" keeps it, "list" and "block" leave it out. Raises SidecarError
    where something else than ours would be left out.
    """
    root = load(work)
    lists = [node for node in root.iter(_LIST) if [inner.tag for inner in _elements(node)] in _ITEMS]
    if not lists and (container or regions):
        raise SidecarError("lists other regions for one parser than for another")
    items = _elements(lists[0])[0] if lists else root
    regions_found = items.findall(f"{{{RDF}}}li")
    for index in regions:
        _require_no_notes(regions_found[index])
        _drop(regions_found[index])
    if container:
        if len(items):
            raise SidecarError("holds regions that are not ours")
        _drop(_container(lists[0], container))
    return etree.tostring(root.getroottree(), method="c14n", with_comments=True)


def _container(region_list: etree._Element, container: str) -> etree._Element:
    if container == "list":
        _require_no_notes(region_list)
        return region_list
    block = next(region_list.iterancestors(f"{{{MWG_RS}}}Regions"))
    _require_no_notes(block)
    if any(node not in (region_list, *block.iter(_DIMENSIONS)) for node in _fields(block)):
        raise SidecarError("holds something else beside our regions")
    description = block.getparent()
    about = {f"{{{RDF}}}about", "about"}
    alone = description is not None and len(description) == 1
    if alone and description is not None and {str(key) for key in description.attrib} <= about:
        return description
    return block


def _fields(block: etree._Element) -> list[etree._Element]:
    """The properties of a structure, which may stand in an rdf:Description of its own."""
    inner = [node for node in block if node.tag == f"{{{RDF}}}Description"]
    return list(inner[0] if inner else block)


def _elements(node: etree._Element) -> list[etree._Element]:
    """Children that are elements, not comments or processing instructions."""
    return [inner for inner in node if isinstance(inner.tag, str)]


def _require_no_notes(node: etree._Element) -> None:
    if any(not isinstance(inner.tag, str) for inner in node.iter()):
        raise SidecarError("holds a comment within our regions")


def _drop(node: etree._Element) -> None:
    """Take out an element and the whitespace before it; what follows it stays."""
    parent, previous, tail = node.getparent(), node.getprevious(), node.tail or ""
    if parent is None:
        return
    before = (parent.text if previous is None else previous.tail) or ""
    joined = before.rstrip(" \t\r\n") + tail
    node.tail = None
    parent.remove(node)
    if previous is None:
        parent.text = joined
    else:
        previous.tail = joined
