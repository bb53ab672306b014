"""`rescan` end to end: real photos in, correct sidecars out, nothing lost."""

from __future__ import annotations

import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from sidecar_faces.library.lock import hold
from tests.cli.conftest import Cli, Tree
from tests.library.test_probe import scan_bomb

OURS = (".xmp", ".faces.json")


@pytest.fixture
def library(tmp_path: Path, portrait_jpeg: bytes) -> Path:
    """Three photos with a face, one without."""
    root = tmp_path / "photos"
    (root / "2020").mkdir(parents=True)
    for name in ("a.jpg", "2020/b.JPG", "2020/c d.jpeg"):
        (root / name).write_bytes(portrait_jpeg)
    Image.new("RGB", (400, 300), (120, 140, 160)).save(root / "none.jpg")
    return root


def test_writes_sidecars_then_nothing_then_takes_all_back(cli: Cli, library: Path) -> None:
    before = Tree.of(library)
    first = cli.json("rescan", library)
    assert (first["photos"], first["indexed"], first["with_faces"], first["faces"]) == (4, 4, 3, 3)
    after = Tree.of(library)
    assert after.without(*OURS) == before.files
    assert set(after.files) - set(before.files) == {
        f"{name}{suffix}" for name in ("a.jpg", "2020/b.JPG", "2020/c d.jpeg") for suffix in OURS
    }
    second = cli.json("rescan", library)
    assert (second["photos"], second["unchanged"], second["indexed"]) == (4, 4, 0)
    forced = cli.json("rescan", "--force", library)
    assert (forced["indexed"], forced["faces"]) == (4, 3)
    assert Tree.of(library) == after
    dry = cli.json("undo", "--dry-run", library)
    assert Tree.of(library) == after
    assert cli.json("undo", library)["sidecars_removed"] == dry["sidecars_removed"] == 3
    assert Tree.of(library) == before
    assert cli.json("rescan", library)["faces"] == 3


def test_dry_run_writes_nothing_at_all(cli: Cli, library: Path) -> None:
    before = Tree.of(library)
    assert cli.json("rescan", "--dry-run", library)["faces"] == 3
    assert Tree.of(library) == before
    assert cli.json("rescan", library)["indexed"] == 4


def test_a_lost_state_database_changes_no_sidecar(cli: Cli, library: Path) -> None:
    cli("rescan", library)
    after = Tree.of(library)
    shutil.rmtree(cli.state)
    again = cli.json("rescan", library)
    assert (again["unchanged"], again["indexed"]) == (3, 1)  # the one without faces has no file to tell by
    assert Tree.of(library) == after


def test_people_read_a_summary_and_scripts_single_photos(cli: Cli, library: Path) -> None:
    result = cli("rescan", library / "a.jpg", library / "2020")
    assert "3 photos in" in result.stdout
    assert "3 indexed: 3 with faces, 3 faces" in result.stdout
    assert result.stderr == "Models run: local (no Triton at localhost:8001).\n"


def test_all_orientations_give_the_same_face(cli: Cli, tmp_path: Path, portrait: Image.Image) -> None:
    from scripts.make_demo_library import save_oriented  # noqa: PLC0415 - the script is not a package

    root = tmp_path / "photos"
    root.mkdir()
    wide = portrait.resize((640, 512))
    for orientation in range(1, 9):
        save_oriented(wide, root / f"{orientation}.jpg", orientation)
    assert cli.json("rescan", root)["faces"] == 8
    boxes = [cli.json("inspect", root / f"{o}.jpg")["faces"][0]["displayed_bbox"] for o in range(1, 9)]
    for box in boxes[1:]:
        assert iou(box, boxes[0]) >= 0.9


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def truncated_png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((300, 300), 50).save(buffer, "PNG")
    return buffer.getvalue()[:20_000]


def bomb(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", 65500, 65500) + jpeg[at + 4 :]


@pytest.fixture
def zoo(tmp_path: Path, portrait: Image.Image, portrait_jpeg: bytes) -> dict[str, tuple[str, int]]:
    """File name -> the outcome expected and the number of faces written."""
    root = tmp_path / "photos"
    root.mkdir()
    size = len(portrait_jpeg)
    exif = Image.Exif()
    exif[0x0112] = 9
    refused: dict[str, bytes] = {
        "text.jpg": b"just some text",
        "djvu.jpg": b"AT&TFORM\0\0\0\x10DJVMDIRM",
        "heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "empty.jpg": b"",
        "pixel-bomb.jpg": bomb(portrait_jpeg),
        "scan-bomb.jpg": scan_bomb(5000),
    }
    failed: dict[str, bytes] = {
        "cut-in-header.jpg": portrait_jpeg[:100],
        "cut-in-data.jpg": portrait_jpeg[: size // 2],
        "zero-padded.jpg": portrait_jpeg[: size // 2] + b"\0" * (size // 2),
        "cut.png": truncated_png(),
    }
    fine: dict[str, bytes] = {
        "trailing-garbage.jpg": portrait_jpeg + b"garbage" * 1000,
        "zeros-after-the-end.jpg": portrait_jpeg + b"\0" * 5000,
        "broken-exif.jpg": portrait_jpeg[:2] + b"\xff\xe1\x00\x20Exif\0\0" + b"\xff" * 24 + portrait_jpeg[2:],
        os.fsdecode(b"caf\xe9.jpg"): portrait_jpeg,
        "new\nline.jpg": portrait_jpeg,
        "-dash.jpg": portrait_jpeg,
        "#hash $(touch canary) @at 'quote' \"double\".jpg": portrait_jpeg,
    }
    expected = dict.fromkeys(refused, ("refused", 0)) | dict.fromkeys(failed, ("quarantined", 0))
    expected |= dict.fromkeys(fine, ("done", 1))
    for name, data in (refused | failed | fine).items():
        (root / name).write_bytes(data)
    portrait.convert("L").save(root / "gray.jpg")
    portrait.convert("CMYK").save(root / "cmyk.jpg")
    portrait.save(root / "progressive.jpg", progressive=True)
    portrait.save(root / "orientation-9.jpg", exif=exif)
    portrait.convert("L").convert("I;16").point(lambda v: v * 256).save(root / "sixteen.png")
    expected |= dict.fromkeys(
        ("gray.jpg", "cmyk.jpg", "progressive.jpg", "orientation-9.jpg", "sixteen.png"), ("done", 1)
    )
    for name, dimensions in (("tiny.jpg", (1, 1)), ("line.jpg", (65500, 1)), ("large.jpg", (8000, 6000))):
        Image.new("RGB", dimensions, (90, 90, 90)).save(root / name)
        expected[name] = ("done", 0)
    (root / "broken-link.jpg").symlink_to("nowhere")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "link.jpg").symlink_to("gray.jpg")
    os.mkfifo(root / "fifo.jpg")
    (root / "folder.jpg").mkdir()
    (root / "round").symlink_to(root)
    expected |= {
        "broken-link.jpg": ("refused", 0),
        "loop.jpg": ("quarantined", 0),
        "fifo.jpg": ("refused", 0),
    }
    expected["link.jpg"] = ("done", 1)
    longest = "n" * 251 + ".jpg"  # 255 bytes: no room for a sidecar's name
    (root / longest).write_bytes(portrait_jpeg)
    expected[longest] = ("quarantined", 0)
    return expected


def test_bad_input_is_named_and_stops_nothing(
    cli: Cli, tmp_path: Path, zoo: dict[str, tuple[str, int]]
) -> None:
    root = tmp_path / "photos"
    before = Tree.of(root)
    result = cli.json("rescan", root, code=1)
    outcomes = {os.path.basename(p["path"]): p["outcome"] for p in result["problems"]}
    assert outcomes == {name: outcome for name, (outcome, _) in zoo.items() if outcome != "done"}
    assert result["photos"] == len(zoo)
    assert result["faces"] == sum(faces for _, faces in zoo.values())
    assert Tree.of(root).without(*OURS) == before.files
    assert not (tmp_path / "canary").exists()
    assert not (root / "canary").exists()
    assert not Path("canary").exists()
    again = cli("rescan", root, code=1)
    assert " 0 indexed" in again.stdout
    status = cli.json("status", root)
    assert status[0]["quarantined"] == sum(outcome == "quarantined" for outcome, _ in zoo.values())
    after = Tree.of(root)
    cli("undo", root)
    assert Tree.of(root) == before
    assert after != before


def xmp(name: str) -> str:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{name}</rdf:li></rdf:Alt></dc:title></rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )


def test_sidecars_that_cannot_be_merged_with_stay_as_they_are(
    cli: Cli, tmp_path: Path, portrait_jpeg: bytes
) -> None:
    root, outside = tmp_path / "photos", tmp_path / "outside.xmp"
    root.mkdir()
    outside.write_text(xmp("mine"))
    bad = {
        "malformed": xmp("x")[:-20],
        "mis-nested": xmp("x").replace("</rdf:Alt></dc:title>", "</dc:title></rdf:Alt>"),
        "dtd": '<!DOCTYPE x [<!ENTITY e "boom">]>' + xmp("&e;"),
        "huge": xmp("x" * 20_000_000),
        "empty": "",
    }
    for name in (*bad, "folder", "link", "readonly", "good"):
        (root / f"{name}.jpg").write_bytes(portrait_jpeg)
    for name, text in bad.items():
        (root / f"{name}.jpg.xmp").write_text(text)
    (root / "good.xmp").write_text(xmp("kept"))
    (root / "readonly.jpg.xmp").write_text(xmp("kept"))
    (root / "readonly.jpg.xmp").chmod(0o444)
    (root / "folder.jpg.xmp").mkdir()
    (root / "link.jpg.xmp").symlink_to(outside)
    before = Tree.of(root)
    result = cli("rescan", root, code=1)
    for name in (*bad, "folder", "link", "readonly"):
        assert f"{name}.jpg" in result.stderr
    after = Tree.of(root)
    changed = {name for name in after.files if after.files[name] != before.files.get(name)}
    assert changed == {"good.xmp", "good.jpg.faces.json"}
    assert outside.read_text() == xmp("mine")
    (root / "malformed.jpg.xmp").write_text(xmp("mended"))
    assert cli.json("rescan", root, code=1)["indexed"] == 1


def test_a_second_rescan_says_who_is_at_work(cli: Cli, library: Path) -> None:
    with hold(str(library), cli.state / "locks", "sidecar-faces rescan"):
        result = cli("rescan", library, code=6)
    assert f"process {os.getpid()}" in result.stderr


def test_ctrl_c_finishes_and_the_next_run_goes_on(cli: Cli, tmp_path: Path, portrait_jpeg: bytes) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(150):
        (root / f"{number:03}.jpg").write_bytes(portrait_jpeg)
    env = {**os.environ, "SIDECAR_FACES_STATE_DIR": str(cli.state)}
    child = subprocess.Popen(
        [sys.executable, "-m", "sidecar_faces", "rescan", str(root)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(root.glob("*.xmp")) and time.monotonic() < deadline:
        os.sched_yield()
    child.send_signal(signal.SIGINT)
    output, said = child.communicate(timeout=120)
    assert child.returncode == 130, said
    assert "Stopping" in said
    assert "Interrupted" in output
    done = len(list(root.glob("*.xmp")))
    assert 0 < done < 150
    assert not list(root.glob(".sidecar-faces*"))
    rest = cli.json("rescan", root)
    assert (rest["unchanged"], rest["indexed"]) == (done, 150 - done)


def test_a_read_only_library_with_folders_of_its_own(cli: Cli, library: Path, tmp_path: Path) -> None:
    before = Tree.of(library)
    flags = ("--sidecar-dir", tmp_path / "xmp", "--landmarks", tmp_path / "landmarks")
    assert cli.json("rescan", *flags, library)["faces"] == 3
    assert Tree.of(library) == before
    assert (tmp_path / "xmp" / "2020" / "b.JPG.xmp").is_file()
    assert (tmp_path / "landmarks" / "2020" / "b.JPG.faces.json").is_file()
    assert cli.json("rescan", *flags, library / "2020")["unchanged"] == 2
    cli("undo", *flags, library)
    assert not list((tmp_path / "xmp").rglob("*.xmp"))


def test_without_landmark_files(cli: Cli, library: Path) -> None:
    before = Tree.of(library)
    assert cli.json("rescan", "--landmarks", "off", library)["faces"] == 3
    assert not list(library.rglob("*.faces.json"))
    after = Tree.of(library)
    assert cli.json("rescan", "--landmarks", "off", "--force", library)["faces"] == 3
    assert Tree.of(library) == after
    assert cli.json("inspect", "--landmarks", "off", library / "a.jpg")["regions"][0]["owner"] == "ours"
    assert cli.json("undo", "--landmarks", "off", library)["sidecars_removed"] == 3
    assert Tree.of(library) == before


def test_wrong_usage(cli: Cli, library: Path) -> None:
    assert "does not exist" in cli("rescan", library / "absent", code=2).stderr
    assert "at 'min_score'" in cli("rescan", "--min-score", "3", library, code=3).stderr
    assert "models install" in cli("rescan", library, code=5, SIDECAR_FACES_MODELS_DIR="/nonexistent").stderr
