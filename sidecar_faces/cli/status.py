"""`status` and `retry`: what the store knows."""

from __future__ import annotations

import time
from typing import Any

import click

from sidecar_faces.cli.common import App, emit, json_option, outermost, print_table
from sidecar_faces.core.types import Outcome
from sidecar_faces.library.lock import holders
from sidecar_faces.log import printable
from sidecar_faces.store import Store

_optional_paths = click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path())
_PROBLEMS = (Outcome.QUARANTINED, Outcome.REFUSED)


@click.command()
@_optional_paths
@json_option
@click.pass_obj
def status(app: App, paths: tuple[str, ...], *, as_json: bool) -> None:
    """Say what is known of libraries: counts, the last run, and photos with problems and why.

    \b
    sidecar-faces status
    sidecar-faces status ~/Photos/2024 --json
    """
    settings = app.settings()
    pids = {holder.pid for holder in holders(settings.lock_dir)}
    with Store(settings.database) as store:
        reports = [_report(store, root, pids) for root in outermost(paths) or store.libraries() or ["/"]]
    if as_json:
        return emit(reports)
    if not any(report["done"] or report["problems"] or report["last_run"] for report in reports):
        click.echo("Nothing was indexed yet: sidecar-faces rescan PATH")
    for report in reports:
        _print(report)
    return None


def _report(store: Store, root: str, pids: set[int]) -> dict[str, Any]:
    run, watch = store.last_run(root), store.watch(root)
    return {
        "path": printable(root),
        **store.counts(root),
        "last_run": run and {"finished": run.finished, **run.summary},
        "watch": watch if watch and watch.get("pid") in pids else None,
        "problems": [
            {"path": printable(r.path), "outcome": r.outcome.value, "reason": r.reason, "tries": r.tries}
            for outcome in _PROBLEMS
            for r in store.below(root, outcome)
        ],
    }


def _watch_sentence(watch: dict[str, Any]) -> str:
    mode = f" ({watch['mode']}{', ' + watch['note'] if watch['note'] else ''})" if watch["mode"] else ""
    why = f": {watch['detail']}" if watch["detail"] else ""
    busy = watch["waiting"] + watch["in_flight"]
    more = f", {busy} at work or waiting" if busy else ""
    return f"{watch['pid']}{mode}: {watch['state']}{why}, {watch['indexed']} indexed since its start{more}"


def _print(report: dict[str, Any]) -> None:
    run = report["last_run"]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["finished"])) if run else "never to its end"
    click.echo(
        f"{report['path']}\n"
        f"  {report['done']} done ({report['with_faces']} with faces, {report['faces']} faces), "
        f"{report['quarantined']} quarantined, {report['refused']} refused; last run: {when}"
    )
    if report["watch"]:
        click.echo(f"  watched by process {_watch_sentence(report['watch'])}")
    if report["problems"]:
        rows = [(p["outcome"], p["path"], p["reason"]) for p in report["problems"]]
        print_table(("state", "photo", "why"), rows)


@click.command()
@_optional_paths
@json_option
@click.pass_obj
def retry(app: App, paths: tuple[str, ...], *, as_json: bool) -> None:
    """Take quarantined and refused photos again: the next rescan treats them as new.

    \b
    sidecar-faces retry && sidecar-faces rescan ~/Photos
    sidecar-faces retry ~/Photos/2024
    """
    with Store(app.settings().database) as store:
        roots = outermost(paths) or ["/"]
        found = [r.path for root in roots for outcome in _PROBLEMS for r in store.below(root, outcome)]
        store.forget(found)
    if as_json:
        return emit({"released": [printable(path) for path in found]})
    click.echo(f"{len(found)} photos are taken again by the next rescan.")
    return None
