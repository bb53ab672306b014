"""The character encoding of a sidecar, found strictly: bytes that would not round-trip are refused.

All editing is done on a UTF-8 working copy; what is written back has the encoding that was found.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from sidecar_faces.errors import SidecarError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its first two bytes are UTF-16's mark
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = {
    "utf-8": {"utf-8", "utf8"},
    "utf-16-le": {"utf-16", "utf-16le", "ucs-2"},
    "utf-16-be": {"utf-16", "utf-16be", "ucs-2"},
    "utf-32-le": {"utf-32", "utf-32le", "ucs-4"},
    "utf-32-be": {"utf-32", "utf-32be", "ucs-4"},
}
_SINGLE_BYTE = {
    "us-ascii": "ascii",
    "iso-8859-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "iso-8859-15": "iso-8859-15",
    "windows-1252": "cp1252",
}
_DECLARATION = re.compile(r"""\s*<\?xml\s[^>]*?encoding\s*=\s*(["'])([A-Za-z0-9._-]+)\1""")


@dataclass(frozen=True, slots=True)
class Text:
    """A sidecar's text as UTF-8 `work` bytes, and how it is encoded on disk."""

    work: bytes
    codec: str
    mark: bytes

    def encode(self, work: bytes) -> bytes:
        """UTF-8 working bytes in the encoding of the sidecar."""
        return self.mark + work.decode("utf-8").encode(self.codec)


def decode(data: bytes) -> Text:
    """Find the encoding and decode; raises SidecarError where bytes and declaration do not agree."""
    mark, codec = next(((m, c) for m, c in _BOMS if data.startswith(m)), (b"", ""))
    declared = _declared(data[len(mark) :][:400], codec)
    if not codec:
        codec = _without_mark(declared)
    elif declared and declared not in _DECLARED[codec]:
        raise SidecarError(f"says that it is {declared}, but its first bytes say {codec}")
    try:
        text = data[len(mark) :].decode(codec)
        same = text.encode(codec) == data[len(mark) :]
    except UnicodeError as error:
        raise SidecarError(f"holds bytes that are not {codec}") from error
    if not same:
        raise SidecarError(f"cannot be written back byte by byte as {codec}")
    return Text(text.encode("utf-8"), codec, mark)


def _declared(head: bytes, codec: str) -> str:
    """The encoding that the XML declaration names, in lower case; "" where it names none."""
    if codec.startswith(("utf-16", "utf-32")):
        head = head[: len(head) // 4 * 4]
    match = _DECLARATION.match(head.decode(codec or "latin-1", errors="replace"))
    return match[2].lower() if match else ""


def _without_mark(declared: str) -> str:
    if declared in ("", "utf-8", "utf8"):
        return "utf-8"
    if declared in _SINGLE_BYTE:
        return _SINGLE_BYTE[declared]
    raise SidecarError(f"says that it is {declared}, which cannot be told without a byte order mark")
