"""Wire the rooms together: settings become an engine, a writer and the stages of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from sidecar_faces.cli import engines
from sidecar_faces.cli.common import errors
from sidecar_faces.config import Settings
from sidecar_faces.core.batching import Batcher
from sidecar_faces.core.types import FaceResult
from sidecar_faces.engine.base import Executor
from sidecar_faces.engine.passes import canvas_key
from sidecar_faces.library.probe import Limits
from sidecar_faces.pipeline import Ended, Infer, Select, Stage, Write, batch_up, remember
from sidecar_faces.sidecar.exiftool import ExifTool
from sidecar_faces.sidecar.layout import SidecarLayout
from sidecar_faces.sidecar.writer import SidecarWriter
from sidecar_faces.store import Store


@dataclass(frozen=True, slots=True)
class Engine:
    """What a run needs besides a library; `models` tells results of one engine from another's."""

    executor: Executor
    exiftool: ExifTool
    models: str


def make_executor(settings: Settings) -> Executor:
    """Where the settings let models run; workers start when the first batch comes."""
    plan = engines.plan(settings)
    errors.print(f"Models run: {plan.description}.")
    return engines.make_executor(plan, errors.print)


def models_of(settings: Settings) -> str:
    """What tells results of the engine in force from those of another. Raises ModelError."""
    return engines.plan(settings).models


@contextmanager
def open_engine(settings: Settings) -> Iterator[Engine]:
    """Start exiftool and the workers; both end with the block."""
    models = models_of(settings)
    with ExifTool() as exiftool, closing(make_executor(settings)) as executor:
        yield Engine(executor, exiftool, models)


def layout_for(settings: Settings, root: str) -> SidecarLayout:
    """Where the sidecars and landmark files of a library lie.

    With `landmarks = "off"` what is ours is remembered in the state folder, without landmarks: else `undo`
    could not tell, and what a person removed would come back.
    """
    landmarks = settings.landmarks
    if landmarks == "off":
        landmarks = str(settings.state_dir / "memory") + root
    return SidecarLayout(root, settings.sidecar_dir, landmarks)


def without_landmarks(items: Iterator[FaceResult | Ended]) -> Iterator[FaceResult | Ended]:
    """A stage for those who want none."""
    for item in items:
        if isinstance(item, FaceResult):
            yield replace(item, faces=tuple(replace(face, landmarks=None) for face in item.faces))
        else:
            yield item


def stages(
    settings: Settings,
    store: Store,
    engine: Engine,
    root: str,
    *,
    stopped: Callable[[], bool],
    force: bool = False,
    restore: bool = False,
    dry_run: bool = False,
) -> list[Stage]:
    """The stages of a run on one library, from candidates to how they ended."""
    layout, tries, detail = layout_for(settings, root), settings.max_tries, settings.detail
    writer = SidecarWriter(layout, engine.exiftool, engine.models, restore=restore, dry_run=dry_run)
    made: list[Stage] = [
        Select(store, writer, engine.models, Limits(), force=force, restore=restore),
        batch_up(lambda: Batcher(lambda photo: canvas_key(photo.displayed, detail)), stopped),
        Infer(engine.executor, tries, stopped),
        *([without_landmarks] if settings.landmarks == "off" else []),
        Write(writer, engine.models, tries),
    ]
    return made if dry_run else [*made, remember(store)]
