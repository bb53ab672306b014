"""The shapes of XMP's RDF: where the packet's descriptions are, and structures in all their spellings."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar_faces.errors import SidecarError
from sidecar_faces.sidecar.tree import Name, Node

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XML = "http://www.w3.org/XML/1998/namespace"
META = "adobe:ns:meta/"
MWG_RS = "http://www.metadataworkinggroup.com/schemas/regions/"
ST_AREA = "http://ns.adobe.com/xmp/sType/Area#"
ST_DIM = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
MP = "http://ns.microsoft.com/photo/1.2/"
MP_RI = "http://ns.microsoft.com/photo/1.2/t/RegionInfo#"
MP_REG = "http://ns.microsoft.com/photo/1.2/t/Region#"

DESCRIPTION: Name = (RDF, "Description")
LI: Name = (RDF, "li")
PARSE_TYPE: Name = (RDF, "parseType")
_SYNTAX = {(RDF, "about"), ("", "about"), (XML, "lang"), (XML, "space")}


@dataclass(frozen=True, slots=True)
class Struct:
    """A structure: `holder` is the element that its child properties stand in."""

    holder: Node
    properties: dict[Name, Node | str]

    def text(self, name: Name) -> str | None:
        """A simple value; None where it is absent or not simple."""
        value = self.properties.get(name)
        if isinstance(value, Node):
            plain = not value.children and set(value.attributes) <= {(XML, "lang")}
            return value.text if plain else None
        return value

    def struct(self, name: Name) -> Struct | None:
        """A structured value; None where it is absent or not a structure."""
        value = self.properties.get(name)
        return structure(value) if isinstance(value, Node) else None


def find_rdf(root: Node) -> Node:
    """The packet's one `rdf:RDF`; raises SidecarError for anything that is not plain XMP."""
    if root.name in ((META, "xmpmeta"), (META, "xapmeta")):
        if len(root.children) != 1:
            raise SidecarError("holds not exactly one rdf:RDF within x:xmpmeta")
        root = root.children[0]
    if root.name != (RDF, "RDF"):
        raise SidecarError(f"is not XMP: it holds {root.name[1]!r} where rdf:RDF is expected")
    if any(child.name != DESCRIPTION for child in root.children):
        raise SidecarError("holds something else than rdf:Description in rdf:RDF")
    return root


def structure(node: Node) -> Struct | None:
    """Read a structure-valued element: parseType="Resource", a nested rdf:Description, or attributes.

    None where it is none of them, or names a property twice.
    """
    attributes = {key: value for key, value in node.attributes.items() if key not in _SYNTAX}
    holder = node
    if attributes.pop(PARSE_TYPE, None) is not None:
        if attributes or node.attributes[PARSE_TYPE] != "Resource" or node.text.strip():
            return None
    elif [child.name for child in node.children] == [DESCRIPTION] and not attributes:
        holder = node.children[0]
        attributes = {key: value for key, value in holder.attributes.items() if key not in _SYNTAX}
    elif node.children or node.text.strip():
        return None
    properties: dict[Name, Node | str] = dict(attributes)
    for child in holder.children:
        if child.name in properties:
            return None
        properties[child.name] = child
    if any(uri == RDF for uri, _ in properties) or (holder is not node and node.text.strip()):
        return None
    return Struct(holder, properties)


def array(node: Node) -> Node | None:
    """The rdf:Bag or rdf:Seq of an array-valued element; None where there is none that we can edit."""
    if len(node.children) != 1 or node.text.strip() or node.attributes:
        return None
    items = node.children[0]
    known = items.name in ((RDF, "Bag"), (RDF, "Seq"))
    clean = not items.attributes and not items.text.strip() and all(c.name == LI for c in items.children)
    return items if known and clean else None
