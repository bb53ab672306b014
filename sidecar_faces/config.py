"""Settings: flags, then environment (`SIDECAR_FACES_*`), then a TOML file, then defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sidecar_faces.errors import ConfigError

_APP = "sidecar-faces"
_ENV_PREFIX = "SIDECAR_FACES_"
_toml_file: ContextVar[Path | None] = ContextVar("_toml_file", default=None)


def default_config_files() -> tuple[Path, Path]:
    """Where the TOML file is looked for when neither --config nor SIDECAR_FACES_CONFIG names one: the
    user's, then the machine's.
    """
    return Path(platformdirs.user_config_dir(_APP)) / "config.toml", Path("/etc") / _APP / "config.toml"


def _state_dir() -> Path:
    return Path(platformdirs.user_state_dir(_APP))


def _models_dir() -> Path:
    return Path(platformdirs.user_data_dir(_APP)) / "models"


class Settings(BaseSettings):
    """Every setting, with its default and its range; the description is shown by `config show`."""

    model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, extra="forbid", frozen=True)

    engine: Literal["auto", "local", "triton"] = Field(
        "auto", description="Where models run; auto: on Triton where one answers at triton_url, else here."
    )
    triton_url: tuple[str, ...] = Field(
        ("localhost:8001",),
        min_length=1,
        description="HOST:PORT of Triton's gRPC service; several are tried in turn.",
    )
    triton_decode: Literal["auto", "client", "server"] = Field(
        "auto",
        description="Who decodes photos for Triton; auto: the client where DALI has a GPU, else the server.",
    )
    triton_timeout: float = Field(20, gt=0, description="Seconds that Triton may take for one request.")
    triton_patience: float = Field(
        600, ge=0, description="Seconds to wait for a Triton server that is gone before the run ends."
    )
    triton_tls: bool = Field(default=False, description="Encrypt the connection to Triton.")
    triton_tls_ca: str = Field("", description="PEM file with the authority of Triton's certificate.")
    triton_tls_cert: str = Field("", description="PEM file with the certificate to show to Triton.")
    triton_tls_key: str = Field("", description="PEM file with that certificate's key.")
    triton_token: SecretStr = Field(SecretStr(""), description="Access token for Triton.")
    triton_shared_memory: bool = Field(
        default=True, description="Hand photos over in memory where Triton is on this machine."
    )
    server_python: str = Field(
        "", description="Python of the environment with the `server` extra; empty: this program's own."
    )
    detector: Literal["centerface", "facedetect"] = Field(
        "centerface", description="Network that finds faces; facedetect needs NVIDIA's weights to be itself."
    )
    facedetect_preset: Literal["nms", "deepstream", "tao", "notebook"] = Field(
        "nms", description="How FaceDetect's boxes become faces."
    )
    facedetect_color: Literal["rgb", "gray"] = Field("rgb", description="What FaceDetect is shown.")
    workers: int = Field(0, ge=0, le=256, description="Worker processes; 0 is one per core.")
    detail: Literal["fast", "normal", "fine"] = Field("normal", description="How small a face is looked for.")
    min_score: float = Field(0.5, gt=0, lt=1, description="Faces below this detection score are dropped.")
    min_face: int = Field(
        12, ge=4, le=10_000, description="Shorter side of the smallest face, in photo pixels."
    )
    exclude: tuple[str, ...] = Field(
        (), description="Globs of names (or, with a slash, of paths) to leave out."
    )
    default_excludes: bool = Field(
        default=True, description="Leave out folders of managers, NAS systems and trash cans."
    )
    sidecar_dir: Path | None = Field(
        None, description="Folder for sidecars, mirroring the library; unset: beside."
    )
    landmark_layout: Literal["fpenet-68", "fpenet-80", "fpenet-104", "detector"] = Field(
        "fpenet-80", description="Points per face; 'detector' takes the detector's own."
    )
    landmark_weights: Path | None = Field(
        None, description="Another landmark network of FPENet's interface; unset: the bundled one."
    )
    landmarks: str = Field("beside", description="Landmark files: 'beside' the sidecar, 'off', or a folder.")
    max_tries: int = Field(2, ge=1, le=10, description="Tries before a photo is quarantined.")
    deadline: float = Field(120, gt=0, description="Seconds that a worker may take for one batch.")
    watch_mode: Literal["auto", "inotify", "polling", "scans"] = Field(
        "auto", description="Where `watch` hears of changes from; auto: by the file system."
    )
    quiet: float = Field(
        2.0, ge=0.1, le=3600, description="Seconds without a change before a new photo is read."
    )
    scan_interval: float = Field(
        3600, ge=1, description="Seconds between two scans of a library that is watched."
    )
    poll_interval: float = Field(
        30, ge=1, description="The same where changes cannot be heard of (network and FUSE mounts)."
    )
    min_free: int = Field(200, ge=0, description="MiB to keep free; `watch` pauses below.")
    drain: float = Field(60, ge=0, description="Seconds that `watch` may take to finish when told to stop.")
    rest_after: float = Field(
        600, ge=1, description="Idle seconds after which `watch` ends its worker processes."
    )
    metrics: str = Field(
        "off", description="Prometheus metrics: 'off', a port on 127.0.0.1, or a file that ends in .prom."
    )
    hook_command: tuple[str, ...] = Field(
        (), description="Program to run with the changed photos on stdin, a NUL after each."
    )
    hook_url: str = Field("", description="Address to tell of changed photos; empty: none.")
    hook_kind: Literal["json", "photoprism", "immich"] = Field(
        "json", description="What hook_url is: a webhook that takes JSON, or a photo manager."
    )
    hook_token: SecretStr = Field(SecretStr(""), description="Access token or API key for hook_url.")
    hook_map: str = Field(
        "", description="OURS=THEIRS: how the beginning of paths is called by the manager (in its container)."
    )
    hook_interval: float = Field(60, ge=1, description="Seconds between two calls of a hook, at least.")
    state_dir: Path = Field(default_factory=_state_dir, description="State database and locks.")
    models_dir: Path = Field(default_factory=_models_dir, description="Prepared model weights.")

    @field_validator("sidecar_dir", "state_dir", "models_dir", "landmark_weights", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(os.path.abspath(value.expanduser()))

    @field_validator("landmarks", mode="after")
    @classmethod
    def _landmarks_place(cls, value: str) -> str:
        return value if value in ("beside", "off") else os.path.abspath(os.path.expanduser(value))

    @field_validator("metrics", mode="after")
    @classmethod
    def _metrics_place(cls, value: str) -> str:
        if value == "off" or (value.isdecimal() and 0 < int(value) < 65_536):
            return value
        if value.endswith(".prom"):
            return os.path.abspath(os.path.expanduser(value))
        raise ValueError("must be 'off', a port number, or a file name that ends in .prom")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = _toml_file.get()
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, toml)) if toml else sources

    @property
    def worker_count(self) -> int:
        """Worker processes to start."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def lock_dir(self) -> Path:
        return self.state_dir / "locks"

    @property
    def database(self) -> Path:
        return self.state_dir / "state.sqlite3"


def config_file(explicit: Path | None) -> Path | None:
    """The TOML file in force; None where there is none. Raises ConfigError where a named one is absent."""
    named = explicit or (
        Path(os.environ["SIDECAR_FACES_CONFIG"]) if os.environ.get("SIDECAR_FACES_CONFIG") else None
    )
    if named is not None and not named.is_file():
        raise ConfigError(f"{named}: this configuration file does not exist.")
    # a service may not look into homes: what cannot be seen is not there
    return named or next((file for file in default_config_files() if os.path.isfile(file)), None)


def load(flags: Mapping[str, Any], explicit: Path | None = None) -> Settings:
    """Settings in force; `flags` holds those that were given. Raises ConfigError naming each bad key."""
    file = config_file(explicit)
    token = _toml_file.set(file)
    try:
        _reject_unknown_environment()
        return Settings(**{key: value for key, value in flags.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(_explain(error, flags, file)) from None
    except ValueError as error:  # TOML syntax, or an environment value that is not what the key takes
        raise ConfigError(f"{file or 'environment'}: {error}.") from None
    finally:
        _toml_file.reset(token)


def _reject_unknown_environment() -> None:
    known = {f"{_ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | {"SIDECAR_FACES_CONFIG"}
    for name in os.environ:
        if name.startswith(_ENV_PREFIX) and name not in known:
            raise ConfigError(f"{name}: there is no such setting; `sidecar-faces config show` lists them.")


def _explain(error: ValidationError, flags: Mapping[str, Any], file: Path | None) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        name = str(item["loc"][0]) if item["loc"] else ""
        if flags.get(name) is not None:
            source = f"flag --{name.replace('_', '-')}"
        elif f"{_ENV_PREFIX}{name.upper()}" in os.environ:
            source = f"environment {_ENV_PREFIX}{name.upper()}"
        else:
            source = str(file)
        message = "there is no such setting" if item["type"] == "extra_forbidden" else item["msg"]
        lines.append(f"{source}: at '{key}': {message} (got {item['input']!r}).")
    return "\n".join(lines)
