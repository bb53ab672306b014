"""A tree of a sidecar's elements with their byte offsets, by expat: what editing by splicing needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from sidecar_faces.errors import SidecarError

MAX_DEPTH = 64
MAX_ELEMENTS = 50_000
Name = tuple[str, str]
"""(namespace URI, local name)"""

_SEPARATOR = "\x01"  # not a character of XML, so it cannot be part of a name
_WHITESPACE = b" \t\r\n"
_TAG = re.compile(rb"""<(?:[^>"']|"[^"]*"|'[^']*')*>""")


@dataclass(slots=True, eq=False)
class Node:
    """An element. Offsets are into the UTF-8 working bytes.

    `start`: its `<`. `inside`: after its start tag. `close`: its end tag's `<`. `end`: after the element; all
    three are equal for an empty-element tag. `scope`: what the prefixes mean that are declared here or above.
    `has_notes`: a comment or processing instruction stands directly within.
    """

    name: Name
    attributes: dict[Name, str]
    scope: dict[str, str]
    parent: Node | None
    start: int
    inside: int = 0
    close: int = 0
    end: int = 0
    children: list[Node] = field(default_factory=list)
    text: str = ""
    has_notes: bool = False

    def is_annotated(self) -> bool:
        """Whether a comment or processing instruction stands anywhere within."""
        return self.has_notes or any(child.is_annotated() for child in self.children)

    @property
    def is_collapsed(self) -> bool:
        """Whether it is written as one empty-element tag."""
        return self.end == self.inside

    def all(self, name: Name) -> list[Node]:
        """Children of this name."""
        return [child for child in self.children if child.name == name]


def tag_end(data: bytes, start: int) -> int:
    """Offset after the tag that begins at `start`; quoted `>` do not end it."""
    tag = _TAG.match(data, start)
    if tag is None:
        raise SidecarError("is encoded in another way than it says")
    return tag.end()


def lead(data: bytes, start: int) -> bytes:
    """The whitespace before an offset, back to what stands before it."""
    at = start
    while at > 0 and data[at - 1] in _WHITESPACE:
        at -= 1
    return data[at:start]


def parse(data: bytes) -> Node:
    """Parse UTF-8 bytes strictly; raises SidecarError for a DTD, nesting beyond a limit, or broken XML."""
    builder = _Builder(data)
    try:
        builder.parser.Parse(data, True)  # noqa: FBT003 (positional only)
    except expat.ExpatError as error:
        raise SidecarError(f"is not well-formed XML: {error}") from error
    if builder.root is None:
        raise SidecarError("holds no XML element")
    return builder.root


class _Builder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.root: Node | None = None
        self._stack: list[Node] = []
        self._declared: dict[str, str] = {}
        self._count = 0
        self.parser = expat.ParserCreate("utf-8", _SEPARATOR)
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartNamespaceDeclHandler = self._declare
        self.parser.CommentHandler = self._note
        self.parser.ProcessingInstructionHandler = self._note
        self.parser.StartDoctypeDeclHandler = self._refuse_dtd

    def _refuse_dtd(self, *_: object) -> None:
        raise SidecarError("holds a document type declaration, which XMP does not allow")

    def _declare(self, prefix: str | None, uri: str | None) -> None:
        self._declared[prefix or ""] = uri or ""

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._stack) >= MAX_DEPTH or self._count > MAX_ELEMENTS:
            raise SidecarError(f"is nested deeper than {MAX_DEPTH} or holds over {MAX_ELEMENTS} elements")
        parent = self._stack[-1] if self._stack else None
        scope = parent.scope if parent else {"xml": "http://www.w3.org/XML/1998/namespace"}
        if self._declared:
            scope, self._declared = {**scope, **self._declared}, {}
        start = self.parser.CurrentByteIndex
        named = {_name(key): value for key, value in attributes.items()}
        node = Node(_name(name), named, scope, parent, start, inside=tag_end(self.data, start))
        if parent:
            parent.children.append(node)
        else:
            self.root = node
        self._stack.append(node)

    def _end(self, _: str) -> None:
        node = self._stack.pop()
        if self.data[node.inside - 2 : node.inside] == b"/>":
            node.close = node.end = node.inside
        else:
            node.close = self.parser.CurrentByteIndex
            node.end = tag_end(self.data, node.close)

    def _note(self, *_: str) -> None:
        if self._stack:
            self._stack[-1].has_notes = True

    def _text(self, text: str) -> None:
        self._stack[-1].text += text


def _name(raw: str) -> Name:
    uri, _, local = raw.rpartition(_SEPARATOR)
    return uri, local
