"""`watch`: keep libraries indexed for months."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import click
import structlog

from sidecar_faces.cli.common import App, excludes, outermost, place_options
from sidecar_faces.cli.engines import engine_options, plan
from sidecar_faces.cli.wiring import layout_for, make_executor, models_of, without_landmarks
from sidecar_faces.config import Settings
from sidecar_faces.core.settle import Timing
from sidecar_faces.core.types import Photo
from sidecar_faces.daemon.hooks import KINDS, Call, Hooks, PathMap, command
from sidecar_faces.daemon.library import Engine, Library, Options
from sidecar_faces.daemon.notify import Notifier
from sidecar_faces.daemon.rest import RestingExecutor
from sidecar_faces.daemon.state import State, Status
from sidecar_faces.daemon.supervisor import Daemon, Ending
from sidecar_faces.engine.passes import canvas_key
from sidecar_faces.errors import ConfigError, EngineUnavailableError
from sidecar_faces.library.lock import hold
from sidecar_faces.library.presence import first_sights
from sidecar_faces.library.watch import Mode
from sidecar_faces.metrics import Metric, export
from sidecar_faces.pipeline import Stage, Writer
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.sidecar.writer import SidecarWriter
from sidecar_faces.store import Store

log = structlog.get_logger()

_ENGINE_WAIT_S = 5.0


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
@click.option("--workers", type=click.IntRange(min=0), help="Worker processes; default: one per core.")
@click.option(
    "--mode",
    "watch_mode",
    type=click.Choice(["auto", "inotify", "polling", "scans"]),
    help="Where changes are heard of from; default: by the file system.",
)
@click.option("--quiet", type=float, metavar="S", help="Seconds without a change before a new photo is read.")
@click.option("--scan-interval", type=float, metavar="S", help="Seconds between two scans (default 3600).")
@click.option("--metrics", metavar="off|PORT|FILE.prom", help="Prometheus metrics.")
@click.option(
    "--detail", type=click.Choice(["fast", "normal", "fine"]), help="How small a face is looked for."
)
@engine_options
@place_options
@click.pass_obj
def watch(app: App, /, paths: tuple[str, ...], **flags: Any) -> None:
    """Keep libraries indexed: new and changed photos get their sidecars within seconds of being complete.

    Runs until it is told to stop (Ctrl-C, SIGTERM), at the lowest priority. SIGHUP reads the settings again
    and scans. A library that is not there, or not mounted, is left alone until it is back.

    \b
    sidecar-faces watch ~/Photos
    sidecar-faces watch /srv/photos /mnt/nas/photos --metrics 9469
    sidecar-faces install-service /srv/photos
    """
    roots = outermost(paths)
    settings = app.settings(**flags)
    _be_nice()
    while _run(settings, roots) is Ending.RELOAD:
        plan.cache_clear()  # a server may have come or gone since
        try:
            settings = app.settings(**flags)
        except ConfigError as error:
            log.warning("the settings are wrong; the old ones stay in force", reason=str(error))


def _be_nice() -> None:
    """Only what nobody else wants of processors and disks; the I/O class follows from the idle policy."""
    with suppress(OSError):
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _run(settings: Settings, roots: list[str]) -> Ending:
    sights = first_sights(roots)
    with ExitStack() as stack:
        for root in roots:
            known = sights[root].resolved or root  # resolving it here might hang
            stack.enter_context(hold(known, settings.lock_dir, "sidecar-faces watch", os.path.abspath))
        store = stack.enter_context(Store(settings.database, commit_every=1))
        executor = stack.enter_context(_executor(settings))
        hooks = stack.enter_context(Hooks(_calls(settings), settings.hook_interval))
        engine = _engine(settings, store, executor)
        options = _options(settings)
        libraries = [Library(root, engine, options, hooks.changed) for root in roots]
        daemon = Daemon(libraries, store, drain=settings.drain, on_tick=executor.rest, on_hung=executor.renew)
        stack.enter_context(export(settings.metrics, lambda: _metrics(daemon.statuses(), executor)))
        with _signals(daemon):
            return daemon.run()


@contextmanager
def _executor(settings: Settings) -> Iterator[RestingExecutor]:
    executor = RestingExecutor(
        lambda: make_executor(settings), 2 * settings.worker_count, settings.rest_after
    )  # fmt: skip
    try:
        yield executor
    finally:
        executor.close()


def _engine(settings: Settings, store: Store, executor: RestingExecutor) -> Engine:
    models = _models(settings)

    def shape(photo: Photo) -> object:
        return canvas_key(photo.displayed, settings.detail)

    def open_writer(root: str) -> AbstractContextManager[Writer]:
        return _writer(settings, root, models)

    between: tuple[Stage, ...] = (without_landmarks,) if settings.landmarks == "off" else ()
    return Engine(store, executor, models, shape, open_writer, between)


def _models(settings: Settings) -> str:
    """The fingerprint of the engine in force; a Triton server that is not up yet is waited for."""
    said = False
    while True:
        try:
            return models_of(settings)
        except EngineUnavailableError as error:
            if not said:
                log.warning("the engine is waited for", reason=str(error))
                Notifier().send(STATUS=f"waiting: {error}")
            said = True
            time.sleep(_ENGINE_WAIT_S)


@contextmanager
def _writer(settings: Settings, root: str, models: str) -> Iterator[Writer]:
    """One exiftool for each library: a photo that hangs one of them keeps no other library waiting."""
    with ExifTool() as exiftool:
        yield SidecarWriter(layout_for(settings, root), exiftool, models)


def _options(settings: Settings) -> Options:
    elsewhere = [str(settings.sidecar_dir)] if settings.sidecar_dir else []
    if settings.landmarks not in ("beside", "off"):
        elsewhere.append(settings.landmarks)
    return Options(
        excludes=excludes(settings),
        timing=Timing(quiet=settings.quiet, unmarked=5 * settings.quiet),
        mode=None if settings.watch_mode == "auto" else Mode(settings.watch_mode),
        scan_every=settings.scan_interval,
        poll_every=settings.poll_interval,
        min_free=settings.min_free << 20,
        max_tries=settings.max_tries,
        stall=settings.deadline * (settings.max_tries + 1) + settings.triton_patience + 60,
        written_to=tuple(elsewhere),
        writes_beside=settings.sidecar_dir is None,
    )


def _calls(settings: Settings) -> list[tuple[str, Call]]:
    """The hooks that are switched on."""
    calls: list[tuple[str, Call]] = []
    if settings.hook_command:
        calls.append(("hook_command", command(settings.hook_command)))
    if settings.hook_url:
        ours, _, theirs = settings.hook_map.partition("=")
        make = KINDS[settings.hook_kind]
        calls.append(
            (
                "hook_url",
                make(settings.hook_url, settings.hook_token.get_secret_value(), PathMap(ours, theirs)),
            )
        )
    return calls


@contextmanager
def _signals(daemon: Daemon) -> Iterator[None]:
    """SIGTERM and Ctrl-C let what is in flight end, a second one ends at once; SIGHUP reloads."""
    asked = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        daemon.stop()

    def reload(_signal: int, _frame: object) -> None:
        daemon.reload()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: reload}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_COUNTED = {
    "indexed": "Photos indexed since the start.",
    "faces": "Faces of the photos indexed since the start.",
    "quarantined": "Photos quarantined since the start.",
    "refused": "Photos refused since the start.",
    "scans": "Full scans since the start.",
}


def _metrics(statuses: list[Status], executor: RestingExecutor) -> list[Metric]:
    """What Prometheus is told; a library is named by its path."""
    counters = [
        Metric(f"sidecar_faces_{name}", text, "counter", ("library",)) for name, text in _COUNTED.items()
    ]
    online = Metric(
        "sidecar_faces_library_online", "1 while the library can be worked on.", "gauge", ("library",)
    )
    state = Metric("sidecar_faces_library_state", "1 for the state it is in.", "gauge", ("library", "state"))
    waiting = Metric("sidecar_faces_waiting", "Files waited for until complete.", "gauge", ("library",))
    flying = Metric("sidecar_faces_in_flight", "Photos at work.", "gauge", ("library",))
    scanned = Metric(
        "sidecar_faces_last_scan_timestamp_seconds", "End of the last full scan.", "gauge", ("library",)
    )
    awake = Metric("sidecar_faces_workers_awake", "1 while worker processes run.", "gauge")
    awake.add(float(not executor.is_resting))
    for status in statuses:
        for metric, name in zip(counters, _COUNTED, strict=True):
            metric.add(getattr(status.counts, name), status.root)
        online.add(float(status.state not in (State.OFFLINE, State.PAUSED, State.STOPPED)), status.root)
        state.add(1.0, status.root, status.state.value)
        waiting.add(status.waiting, status.root)
        flying.add(status.in_flight, status.root)
        if status.last_scan is not None:
            scanned.add(status.last_scan, status.root)
    return [*counters, online, state, waiting, flying, scanned, awake]
