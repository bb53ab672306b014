"""Sidecars that are not XMP: refused by name, byte for byte as they were, in no time."""

from __future__ import annotations

import resource
import time

import pytest

from sidecar_faces.errors import SidecarError
from sidecar_faces.sidecar.read import describe
from sidecar_faces.sidecar.undo import undo
from tests.sidecar.conftest import BOX, Library
from tests.sidecar.packets import RDF, Style, Writer

GOOD = Writer(Style()).packet([], block=True)
NS = f'xmlns:rdf="{RDF}"'
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(10))
BLOWUP = f'<!ENTITY e "{"x" * 100_000}">'
ENTITY = GOOD.replace(b"&lt;1&gt;", b"&e;")
SAYS_UTF8 = "<?xml version='1.0' encoding='utf-8'?>"
PASSWORDS = b"SYSTEM 'file:///etc/passwd'"

MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "zeros": b"\0" * 100,
    "text": b"hello",
    "jpeg": b"\xff\xd8\xff\xe0" + b"\0" * 50,
    "html": b"<html><body>404</body></html>",
    "json": b'{"a": 1}',
    "only a packet": b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><?xpacket end="w"?>',
    "only a comment": b"<!-- nothing -->",
    "cut at the end": GOOD[:-30],
    "cut in the middle": GOOD[: len(GOOD) // 2],
    "cut in a tag": GOOD[: GOOD.index(b"<dc:title") + 4],
    "cut in a character": "<a>é".encode()[:-1],
    "mis-nested": GOOD.replace(b"</rdf:Alt></dc:title>", b"</dc:title></rdf:Alt>"),
    "unclosed": GOOD.replace(b"</rdf:Description>", b""),
    "closed twice": GOOD.replace(b"</dc:title>", b"</dc:title></dc:title>"),
    "two roots": GOOD.replace(b"</x:xmpmeta>", b"</x:xmpmeta><x:xmpmeta xmlns:x='adobe:ns:meta/'/>"),
    "text after the end": GOOD + b"and more",
    "same attribute twice": GOOD.replace(b"odd:flag=", b"odd:flag='1' odd:flag="),
    "unquoted attribute": GOOD.replace(b'rdf:about=""', b"rdf:about=x"),
    "unbound prefix": GOOD.replace(b'xmlns:dc="http://purl.org/dc/elements/1.1/"', b""),
    "bare ampersand": GOOD.replace(b"&lt;1&gt;", b"A & B"),
    "unknown entity": GOOD.replace(b"&lt;1&gt;", b"&nbsp;"),
    "control character": GOOD.replace(b"&lt;1&gt;", b"\x01"),
    "control reference": GOOD.replace(b"&lt;1&gt;", b"&#1;"),
    "invalid UTF-8": GOOD.replace(b"&lt;1&gt;", b"\xff\xfe"),
    "latin-1 that says nothing": GOOD.replace(b"&lt;1&gt;", b"caf\xe9"),
    "surrogate in UTF-8": GOOD.replace(b"&lt;1&gt;", b"\xed\xa0\x80"),
    "UTF-16 without a mark": "<a/>".encode("utf-16-le"),
    "UTF-16 with half a character": b"\xff\xfe" + GOOD.decode().encode("utf-16-le")[:-1],
    "says UTF-16, is UTF-8": b"<?xml version='1.0' encoding='utf-16'?>" + GOOD,
    "says UTF-8, marked UTF-16": b"\xff\xfe" + (SAYS_UTF8 + "<a/>").encode("utf-16-le"),
    "says an unknown encoding": b"<?xml version='1.0' encoding='klingon'?>" + GOOD,
    "DTD": b"<!DOCTYPE x>" + GOOD,
    "DTD with an entity": b'<!DOCTYPE x [<!ENTITY e "boom">]>' + ENTITY,
    "external entity": b"<!DOCTYPE x [<!ENTITY e " + PASSWORDS + b">]>" + ENTITY,
    "external DTD": b'<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">' + GOOD,
    "parameter entity": b"<!DOCTYPE x [<!ENTITY % e " + PASSWORDS + b"> %e;]>" + GOOD,
    "billion laughs": f"<!DOCTYPE x [{LAUGHS}]>".encode() + GOOD.replace(b"&lt;1&gt;", b"&l9;"),
    "quadratic blowup": f"<!DOCTYPE x [{BLOWUP}]>".encode() + GOOD.replace(b"&lt;1&gt;", b"&e;" * 9999),
    "depth bomb": b"<a>" * 100_000 + b"</a>" * 100_000,
    "breadth bomb": b"<a>" + b"<b/>" * 300_000 + b"</a>",
    "depth bomb in XMP": GOOD.replace(b"&lt;1&gt;", b"<dc:x>" * 5000 + b"</dc:x>" * 5000),
    "larger than a sidecar": GOOD + b" " * (17 << 20),
    "not XMP": f'<a {NS}/>'.encode(),
    "two RDFs": f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {NS}/><rdf:RDF {NS}/></x:xmpmeta>'.encode(),
    "RDF of something else": f"<rdf:RDF {NS}><rdf:Bag/></rdf:RDF>".encode(),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_it_is_refused_by_name_and_left_alone(library: Library, case: str) -> None:
    library.add("a.jpg")
    library.add("a.xmp", MALFORMED[case])
    before = library.tree()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with pytest.raises(SidecarError, match=r"/a\.xmp: .*"):
        library.write("a.jpg", BOX)
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000
    with pytest.raises(SidecarError, match=r"/a\.xmp: .*"):
        describe(library.path("a.jpg"), library.layout)
    assert library.tree() == before


@pytest.mark.parametrize("case", ["empty", "mis-nested", "cut in the middle", "DTD"])
def test_one_that_breaks_later_never_means_that_its_regions_are_gone(library: Library, case: str) -> None:
    library.add("a.jpg")
    library.add("a.xmp", GOOD)
    library.write("a.jpg", BOX)
    library.add("a.xmp", MALFORMED[case])
    before = library.tree()
    for act in (lambda: library.write("a.jpg"), lambda: undo(library.path("a.jpg"), library.layout)):
        with pytest.raises(SidecarError, match=r"/a\.xmp: .*"):
            act()
        assert library.tree() == before


def test_forty_fixtures_and_more() -> None:
    assert len(MALFORMED) >= 40
