"""Put regions into a sidecar, and take them out, by splicing bytes: all other bytes stay as they are.

Insertion always follows directly on a tag; removal takes an element and the whitespace before it. So what was
inserted is removed exactly, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

from sidecar_faces.core.frames import Area, Size
from sidecar_faces.core.regions import number
from sidecar_faces.sidecar.rdf import MWG_RS, PARSE_TYPE, RDF, ST_AREA, ST_DIM, structure
from sidecar_faces.sidecar.region_list import RegionList
from sidecar_faces.sidecar.tree import Name, Node, lead

_PREFERRED = {RDF: "rdf", MWG_RS: "mwg-rs", ST_AREA: "stArea", ST_DIM: "stDim"}
_RESOURCE = ((PARSE_TYPE, "Resource"),)
_LINE = re.compile(rb"\r?\n[ \t]*\Z")
_TAG_NAME = re.compile(rb"<([^\s/>]+)")


@dataclass(frozen=True, slots=True)
class Element:
    """An element to render; `content` is text or elements."""

    name: Name
    content: str | tuple[Element, ...]
    attributes: tuple[tuple[Name, str], ...] = ()

    def uris(self) -> set[str]:
        """The namespaces used in it."""
        inner = self.content if isinstance(self.content, tuple) else ()
        own = {self.name[0], *(name[0] for name, _ in self.attributes)}
        return own.union(*(child.uris() for child in inner))


@dataclass(frozen=True, slots=True)
class Spliced:
    """The edited working bytes.

    `container`: how much around our regions is ours: "" nothing, "list" the RegionList, "block" the whole
    rdf:Description. `taken`: how much of it went with the last of our regions, in the same words.
    `collapsed`: the same bytes with the element that became empty written as one tag, None where none became
    empty; one of the two is what stood there before we added something.
    """

    work: bytes
    container: str
    taken: str = ""
    collapsed: bytes | None = None


@dataclass(slots=True)
class _Edits:
    data: bytes
    edits: list[tuple[int, int, bytes]] = field(default_factory=list)

    def cut(self, node: Node) -> None:
        self.edits.append((node.start - len(lead(self.data, node.start)), node.end, b""))

    def append(self, node: Node, text: bytes) -> None:
        """Insert behind the last child."""
        if node.is_collapsed:
            match = _TAG_NAME.match(self.data, node.start)
            closing = b"</" + (match[1] if match else b"") + b">"
            self.edits.append((node.inside - 2, node.inside, b">" + text + closing))
        else:
            at = node.children[-1].end if node.children else node.inside
            self.edits.append((at, at, text))

    def applied(self) -> bytes:
        parts, at = [], 0
        for start, end, text in sorted(self.edits, key=lambda edit: edit[:2]):
            parts += [self.data[at:start], text]
            at = end
        return b"".join([*parts, self.data[at:]])


def splice(
    work: bytes,
    listed: RegionList,
    remove: Sequence[int],
    add: Sequence[Area],
    *,
    size: Size,
    container: str,
) -> Spliced:
    """Take out the MWG regions with the indexes `remove`, append `add`.

    `container` says how much of what stands around the regions was inserted by us before; where no region is
    left in it, it goes too, unless somebody else put something there.
    """
    everything = bool(remove) and len(remove) == len(listed.elements) and not add
    if everything and container and (taken := _take_container(work, listed, container)):
        return taken
    edits = _Edits(work)
    for index in remove:
        edits.cut(listed.elements[index])
    if add:
        container = _append(edits, listed, add, size) or container
    collapsed = _collapsed(edits, listed.items) if everything else None
    return Spliced(edits.applied(), container, collapsed=collapsed)


def _take_container(work: bytes, listed: RegionList, container: str) -> Spliced | None:
    """Take out all that was made for our regions and is still ours alone; None where somebody noted in it."""
    target, taken = listed.list, "list"
    block = listed.property
    if container == "block" and block is not None and _is_as_ours(block):
        target, taken = block, "block"
        if block.parent is not None and _holds_only(block.parent, block):
            target = block.parent
    if target is None or target.parent is None or target.is_annotated():
        return None
    edits = _Edits(work)
    edits.cut(target)
    collapsed = _collapsed(edits, target.parent) if target.parent.children == [target] else None
    return Spliced(edits.applied(), "", taken, collapsed)


def _holds_only(description: Node, block: Node) -> bool:
    about = {(RDF, "about"), ("", "about")}
    alone = description.children == [block] and not description.text.strip() and not description.has_notes
    return alone and set(description.attributes) <= about


def _is_as_ours(block: Node) -> bool:
    """Whether nobody added a field or a comment to the Regions structure that we made."""
    struct = structure(block)
    fields = {(MWG_RS, "AppliedToDimensions"), (MWG_RS, "RegionList")}
    return struct is not None and set(struct.properties) == fields and not block.is_annotated()


def _collapsed(edits: _Edits, emptied: Node | None) -> bytes | None:
    """The edited bytes with an element that lost all its children written as one tag."""
    if emptied is None or emptied.is_collapsed:
        return None
    return edits.data[: emptied.inside - 1] + b"/>" + edits.data[emptied.end :]


def _append(edits: _Edits, listed: RegionList, add: Sequence[Area], size: Size) -> str:
    """Insert regions at the innermost level that exists; returns what container was made for them."""
    items = tuple(_region(area) for area in add)
    if listed.items is not None:
        indent = _indent(edits.data, listed.items)
        edits.append(listed.items, b"".join(_render(item, indent, listed.items.scope) for item in items))
        return ""
    region_list = Element((MWG_RS, "RegionList"), (Element((RDF, "Bag"), items),))
    if listed.holder is not None:
        indent = _indent(edits.data, listed.holder)
        edits.append(listed.holder, _render(region_list, indent, listed.holder.scope))
        return "list"
    regions = Element((MWG_RS, "Regions"), (_dimensions(size), region_list), _RESOURCE)
    block = Element((RDF, "Description"), (regions,), (_about(listed.rdf),))
    edits.append(listed.rdf, _render(block, _indent(edits.data, listed.rdf), listed.rdf.scope))
    return "block"


def _about(rdf: Node) -> tuple[Name, str]:
    """All descriptions of a packet name the same resource."""
    for name in ((RDF, "about"), ("", "about")):
        if rdf.children and name in rdf.children[-1].attributes:
            return name, rdf.children[-1].attributes[name]
    return (RDF, "about"), ""


def _region(area: Area) -> Element:
    fields = {"h": number(area.h), "unit": "normalized", "w": number(area.w)}
    fields |= {"x": number(area.x), "y": number(area.y)}
    inner = tuple(Element((ST_AREA, key), value) for key, value in fields.items())
    kind = Element((MWG_RS, "Type"), "Face")
    return Element((RDF, "li"), (Element((MWG_RS, "Area"), inner, _RESOURCE), kind), _RESOURCE)


def _dimensions(size: Size) -> Element:
    fields = {"h": str(size.height), "unit": "pixel", "w": str(size.width)}
    inner = tuple(Element((ST_DIM, key), value) for key, value in fields.items())
    return Element((MWG_RS, "AppliedToDimensions"), inner, _RESOURCE)


def _indent(data: bytes, parent: Node) -> bytes:
    """Line break and indentation of a child to come; empty in a sidecar that is one long line."""
    if parent.children:
        match = _LINE.search(lead(data, parent.children[-1].start))
        return match[0] if match else b""
    match = _LINE.search(lead(data, parent.start))
    return match[0] + b" " if match else b""


def _render(element: Element, indent: bytes, scope: dict[str, str]) -> bytes:
    """The element with the prefixes of its scope; what is not in scope is declared on it."""
    prefixes = {uri: prefix for prefix, uri in scope.items() if prefix}
    declared = ""
    for uri in sorted(element.uris() - {""} - set(prefixes)):
        prefix = _PREFERRED[uri]
        while prefix in scope:
            prefix += "_"
        prefixes[uri] = prefix
        declared += f" xmlns:{prefix}={quoteattr(uri)}"
    return _tags(element, indent.decode(), prefixes, declared).encode()


def _tags(element: Element, indent: str, prefixes: dict[str, str], extra: str = "") -> str:
    def qualified(name: Name) -> str:
        return f"{prefixes[name[0]]}:{name[1]}" if name[0] else name[1]

    tag = qualified(element.name)
    extra = "".join(f" {qualified(name)}={quoteattr(value)}" for name, value in element.attributes) + extra
    if isinstance(element.content, str):
        return f"{indent}<{tag}{extra}>{element.content}</{tag}>"
    deeper = f"{indent} " if indent else ""
    inner = "".join(_tags(child, deeper, prefixes) for child in element.content)
    return f"{indent}<{tag}{extra}>{inner}{indent}</{tag}>"
