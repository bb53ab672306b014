"""A sidecar's content: its regions, and a checked edit of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar_faces.core.frames import Area, Size
from sidecar_faces.core.regions import Region
from sidecar_faces.errors import SidecarError
from sidecar_faces.sidecar.region_list import RegionList, read_regions
from sidecar_faces.sidecar.splice import Spliced, splice
from sidecar_faces.sidecar.strict import canonical_without
from sidecar_faces.sidecar.text import Text, decode
from sidecar_faces.sidecar.tree import parse

EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    " </rdf:RDF>\n"
    "</x:xmpmeta>\n"
    '<?xpacket end="w"?>\n'
).encode()
"""The sidecar of a photo that has nothing to seed it with."""


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Edited:
    """What to write, and the container that is ours in it (see `splice.Spliced`)."""

    data: bytes
    container: str


@dataclass(frozen=True, slots=True)
class Document:
    """A sidecar that parsed strictly."""

    text: Text
    listed: RegionList

    @classmethod
    def read(cls, data: bytes) -> Document:
        """Raises SidecarError, with a phrase that follows the file's name."""
        text = decode(data)
        return cls(text, read_regions(parse(text.work)))

    @property
    def regions(self) -> tuple[Region, ...]:
        return self.listed.regions

    def edit(
        self, remove: Sequence[int], add: Sequence[Area], size: Size, container: str = "", before: str = ""
    ) -> Edited:
        """Take out regions of ours and append others, all else untouched, which is checked.

        `size`: stored pixels; `container`: what around our regions is ours; `before`: digest of the content
        before our first edit, which decides how an element that becomes empty was written.
        Raises SidecarError.
        """
        container = container if self.listed.items is not None else ""
        if add and remove and container == "block" and len(remove) == len(self.listed.elements):
            return self._edit_anew(remove, add, size, before)
        spliced = splice(self.text.work, self.listed, remove, add, size=size, container=container)
        work = spliced.work
        if spliced.collapsed is not None and digest(self.text.encode(spliced.collapsed)) == before:
            work = spliced.collapsed
        self._check(work, spliced, remove, add, container)
        return Edited(self.text.encode(work), spliced.container)

    def _edit_anew(self, remove: Sequence[int], add: Sequence[Area], size: Size, before: str) -> Edited:
        """Where all regions of a structure of ours change, it is made anew, for the photo's size of now."""
        emptied = self.edit(remove, (), size, "block", before)
        return Document.read(emptied.data).edit((), add, size, emptied.container, before)

    def _check(
        self, work: bytes, spliced: Spliced, remove: Sequence[int], add: Sequence[Area], container: str
    ) -> None:
        """By another parser: everything that is not ours is the same; what we added reads back as meant."""
        after = read_regions(parse(work))
        first = len(self.listed.elements) - len(remove)
        added = after.regions[first : len(after.elements)]
        if [region.area for region in added] != list(add) or not all(region.plain for region in added):
            raise SidecarError("would not read back as written")
        made = spliced.container if spliced.container != container else ""
        kept_before = canonical_without(self.text.work, remove, spliced.taken)
        kept_after = canonical_without(work, range(first, first + len(add)), made)
        if kept_before != kept_after:
            raise SidecarError("could not be edited without touching what is not ours")
