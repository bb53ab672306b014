"""exiftool at a distance: what it seeds, and that it always answers."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sidecar_faces.core.types import ImageFormat
from sidecar_faces.errors import SidecarError, ToolFailedError, ToolMissingError
from sidecar_faces.sidecar.document import Document
from sidecar_faces.sidecar.exiftool import ExifTool
from tests.sidecar.conftest import Library, jpeg

JPEG = ImageFormat.JPEG


def run(path: str, *arguments: str) -> str:
    command = ["exiftool", "-q", "-overwrite_original", *arguments, path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def seed(library: Library, name: str = "a.jpg", kind: ImageFormat = JPEG) -> str:
    data = library.tool.seed(library.path(name), kind)
    assert data is not None
    Document.read(data)
    return data.decode()


def test_a_photo_that_says_nothing_seeds_nothing(library: Library) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    library.add("a.jpg", buffer.getvalue())
    assert library.tool.seed(library.path("a.jpg"), JPEG) is None


def test_embedded_xmp_wins_over_exif_and_iptc(library: Library) -> None:
    library.add("a.jpg")
    run(
        library.path("a.jpg"),
        "-XMP-dc:Title=Embedded & <true>",
        "-IPTC:ObjectName=other",
        "-IPTC:Keywords=one",
        "-IPTC:Keywords=two",
        "-EXIF:ImageDescription=described",
        "-EXIF:Artist=Zoë",
        "-EXIF:DateTimeOriginal=2020:02:03 04:05:06",
        "-EXIF:GPSLatitude=12.5",
        "-EXIF:GPSLatitudeRef=S",
        "-EXIF:GPSLongitude=7.25",
        "-EXIF:GPSLongitudeRef=W",
        "-XMP:Rating=4",
    )
    library.add("a.xmp", seed(library).encode())
    shown = run(library.path("a.xmp"), "-n", "-G1", "-S", "-XMP:all")
    for line in (
        "[XMP-dc] Title: Embedded & <true>",
        "[XMP-dc] Subject: one, two",
        "[XMP-dc] Description: described",
        "[XMP-dc] Creator: Zoë",
        "[XMP-xmp] Rating: 4",
        "[XMP-exif] DateTimeOriginal: 2020:02:03 04:05:06",
        "[XMP-exif] GPSLatitude: -12.5",
        "[XMP-exif] GPSLongitude: -7.25",
    ):
        assert line in shown.splitlines()
    assert "Orientation" not in shown


def test_a_stale_orientation_is_not_seeded(library: Library) -> None:
    library.add("a.jpg", jpeg(orientation=6))
    run(library.path("a.jpg"), "-n", "-XMP-tiff:Orientation=3", "-XMP-dc:Title=x")
    assert "Orientation" not in seed(library)


def test_nodes_that_exiftool_does_not_know_are_seeded(library: Library, tmp_path: Path) -> None:
    packet = tmp_path / "packet.xmp"
    packet.write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:odd="http://example.org/odd/"><odd:Thing>kept</odd:Thing>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    library.add("a.jpg")
    run(library.path("a.jpg"), f"-xmp<={packet}")
    assert "kept" in seed(library)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_other_formats(library: Library, suffix: str) -> None:
    kind = ImageFormat(suffix)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, suffix.upper())
    library.add("a", buffer.getvalue())
    run(library.path("a"), "-XMP-dc:Title=here") if suffix != "webp" else None
    if suffix != "webp":  # this exiftool cannot write it
        assert "here" in seed(library, "a", kind)
    else:
        assert library.tool.seed(library.path("a"), kind) is None


@pytest.mark.parametrize(
    "data", [b"AT&TFORM\0\0\0\x10DJVMDIRM", b"text", b"", b"II*\0", b"#!/usr/bin/perl\n"], ids=range(5)
)
def test_only_photos_reach_it(library: Library, data: bytes) -> None:
    library.add("a.jpg", data)
    with pytest.raises(SidecarError, match="is no jpeg file"):
        library.tool.seed(library.path("a.jpg"), JPEG)


def test_broken_metadata_is_no_reason_to_stop(library: Library) -> None:
    data = jpeg()
    library.add("a.jpg", data[:2] + b"\xff\xe1\x00\x20Exif\0\0" + b"\xff" * 24 + data[2:])
    library.tool.seed(library.path("a.jpg"), JPEG)
    broken = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><oops"
    length = (len(broken) + 2).to_bytes(2, "big")
    library.add("a.jpg", data[:2] + b"\xff\xe1" + length + broken + data[2:])
    found = library.tool.seed(library.path("a.jpg"), JPEG)
    assert found is None or Document.read(found)


HOSTILE = [
    b"new\nline.jpg",
    b"a\n-execute\n-ver\n.jpg",
    b"a\n-TagsFromFile\n@.jpg",
    b"-ver.jpg",
    b"-delete_original!.jpg",
    b"@args.jpg",
    b"#[CSTR]x.jpg",
    b"$HOME.jpg",
    b"$(touch canary).jpg",
    b"`touch canary`.jpg",
    b"| touch canary |.jpg",
    b"; touch canary.jpg",
    b"caf\xe9.jpg",
    b"\xff\xfe.jpg",
    b"\xe2\x80\xaetxt.jpg",
    b"a'b.jpg",
    b'a"b.jpg',
    b"a\\b.jpg",
    b"a\tb.jpg",
    b"a\rb.jpg",
    b" .jpg",
    b"a b.jpg",
    b"%s%n.jpg",
    b"%d.jpg",
    b"{ready}.jpg",
    b"{ready123456}.jpg",
    b"&.jpg",
    b"<x>.jpg",
    b"*.jpg",
    b"n" * 240 + b".jpg",
]


@pytest.mark.parametrize("raw", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_never_reach_it(library: Library, raw: bytes) -> None:
    name = os.fsdecode(raw)
    library.add("victim.jpg")
    run(library.path("victim.jpg"), "-XMP-dc:Title=victim")
    shutil.copy(library.path("victim.jpg"), library.path(name))
    before = library.tree()
    assert "victim" in seed(library, name)
    assert library.write(name, (10.0, 10.0, 50.0, 50.0)) == 1
    after = library.tree()
    assert {key: after[key] for key in before} == before
    assert set(after) - set(before) == {f"{name}.xmp", f"{name}.faces.json"}
    assert not Path("canary").exists()


def test_a_configuration_file_is_never_run(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / ".ExifTool_config").write_text(f"open(my $f, '>', '{canary}'); 1;\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EXIFTOOL_HOME", str(tmp_path))
    library.add("a.jpg")
    with ExifTool() as tool:
        tool.seed(library.path("a.jpg"), JPEG)
    assert not canary.exists()


@pytest.fixture
def tool() -> Iterator[ExifTool]:
    with ExifTool(deadline=2.0) as opened:
        yield opened


def program_of(tool: ExifTool) -> int:
    assert tool._running is not None
    (child,) = _children(tool._running.child.pid)
    return child


def _children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
@pytest.mark.parametrize("whom", ["program", "child"])
def test_killed_or_stopped_it_answers_within_the_deadline(
    library: Library, tool: ExifTool, how: signal.Signals, whom: str
) -> None:
    library.add("a.jpg", jpeg())
    run(library.path("a.jpg"), "-XMP-dc:Title=x")
    for _ in range(2):
        tool.seed(library.path("a.jpg"), JPEG)
        assert tool._running is not None
        program = program_of(tool)
        os.kill(program if whom == "program" else tool._running.child.pid, how)
        started = time.monotonic()
        with pytest.raises(ToolFailedError, match="did not answer"):
            tool.seed(library.path("a.jpg"), JPEG)
        assert time.monotonic() - started < 6
        assert b"x" in (tool.seed(library.path("a.jpg"), JPEG) or b"")
        assert not _is_alive(program)


def _is_alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_full_scratch_folder_is_no_photo_without_metadata(
    library: Library, tmp_path: Path, as_root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = tmp_path / "small"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(point)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount here")
    try:
        monkeypatch.setattr("tempfile.tempdir", str(point))
        library.add("a.jpg")
        run(library.path("a.jpg"), "-XMP-dc:Title=precious", "-EXIF:Artist=me")
        with ExifTool() as tool:
            for free in (0, 4096):
                (point / "ballast").write_bytes(b"x" * (_free(point) - free))
                with pytest.raises(ToolFailedError, match="exiftool failed"):
                    tool.seed(library.path("a.jpg"), JPEG)
                (point / "ballast").unlink()
            assert b"precious" in (tool.seed(library.path("a.jpg"), JPEG) or b"")
    finally:
        subprocess.run(["umount", str(point)], check=True)


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def test_it_ends_with_us(library: Library) -> None:
    with ExifTool() as tool:
        assert tool._running is not None
        pids = [program_of(tool), tool._running.child.pid]
        scratch = tool._scratch
    assert not any(map(_is_alive, pids))
    assert not os.path.exists(scratch)


def test_many_threads_may_ask(library: Library) -> None:
    for number in range(8):
        library.add(f"{number}.jpg")
        run(library.path(f"{number}.jpg"), f"-XMP-dc:Title=title-{number}")
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(5):
            if f"title-{number}" not in seed(library, f"{number}.jpg"):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_absent_old_silent_and_noisy_programs_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ToolMissingError, match="was not found; install it"), ExifTool("no-such-program"):
        pass
    real = shutil.which("exiftool")
    assert real
    old = script(tmp_path / "old", f'exec {real} "$@" | sed -u "s/^1[0-9]\\.[0-9]*$/11.99/"')
    with pytest.raises(ToolMissingError, match=r"is too old|cannot be used"), ExifTool(old):
        pass
    for text in ("exec cat >/dev/null", "exec yes", "exec yes >&2", "exit 3"):
        program = script(tmp_path / "odd", text)
        started = time.monotonic()
        with (
            pytest.raises((ToolFailedError, ToolMissingError), match="install it"),
            ExifTool(program, deadline=1.5),
        ):
            pass
        assert time.monotonic() - started < 6
    assert ExifTool().found_at() == real


def test_its_version_is_known(exiftool: ExifTool) -> None:
    assert exiftool.version == run("-ver").strip() or exiftool.version[0].isdigit()
