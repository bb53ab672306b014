"""`install-service`: write the systemd unit for your folders, check it, explain it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from sidecar_faces.cli.common import App, outermost
from sidecar_faces.config import Settings, config_file
from sidecar_faces.errors import ConfigError, LibraryError
from sidecar_faces.log import printable

_UNIT, _TRITON_UNIT = "sidecar-faces.service", "sidecar-faces-triton.service"
_SYSTEM_FOLDER = "/etc/systemd/system"
_SYSTEM_STATE = "/var/lib/sidecar-faces"
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - hidden from the service


@dataclass(frozen=True, slots=True)
class _Unit:
    """A unit as it shall be installed."""

    path: str
    text: str
    user: str
    is_system: bool


@click.command("install-service")
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True, file_okay=False)
)
@click.option("--user", "for_user", is_flag=True, help="A service of yours, without root.")
@click.option("--run-as", metavar="NAME", help="User to run as; default: the owner of the first folder.")
@click.option("--triton", is_flag=True, help="A service for a local Triton, too (see `serve`).")
@click.option("--dry-run", is_flag=True, help="Print the unit and what the checks say; write nothing.")
@click.pass_obj
def install_service(
    app: App, /, paths: tuple[str, ...], *, for_user: bool, run_as: str | None, triton: bool, dry_run: bool
) -> None:
    """Write a systemd service that watches libraries, check it, and say how to start it.

    The service may write to these folders and to its own state, and to nothing else.

    \b
    sudo sidecar-faces install-service /srv/photos
    sidecar-faces install-service --user ~/Photos
    sidecar-faces install-service --dry-run /srv/photos
    """
    roots = outermost(paths)
    settings = app.settings()
    if for_user and triton:
        raise ConfigError("--triton: its service is one of the system's; leave --user out.")
    unit = _user_unit(roots, app) if for_user else _system_unit(roots, settings, app, run_as)
    units = [unit, _triton_unit(unit.user, settings, app)] if triton else [unit]
    if dry_run:
        for each in units:
            click.echo(each.text)
            _check(each)
        return
    if unit.is_system and os.geteuid() != 0:
        raise ConfigError(f"{unit.path}: only root can write it; use sudo, or --user for a service of yours.")
    for each in units:
        os.makedirs(os.path.dirname(each.path), exist_ok=True)
        Path(each.path).write_text(each.text, encoding="utf-8")
        click.echo(f"Wrote {each.path}, to run as {each.user}.")
    if unit.is_system:
        _prepare_state(settings, unit.user)
    for each in units:
        _check(each)
    _explain(units)


def _system_unit(roots: list[str], settings: Settings, app: App, run_as: str | None) -> _Unit:
    user = run_as or _owner(roots[0])
    values = {
        "RequiresMountsFor": _words(roots),
        "ExecStart": _command(["watch", "--", *roots], app),
        "User": user,
        "ReadWritePaths": _words([*roots, *_elsewhere(settings)]),
    }
    text = _filled(_template(_UNIT), values)
    text = _with_seen(text, _program_folders(app), [*roots, *_elsewhere(settings)])
    return _Unit(os.path.join(_SYSTEM_FOLDER, _UNIT), text, user, is_system=True)


def _triton_unit(user: str, settings: Settings, app: App) -> _Unit:
    server = ["--server-python", settings.server_python] if settings.server_python else []
    values = {"ExecStart": _command(["serve", *server], app), "User": user}
    folders = _program_folders(app)
    if python := settings.server_python:
        folders |= {_prefix_of(str(Path(file).parents[1])) for file in (python, os.path.realpath(python))}
    text = _with_seen(_filled(_template(_TRITON_UNIT), values), folders)
    return _Unit(os.path.join(_SYSTEM_FOLDER, _TRITON_UNIT), text, user, is_system=True)


def _program_folders(app: App) -> set[str]:
    """What the program reads: itself, its Python, its settings."""
    own = {_prefix_of(sys.prefix), _prefix_of(sys.base_prefix), _prefix_of(str(Path(__file__).parents[2]))}
    file = config_file(app.config_file)
    return own | {str(file.resolve())} if file else own


def _with_seen(text: str, read: Iterable[str], write: Iterable[str] = ()) -> str:
    """Homes and temporary folders are out of sight, except for what of these lies in them."""
    read, write = sorted(filter(_is_hidden, read)), list(filter(_is_hidden, write))
    if not read and not write:
        return text
    lines = ["ProtectHome=tmpfs"]
    lines += [f"BindReadOnlyPaths={_words(read)}"] if read else []
    lines += [f"BindPaths={_words(write)}"] if write else []
    return text.replace("ProtectHome=yes", "\n".join(lines))


def _user_unit(roots: list[str], app: App) -> _Unit:
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    text = _filled(
        _template("sidecar-faces-user.service"), {"ExecStart": _command(["watch", "--", *roots], app)}
    )
    user = pwd.getpwuid(os.geteuid()).pw_name
    return _Unit(os.path.join(folder, "systemd/user", _UNIT), text, user, is_system=False)


def _template(name: str) -> str:
    """From the package, or from the checkout that it is installed from in editable mode."""
    package = Path(__file__).parents[1]
    for folder in (package / "systemd", package.parent / "systemd"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise ConfigError(f"{name}: the unit files are not where this package lies; install it again.")


def _filled(text: str, values: Mapping[str, str]) -> str:
    """The lines `KEY=...` with other values; each key must be there once."""
    for key, value in values.items():
        line = re.search(rf"^{key}=.*$", text, flags=re.MULTILINE)
        assert line is not None, key  # noqa: S101 - our own file
        text = f"{text[: line.start()]}{key}={value}{text[line.end() :]}"
    return text


def _command(words: list[str], app: App) -> str:
    file = config_file(app.config_file)
    chosen = ["--config", str(file.resolve())] if file else []
    return _words([*_program(), *chosen, *words], is_command=True)


def _program() -> list[str]:
    script = os.path.join(os.path.dirname(sys.executable), "sidecar-faces")
    return [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "sidecar_faces"]


def _words(words: Iterable[str], *, is_command: bool = False) -> str:
    """Words of a unit file, quoted as systemd.syntax(7) and systemd.service(5) say."""
    return " ".join(_quoted(word, is_command=is_command) for word in words)


def _quoted(word: str, *, is_command: bool) -> str:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        raise LibraryError(
            f"{printable(word)}: systemd takes names in UTF-8 only; rename the folder."
        ) from None
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    escaped = escaped.replace("%", "%%")
    if is_command:
        escaped = escaped.replace("$", "$$")
    return escaped if re.fullmatch(r"[\w./+:,@=%-]+", word) else f'"{escaped}"'


def _owner(folder: str) -> str:
    status = os.stat(folder)
    if status.st_uid == 0:
        raise ConfigError(
            f"{printable(folder)}: belongs to root; name the user to run as: --run-as NAME "
            "(one who may write there; --run-as root if it must be)."
        )
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return str(status.st_uid)


def _elsewhere(settings: Settings) -> list[str]:
    """Folders outside of the libraries that the settings send files to."""
    places = [str(settings.sidecar_dir)] if settings.sidecar_dir else []
    places += [settings.landmarks] if settings.landmarks not in ("beside", "off") else []
    return places + ([os.path.dirname(settings.metrics)] if settings.metrics.endswith(".prom") else [])


def _is_hidden(path: str) -> bool:
    return any(path == hidden or path.startswith(hidden + "/") for hidden in _HIDDEN)


def _prefix_of(path: str) -> str:
    return os.path.realpath(path)


def _prepare_state(settings: Settings, user: str) -> None:
    """The service sees no home: its models lie with its state."""
    target = os.path.join(_SYSTEM_STATE, "models")
    if settings.models_dir.is_dir() and not os.path.isdir(target):
        shutil.copytree(settings.models_dir, target)
        owner = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        for path in (Path(_SYSTEM_STATE), Path(target), *Path(target).rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        click.echo(f"Copied the models to {target}.")
    elif not os.path.isdir(target):
        click.echo(f"Prepare the models: sudo SIDECAR_FACES_MODELS_DIR={target} sidecar-faces models install")


def _check(unit: _Unit) -> None:
    """What systemd itself says about the unit."""
    if shutil.which("systemd-analyze") is None:
        click.echo("systemd-analyze is not here: the unit was not checked.", err=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, os.path.basename(unit.path))
        Path(file).write_text(unit.text, encoding="utf-8")
        verified = _analyze("verify", "--man=no", *([] if unit.is_system else ["--user"]), file)
        if verified.returncode:
            raise ConfigError(f"{unit.path}: systemd-analyze verify says: {verified.stderr.strip()}")
        click.echo("systemd-analyze verify: no complaint.")
        if unit.is_system:
            scored = _analyze("security", "--offline=true", "--threshold=10", file)
            click.echo(
                f"systemd-analyze security: {(scored.stdout.strip().splitlines() or ['?'])[-1].strip('→ ')}"
            )


def _analyze(*words: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as runtime:  # without one, `--user` looks at nothing
        environment = {"XDG_RUNTIME_DIR": runtime, **os.environ, "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
        return subprocess.run(
            ["systemd-analyze", *words],  # noqa: S607 - wherever it is
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )


def _explain(units: Sequence[_Unit]) -> None:
    systemctl = "sudo systemctl" if units[0].is_system else "systemctl --user"
    journal = "journalctl -u" if units[0].is_system else "journalctl --user -u"
    names = " ".join(os.path.basename(unit.path).removesuffix(".service") for unit in units)
    click.echo(
        f"Start it:       {systemctl} daemon-reload && {systemctl} enable --now {names}\n"
        f"What it does:   {systemctl} status {names}\n"
        f"What it says:   {journal} sidecar-faces -f\n"
        f"New settings:   {systemctl} reload sidecar-faces\n"
        f"Every line of {units[0].path} is explained in it."
        + ("" if units[0].is_system else "\nTo run while you are not logged in: loginctl enable-linger")
    )
