"""Sidecars as many programs write them: every serialisation of RDF, odd prefixes, encodings, comments."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from hypothesis import strategies as st

from sidecar_faces.core.frames import Area
from sidecar_faces.core.regions import number

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "MP": "http://ns.microsoft.com/photo/1.2/",
    "MPRI": "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "odd": "http://example.org/odd/",
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "iso-8859-1")
_MARKS = {
    "utf-8-sig": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}


@dataclass(frozen=True)
class Foreign:
    """A region of a person."""

    area: Area
    name: str | None
    extra: bool = False


@dataclass(frozen=True)
class Style:
    """How a program writes RDF. `struct`: "resource", "description" or "attributes"; `odd`: its prefixes."""

    struct: str = "resource"
    array: str = "Bag"
    rdf: str = "rdf"
    odd: bool = False
    newline: str = "\n"
    indent: str = " "
    encoding: str = "utf-8"
    packet: bool = True
    meta: bool = True
    comments: bool = False
    about: str = ' rdf:about=""'

    def prefix(self, name: str) -> str:
        return {"mwg-rs": "r", "stArea": "a", "stDim": "rdf1"}.get(name, name) if self.odd else name


styles = st.builds(
    Style,
    st.sampled_from(["resource", "description", "attributes"]),
    st.sampled_from(["Bag", "Seq"]),
    st.sampled_from(["rdf", "RDF", "x1"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", ""]),
    st.sampled_from([" ", "\t", "  ", ""]),
    st.sampled_from(ENCODINGS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([' rdf:about=""', "", ' about=""', ' rdf:about="uuid:1"']),
)

names = st.text(
    st.characters(codec="iso-8859-1", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12
).filter(lambda name: name.strip() == name)
fractions = st.integers(1, 99).map(lambda n: n / 100)
area_strategy = st.builds(Area, fractions, fractions, fractions, fractions)
foreigners = st.builds(Foreign, area_strategy, st.one_of(st.none(), names), st.booleans())


@dataclass(frozen=True)
class Writer:
    style: Style

    def struct(self, tag: str, fields: dict[str, str], nested: str = "") -> str:
        """A structure with simple fields and children, in the style."""
        style, rdf = self.style, self.style.rdf
        children = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in fields.items())
        attributes = "".join(f" {key}={quoteattr(value)}" for key, value in fields.items())
        if style.struct == "resource":
            return f'<{tag} {rdf}:parseType="Resource">{children}{nested}</{tag}>'
        if style.struct == "description":
            return f"<{tag}><{rdf}:Description>{children}{nested}</{rdf}:Description></{tag}>"
        if not nested:
            return f"<{tag}{attributes}/>"
        return f"<{tag}><{rdf}:Description{attributes}>{nested}</{rdf}:Description></{tag}>"

    def region(self, region: Foreign) -> str:
        p, a = self.style.prefix("mwg-rs"), self.style.prefix("stArea")
        area = region.area
        values = {"x": area.x, "y": area.y, "w": area.w, "h": area.h}
        fields = {f"{a}:{key}": number(value) for key, value in values.items()} | {f"{a}:unit": "normalized"}
        simple = {f"{p}:Type": "Face"}
        if region.name is not None:
            simple = {f"{p}:Name": region.name, **simple}
        extra = "<odd:Extra>x &amp; y</odd:Extra>" if region.extra else ""
        return self.struct(f"{self.style.rdf}:li", simple, self.struct(f"{p}:Area", fields) + extra)

    def regions(self, regions: list[Foreign] | None) -> str:
        """`mwg-rs:Regions`; with None: no list in it."""
        style, p, d = self.style, self.style.prefix("mwg-rs"), self.style.prefix("stDim")
        size = self.struct(
            f"{p}:AppliedToDimensions", {f"{d}:w": "640", f"{d}:h": "480", f"{d}:unit": "pixel"}
        )
        listed = ""
        if regions is not None:
            pad, lead = self._pad(5), self._pad(6)
            note = "<!-- mine -->" if style.comments else ""
            items = "".join(lead + self.region(region) + note for region in regions)
            array = f"{style.rdf}:{style.array}"
            body = f"<{array}>{items}{pad}</{array}>" if regions else f"<{array}/>"
            listed = f"{self._pad(4)}<{p}:RegionList>{pad}{body}{self._pad(4)}</{p}:RegionList>"
        return self.struct(f"{p}:Regions", {}, size + listed)

    def _pad(self, depth: int) -> str:
        return self.style.newline + self.style.indent * depth if self.style.newline else ""

    def packet(self, regions: list[Foreign] | None, *, block: bool) -> bytes:
        """The whole sidecar; without `block` there is no `mwg-rs:Regions`."""
        style = self.style
        declared = "".join(f' xmlns:{style.prefix(k)}="{uri}"' for k, uri in NAMESPACES.items())
        about = style.about.replace("rdf:", f"{style.rdf}:")
        note = "<!-- a person's note --><?darktable keep?>" if style.comments else ""
        pad = self._pad(2)
        title = (
            f'<dc:title><{style.rdf}:Alt><{style.rdf}:li xml:lang="x-default">Caf\xe9 &lt;1&gt;'
            f"</{style.rdf}:li></{style.rdf}:Alt></dc:title>"
        )
        text = (
            f'<{style.rdf}:RDF xmlns:{style.rdf}="{RDF}">{pad}<{style.rdf}:Description{about}{declared} '
            f"odd:flag='a > \"b\"'>{pad}{title}{note}{pad}"
            f"{self.regions(regions) if block else ''}{pad}</{style.rdf}:Description>"
            f"{self._pad(1)}</{style.rdf}:RDF>"
        )
        if style.meta:
            text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{self._pad(1)}{text}{self._pad(0)}</x:xmpmeta>'
        if style.packet:
            mark = "\ufeff" if style.encoding != "iso-8859-1" else ""
            begin = f'<?xpacket begin="{mark}" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            text = f'{begin}{self._pad(0)}{text}<?xpacket end="w"?>'
        if style.encoding == "iso-8859-1":
            text = f'<?xml version="1.0" encoding="ISO-8859-1"?>{text}'
        codec = "utf-8" if style.encoding == "utf-8-sig" else style.encoding
        return _MARKS.get(style.encoding, b"") + text.encode(codec)


@st.composite
def packets(draw: st.DrawFn) -> tuple[bytes, list[Foreign]]:
    """A sidecar and the regions in it."""
    writer = Writer(draw(styles))
    block = draw(st.booleans())
    regions = draw(st.one_of(st.none(), st.lists(foreigners, max_size=4))) if block else None
    return writer.packet(regions, block=block), regions or []
