"""What the daemon does about everything that happens to photos and sidecars; real files, real sidecars."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from sidecar_faces.core.settle import Timing
from sidecar_faces.core.types import Batch, FaceResult
from sidecar_faces.daemon import guard
from sidecar_faces.daemon.rest import RestingExecutor
from sidecar_faces.daemon.state import State
from sidecar_faces.engine.base import Executor
from sidecar_faces.library.watch import Mode
from tests.daemon.harness import FixedExecutor, Watched, jpeg, often, watched


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "old.jpg").write_bytes(jpeg())
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def sidecar(photo: Path) -> Path:
    return photo.with_name(photo.name + ".xmp")


def test_what_is_there_and_what_comes_gets_sidecars_once(root: Path, state: Path) -> None:
    with watched(state, root) as daemon:
        daemon.until(lambda: sidecar(root / "old.jpg").exists())
        (root / "a.jpg").write_bytes(jpeg())
        (root / "deep/er").mkdir(parents=True)
        (root / "deep/er/b.jpg").write_bytes(jpeg())
        daemon.until(lambda: sidecar(root / "a.jpg").exists() and sidecar(root / "deep/er/b.jpg").exists())
        daemon.until_settled()
        assert sorted(daemon.executor.seen) == ["a.jpg", "b.jpg", "old.jpg"]  # own writes caused nothing
        assert daemon.status().counts.indexed == 3
    with watched(state, root) as daemon:  # a restart finds nothing to do
        daemon.until_idle()
        assert daemon.executor.seen == []
        assert daemon.written == []


def test_a_changed_photo_is_indexed_again_and_nothing_is_written_where_nothing_changed(
    root: Path, state: Path
) -> None:
    photo = root / "old.jpg"
    with watched(state, root) as daemon:
        daemon.until_idle()
        before = sidecar(photo).stat().st_mtime_ns
        photo.write_bytes(jpeg(color=(1, 2, 3)))
        daemon.until(lambda: daemon.executor.seen.count("old.jpg") == 2)
        daemon.until_settled()
        assert sidecar(photo).stat().st_mtime_ns == before
        photo.write_bytes(jpeg(width=96))
        daemon.until(lambda: sidecar(photo).stat().st_mtime_ns != before)


def until_looked_at(daemon: Watched, photo: Path, times: int) -> None:
    """Wait until the daemon looked so often whether the photo is complete."""
    settling, looks = daemon.libraries[0]._feed._settling, set()

    def looked() -> bool:
        looks.add(settling._looks._times.get(str(photo)))
        return len(looks) > times

    daemon.until(looked)


def test_a_slow_copy_is_not_read_before_its_end(root: Path, state: Path) -> None:
    data = jpeg(400, 300)
    with watched(state, root) as daemon:
        daemon.until_idle()
        with open(root / "slow.jpg", "wb", buffering=0) as file:
            file.write(data[:200])
            daemon.until(lambda: daemon.status().waiting == 1)
            file.write(data[200:-1])
            until_looked_at(daemon, root / "slow.jpg", 3)
            assert "slow.jpg" not in daemon.executor.seen
            file.write(data[-1:])
        daemon.until(lambda: sidecar(root / "slow.jpg").exists())


def test_a_photo_renamed_into_place_is_taken_at_once(root: Path, state: Path) -> None:
    with watched(state, root, options=often(timing=Timing(quiet=3600))) as daemon:
        daemon.until(lambda: daemon.status().counts.scans > 0)
        (root / ".new.jpg.part").write_bytes(jpeg())
        (root / ".new.jpg.part").rename(root / "new.jpg")
        daemon.until(lambda: sidecar(root / "new.jpg").exists())
        assert daemon.executor.seen == ["new.jpg"]  # old.jpg is not old enough yet


def manager_edit(file: Path) -> None:
    """What digiKam does: it names people of its own, writes the file anew, and drops nameless regions."""
    text = file.read_text()
    text = re.sub(r"<rdf:li[^>]*>\s*<rdf:Description.*?</rdf:Description>\s*</rdf:li>", "", text, flags=re.S)
    text = text.replace("<rdf:RDF", "<!-- written by a manager --><rdf:RDF", 1)
    temporary = file.with_name(f"{file.name}.manager")
    temporary.write_text(text)
    temporary.replace(file)


def test_a_manager_that_answers_every_write_is_not_answered(root: Path, state: Path) -> None:
    """It rewrites the sidecar whenever it changed, and touches the photo: no exchange without end."""
    photo, rewritten = root / "old.jpg", 0
    with watched(state, root) as daemon:
        daemon.until(lambda: sidecar(photo).exists())
        for _ in range(5):
            seen = sidecar(photo).stat().st_mtime_ns
            manager_edit(sidecar(photo))
            os.utime(photo)
            open(photo, "ab").close()
            rewritten += sidecar(photo).stat().st_mtime_ns != seen
            content = sidecar(photo).read_bytes()
            before = len(daemon.executor.seen)
            daemon.until(lambda before=before: len(daemon.executor.seen) > before)  # type: ignore[misc]
            daemon.until_settled()
            assert sidecar(photo).read_bytes() == content
        assert rewritten == 5
        assert len(daemon.executor.seen) == 6


def test_a_named_region_survives_a_new_version_of_the_photo(root: Path, state: Path) -> None:
    photo = root / "old.jpg"
    with watched(state, root) as daemon:
        daemon.until(lambda: sidecar(photo).exists())
        text = sidecar(photo).read_text()
        named = re.sub(
            r"(<mwg-rs:Type>Face</mwg-rs:Type>)", r"\1<mwg-rs:Name>Ada</mwg-rs:Name>", text, count=1
        )
        if named == text:
            named = re.sub(r'(mwg-rs:Type="Face")', r'\1 mwg-rs:Name="Ada"', text, count=1)
        assert named != text
        sidecar(photo).write_text(named)
        photo.write_bytes(jpeg(color=(9, 9, 9)))
        daemon.until(lambda: daemon.executor.seen.count("old.jpg") == 2)
        daemon.until_settled()
        assert sidecar(photo).read_text().count("Ada") == 1


def test_a_sidecar_that_was_mended_is_merged_with(root: Path, state: Path) -> None:
    photo = root / "odd.jpg"
    sidecar(photo).write_text("<x:xmpmeta xmlns:x='adobe:ns:meta/'>")
    photo.write_bytes(jpeg())
    with watched(state, root) as daemon:
        daemon.until(lambda: daemon.status().counts.quarantined == 1)
        daemon.until_settled()
        assert sidecar(photo).read_text() == "<x:xmpmeta xmlns:x='adobe:ns:meta/'>"
        shutil.copy(sidecar(root / "old.jpg"), sidecar(photo))
        daemon.until(
            lambda: (record := daemon.store.get(str(photo))) is not None and record.outcome == "done"
        )


def test_moves_with_and_without_the_sidecar(root: Path, state: Path) -> None:
    with watched(state, root) as daemon:
        daemon.until(lambda: sidecar(root / "old.jpg").exists())
        daemon.until_idle()
        (root / "album").mkdir()
        for name in ("old.jpg.xmp", "old.jpg.faces.json", "old.jpg"):  # as managers move
            (root / name).rename(root / "album" / name)
        daemon.until(lambda: daemon.store.get(str(root / "album/old.jpg")) is not None)
        daemon.until(lambda: daemon.store.get(str(root / "old.jpg")) is None)
        assert daemon.executor.seen == ["old.jpg"]  # known by its landmark file
        (root / "album/old.jpg").rename(root / "alone.jpg")
        daemon.until(lambda: sidecar(root / "alone.jpg").exists())
        assert sidecar(root / "album/old.jpg").exists()  # nothing is deleted by us
        (root / "album").rename(root / "renamed")
        daemon.until_settled()
        assert sidecar(root / "renamed/old.jpg").exists()


def test_a_folder_that_is_renamed_keeps_its_work(root: Path, state: Path) -> None:
    (root / "2020").mkdir()
    for number in range(20):
        (root / f"2020/{number}.jpg").write_bytes(jpeg())
    with watched(state, root) as daemon:
        daemon.until(lambda: daemon.status().counts.indexed == 21)
        daemon.until_settled()
        (root / "2020").rename(root / "2021")
        daemon.until(lambda: daemon.store.counts(str(root / "2021"))["done"] == 20)
        daemon.until(lambda: daemon.store.counts(str(root / "2020"))["done"] == 0)
        assert daemon.status().counts.indexed == 21


def test_deleted_and_undeleted(root: Path, state: Path, tmp_path: Path) -> None:
    photo = root / "old.jpg"
    with watched(state, root) as daemon:
        daemon.until(lambda: sidecar(photo).exists())
        daemon.until_idle()
        shutil.copy2(photo, tmp_path / "trash.jpg")
        photo.unlink()
        daemon.until(lambda: daemon.store.get(str(photo)) is None)
        assert sidecar(photo).exists()
        shutil.copy2(tmp_path / "trash.jpg", photo)
        daemon.until(lambda: daemon.store.get(str(photo)) is not None)
        assert daemon.executor.seen == ["old.jpg"]
        for name in (photo, sidecar(photo), root / "old.jpg.faces.json"):
            name.unlink()
        daemon.until(lambda: daemon.store.get(str(photo)) is None)
        shutil.copy2(tmp_path / "trash.jpg", photo)  # without its sidecar: it is made again
        daemon.until(lambda: sidecar(photo).exists())


def test_the_sidecar_of_a_raw_file_is_left_to_it(root: Path, state: Path) -> None:
    raw_sidecar = root / "pair.xmp"
    raw_sidecar.write_text("the raw converter's own")
    (root / "pair.CR2").write_bytes(b"II*\0 a raw file")
    (root / "pair.jpg").write_bytes(jpeg())
    with watched(state, root) as daemon:
        daemon.until(lambda: sidecar(root / "pair.jpg").exists())
        daemon.until_settled()
        assert raw_sidecar.read_text() == "the raw converter's own"
        assert "pair.CR2" not in daemon.executor.seen


def test_a_server_that_is_down_is_waited_for(root: Path, state: Path) -> None:
    executor = FixedExecutor()
    executor.down = True
    with watched(state, root, executor=executor) as daemon:
        daemon.until(lambda: daemon.status().state is State.PAUSED)
        assert "does not answer" in daemon.status().detail
        (root / "meanwhile.jpg").write_bytes(jpeg())
        executor.down = False
        daemon.until(lambda: sidecar(root / "old.jpg").exists() and sidecar(root / "meanwhile.jpg").exists())
        assert daemon.status().counts.quarantined == 0
        daemon.until_idle()


def test_a_library_that_goes_away_is_left_alone_until_it_is_back(
    root: Path, state: Path, tmp_path: Path
) -> None:
    with watched(state, root) as daemon:
        daemon.until_idle()
        root.rename(tmp_path / "elsewhere")
        daemon.until(lambda: daemon.status().state is State.OFFLINE)
        root.mkdir()
        daemon.until(lambda: daemon.status().detail == "the folder is empty")
        assert os.listdir(root) == []
        assert daemon.store.get(str(root / "old.jpg")) is not None  # nothing is forgotten
        root.rmdir()
        (tmp_path / "elsewhere/new.jpg").write_bytes(jpeg())
        (tmp_path / "elsewhere").rename(root)
        daemon.until(lambda: sidecar(root / "new.jpg").exists())
        assert daemon.executor.seen == ["old.jpg", "new.jpg"]


def test_libraries_are_independent(root: Path, state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(jpeg())
    with watched(state, tmp_path / "absent", root, other) as daemon:
        daemon.until(lambda: sidecar(root / "old.jpg").exists() and sidecar(other / "a.jpg").exists())
        assert daemon.status(0).state is State.OFFLINE
        shutil.rmtree(root)
        daemon.until(lambda: daemon.status(1).state is State.OFFLINE)
        (other / "b.jpg").write_bytes(jpeg())
        daemon.until(lambda: sidecar(other / "b.jpg").exists())


def test_a_root_that_is_made_again_is_watched_again(root: Path, state: Path, tmp_path: Path) -> None:
    with watched(state, root) as daemon:
        daemon.until_idle()
        (tmp_path / "new").mkdir()
        (tmp_path / "new/a.jpg").write_bytes(jpeg())
        root.rename(tmp_path / "old")
        (tmp_path / "new").rename(root)
        daemon.until(lambda: sidecar(root / "a.jpg").exists())
        (root / "b.jpg").write_bytes(jpeg())
        daemon.until(lambda: sidecar(root / "b.jpg").exists())


def test_what_is_in_flight_is_finished_when_it_ends(root: Path, state: Path) -> None:
    executor = FixedExecutor()
    executor.gate.clear()
    for number in range(30):
        (root / f"{number}.jpg").write_bytes(jpeg())
    with watched(state, root, executor=executor) as daemon:
        daemon.until(lambda: daemon.status().in_flight > 0)
        daemon.daemon.stop()
        executor.gate.set()
        daemon.until(lambda: daemon.status().state is State.STOPPED)
    done = {name.removesuffix(".xmp") for name in os.listdir(root) if name.endswith(".xmp")}
    assert done == set(executor.seen)
    with watched(state, root) as daemon:
        daemon.until_idle()
        assert set(daemon.executor.seen) == {n for n in os.listdir(root) if n.endswith(".jpg")} - done


def test_the_store_tells_what_is_going_on(root: Path, state: Path) -> None:
    with watched(state, root) as daemon:
        daemon.until_idle()
        daemon.until(lambda: (daemon.store.watch(str(root)) or {}).get("state") == "idle")
        watch = daemon.store.watch(str(root))
        assert watch is not None
        assert (watch["mode"], watch["indexed"], watch["faces"]) == ("inotify", 1, 1)


def test_it_pauses_below_the_free_space_to_keep(
    root: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [0]
    monkeypatch.setattr(guard, "free_bytes", lambda _path: free[0])
    with watched(state, root, options=often(min_free=200 << 20)) as daemon:
        daemon.until(lambda: daemon.status().state is State.PAUSED)
        assert "0 MiB are free, less than the 200 MiB to keep" in daemon.status().detail
        assert daemon.executor.seen == []
        free[0] = 1 << 30
        daemon.until(lambda: sidecar(root / "old.jpg").exists())
        free[0] = 100 << 20
        (root / "new.jpg").write_bytes(jpeg())
        daemon.until(lambda: daemon.status().state is State.PAUSED)
        assert not sidecar(root / "new.jpg").exists()
        free[0] = 1 << 30
        daemon.until(lambda: sidecar(root / "new.jpg").exists())
        assert daemon.status().counts.quarantined == 0


def test_an_emitter_that_died_is_started_again(root: Path, state: Path) -> None:
    with watched(state, root) as daemon:
        daemon.until_idle()
        watcher = daemon.libraries[0]._watcher
        assert watcher is not None
        assert watcher._observer is not None
        for emitter in watcher._observer.emitters:
            emitter.stop()
        (root / "unseen.jpg").write_bytes(jpeg())
        daemon.until(lambda: sidecar(root / "unseen.jpg").exists())
        (root / "seen.jpg").write_bytes(jpeg())
        daemon.until(lambda: sidecar(root / "seen.jpg").exists())


@pytest.mark.parametrize("mode", [Mode.POLLING, Mode.SCANS])
def test_without_inotify_photos_are_found_all_the_same(root: Path, state: Path, mode: Mode) -> None:
    with watched(state, root, options=often(mode=mode, poll_every=0.3)) as daemon:
        daemon.until_idle()
        assert daemon.status().mode == mode.value
        (root / "new.jpg").write_bytes(jpeg())
        daemon.until(lambda: sidecar(root / "new.jpg").exists())
        (root / "new.jpg").rename(root / "moved.jpg")
        daemon.until(lambda: daemon.store.get(str(root / "moved.jpg")) is not None)


def test_a_hung_library_keeps_no_other_waiting(root: Path, state: Path, hung: Path) -> None:
    """One library lies on a mount that never answers: the other works, and it is said within 30 seconds."""
    with watched(state, hung, root, options=often(look_deadline=0.5)) as daemon:
        daemon.until(lambda: sidecar(root / "old.jpg").exists())
        daemon.until(lambda: daemon.status(0).detail == "its file system does not answer")
        (root / "new.jpg").write_bytes(jpeg())
        daemon.until(lambda: sidecar(root / "new.jpg").exists())
        assert not daemon.libraries[0].is_stuck(1e12)  # it is not to blame


class Stuck:
    """Workers that wait for a file system for ever; ending them cancels what they do."""

    capacity = 4

    def __init__(self) -> None:
        self.futures: list[Future[tuple[FaceResult, ...]]] = []

    def submit(self, _batch: Batch) -> Future[tuple[FaceResult, ...]]:
        self.futures.append(Future())
        return self.futures[-1]

    def close(self) -> None:
        for future in self.futures:
            future.cancel()


def test_workers_that_hang_in_one_library_are_started_anew_for_the_others(
    root: Path, state: Path, tmp_path: Path, mount_hung: Callable[[Path], None]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(jpeg())
    stuck, working = Stuck(), FixedExecutor()
    executors: list[Executor] = [working, stuck]
    shared = RestingExecutor(executors.pop, capacity=4, rest_after=3600)
    with watched(state, root, other, options=often(look_deadline=0.5), shared=shared) as daemon:
        daemon.until(lambda: len(stuck.futures) == 2)
        mount_hung(root)
        daemon.until(lambda: daemon.status(0).detail == "its file system does not answer")
        daemon.until(lambda: sidecar(other / "a.jpg").exists())
        assert working.seen == ["a.jpg"]


def test_a_photo_that_fails_while_its_library_goes_away_is_not_blamed(root: Path, state: Path) -> None:
    executor = FixedExecutor()
    executor.gate.clear()
    with watched(state, root, executor=executor) as daemon:
        daemon.until(lambda: daemon.status().in_flight == 1)
        executor.fails = "cannot be read (Stale file handle)"
        root.rename(root.with_name("away"))
        daemon.until(lambda: daemon.status().state is State.OFFLINE)
        executor.gate.set()
        daemon.until(lambda: daemon.status().in_flight == 0)
        executor.fails = ""
        root.with_name("away").rename(root)
        daemon.until(lambda: sidecar(root / "old.jpg").exists())
        assert daemon.store.counts(str(root))["quarantined"] == 0


def test_a_library_that_is_a_link(root: Path, state: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with watched(state, tmp_path / "link") as daemon:
        daemon.until(lambda: sidecar(root / "old.jpg").exists())
        (root / "new.jpg").write_bytes(jpeg())
        daemon.until(lambda: sidecar(root / "new.jpg").exists())
        daemon.until(lambda: daemon.store.get(str(tmp_path / "link/new.jpg")) is not None)


def test_a_failure_is_remembered_the_second_time(root: Path, state: Path) -> None:
    """The library may have been away for a moment that nobody saw; a photo that is really bad fails again."""
    executor = FixedExecutor()
    executor.fails = "cannot be read"
    executor.gate.clear()
    with watched(state, root, executor=executor) as daemon:
        daemon.until(lambda: daemon.status().in_flight == 1)
        executor.gate.set()
        daemon.until(lambda: str(root / "old.jpg") in daemon.libraries[0]._suspects)
        executor.fails = ""
        daemon.until(lambda: sidecar(root / "old.jpg").exists())
        assert daemon.status().counts.quarantined == 0
        executor.fails = "is damaged"
        (root / "bad.jpg").write_bytes(jpeg())
        daemon.until(
            lambda: (record := daemon.store.get(str(root / "bad.jpg"))) is not None and record.tries == 2
        )
        daemon.until_settled()
        assert daemon.status().counts.quarantined == 1
        assert str(root / "bad.jpg") not in daemon.libraries[0]._suspects
