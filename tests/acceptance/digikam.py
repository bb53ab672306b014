"""A real digiKam in a throwaway profile, on a screen that nobody sees (Xvfb).

What digiKam knows is read from its database. Its window answers on D-Bus: that is how it is told to write its
metadata, and to end. Nothing here sleeps: what is waited for is a row, a file, or the end of the process.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("digikam", "Xvfb", "dbus-daemon", "dbus-send")
PATIENCE_S = 120.0
"""For one step of digiKam, on a machine that has other things to do; a step takes 1 to 10 seconds."""

_MODELS = {
    # digiKam asks to download its own detectors unless files of these sizes stand there; they stay unused
    "shapepredictor.dat": 67_740_572,
    "yolov3-face.cfg": 8_334,
    "yolov3-wider_16000.weights": 246_305_388,
    "weights_inceptionv3_299.pb": 88_007_527,
    "openface_nn4.small2.v1.t7": 31_510_785,
    "deploy.prototxt": 28_092,
    "res10_300x300_ssd_iter_140000_fp16.caffemodel": 5_351_047,
}

# The group [Album Settings] keeps the assistant of a first run away; InitialAlbumID opens the first folder
# below the root; writing mode 1 is "to sidecars only".
_SETTINGS = """\
[General Settings]
Version=7.9.0
[Album Settings]
Scan At Start=true
Show Splash=false
[MainWindow]
InitialAlbumID=2
[Database Settings]
Database Type=QSQLITE
Database Name={database}/
Database Name Face={database}/
Database Name Similarity={database}/
Database Name Thumbnails={database}/
[Metadata Settings]
Use XMP Sidecar For Reading=true
Use Compatible File Name=false
Metadata Writing Mode=1
Save FaceTags=true
Rescan File If Modified=true
Update File Timestamp=true
"""


@contextmanager
def screen(folder: Path) -> Iterator[dict[str, str]]:
    """A display, a message bus and folders of one's own; yields the environment that leads there."""
    homes = {name: folder / name for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")}
    for home in homes.values():
        home.mkdir(mode=0o700)
    null, (ours, theirs) = subprocess.DEVNULL, os.pipe()
    display = ["Xvfb", "-displayfd", str(theirs), "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    bus = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
    with (
        _running(subprocess.Popen(display, pass_fds=[theirs], stdout=null, stderr=null)),
        _running(subprocess.Popen(bus, stdout=subprocess.PIPE, stderr=null)) as messages,
        open(ours, "rb") as number,
    ):
        os.close(theirs)
        assert messages.stdout is not None
        yield {
            **os.environ,
            **{name: str(home) for name, home in homes.items()},
            "DISPLAY": f":{number.readline().decode().strip()}",
            "DBUS_SESSION_BUS_ADDRESS": messages.stdout.readline().decode().strip(),
            "LC_ALL": "C.UTF-8",
            "QTWEBENGINE_DISABLE_SANDBOX": "1",  # root has none
            "QT_LOGGING_RULES": "digikam.*=true",
        }


@contextmanager
def _running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class Session:
    """A digiKam that runs."""

    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]
    log: Path

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something is true. Fails where digiKam ends before, or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
            assert self.process.returncode is None, f"digiKam ended before {what}\n{self.end_of_log()}"
            assert time.monotonic() < deadline, f"digiKam was waited for until {what}\n{self.end_of_log()}"

    def until_ready(self) -> None:
        """Wait until the first album is open; what can be chosen before, digiKam may crash on."""
        self.until(lambda: self._answers("actionIsEnabled", "import_addImages"), "an album is open")
        self.until(lambda: self._answers("actionIsEnabled", "album_rename"), "it is the first album")

    def act(self, action: str) -> None:
        """Choose a menu entry by the name of its action."""
        assert self._answers("activateAction", action), f"digiKam refuses {action}\n{self.end_of_log()}"

    def _answers(self, method: str, action: str) -> bool:
        """Whether the window answers with yes."""
        call = [
            *("dbus-send", "--print-reply", f"--dest=org.kde.digikam-{self.process.pid}", "/digikam/Digikam"),
            *(f"org.kde.KMainWindow.{method}", f"string:{action}"),
        ]
        answer = subprocess.run(call, env=self.environment, capture_output=True, check=False)
        return b"boolean true" in answer.stdout

    def has_said(self, words: str) -> bool:
        """Whether its log says so, since it started."""
        return words in self.log.read_text(errors="replace")

    def end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])


class DigiKam:
    """A profile: its database, its settings, one album root."""

    def __init__(self, folder: Path, photos: Path, environment: Mapping[str, str]) -> None:
        """Make the profile; `photos` holds albums. A first start without any makes the database."""
        self.folder, self.database = folder, folder / "database"
        self.environment = {**environment, "XDG_DATA_HOME": str(folder / "share")}
        models = folder / "share/digikam/facesengine"
        for path in (models, self.database):
            path.mkdir(parents=True)
        for name, size in _MODELS.items():
            with open(models / name, "wb") as file:
                file.truncate(size)
        (folder / "digikamrc").write_text(_SETTINGS.format(database=self.database))
        with self._start() as session:
            complete = "SELECT 1 FROM Settings WHERE keyword = 'DBVersionRequired'"
            session.until(lambda: self._holds(complete), "the database is made")
        root = "INSERT INTO AlbumRoots VALUES (1, 'photos', 0, 1, ?, '/')"
        self.change(root, f"volumeid:?path={photos}")

    @contextmanager
    def running(self) -> Iterator[Session]:
        """Start, scan, open the first album, and end it as a person would."""
        with self._start() as session:
            scanned = "SELECT 1 FROM Settings WHERE keyword = 'Scanned'"
            session.until(lambda: self._holds(scanned), "the library is scanned")
            session.until_ready()
            yield session
            session.act("app_exit")
            session.process.wait(PATIENCE_S)  # 7.9 ends by a crash of its destructors once it has written

    @contextmanager
    def _start(self) -> Iterator[Session]:
        command = ["digikam", "--config", str(self.folder / "digikamrc")]
        command += ["--database-directory", str(self.database)]
        log = self.folder / "log"
        with (
            open(log, "wb") as file,
            _running(subprocess.Popen(command, env=self.environment, stdout=file, stderr=file)) as process,
        ):
            yield Session(process, self.environment, log)

    def ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        with closing(sqlite3.connect(f"file:{self.database}/digikam4.db?mode=ro", uri=True)) as opened:
            return opened.execute(question, values).fetchall()

    def _holds(self, question: str) -> bool:
        """Whether the database has such a row; it may not be made yet."""
        with suppress(sqlite3.OperationalError):
            return bool(self.ask(question))
        return False

    def change(self, statement: str, *values: object) -> None:
        """Change the database of a digiKam that does not run."""
        with closing(sqlite3.connect(self.database / "digikam4.db")) as opened, opened:
            opened.execute(statement, values)
