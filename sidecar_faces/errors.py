"""The one error tree: every error carries the exit code that the command line ends with."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; `docs/exit-codes.md` explains them."""

    OK = 0
    PROBLEM = 1
    USAGE = 2
    CONFIG = 3
    TOOL_MISSING = 4
    MODEL = 5
    LOCKED = 6
    LIBRARY = 7
    SIDECAR = 8
    DISK_FULL = 9
    ENGINE = 10
    INTERRUPTED = 130


class SidecarFacesError(Exception):
    """Base of all errors that a user may read; `str(error)` is one complete sentence."""

    exit_code: ExitCode = ExitCode.PROBLEM


class ConfigError(SidecarFacesError):
    """A setting is missing, unknown or out of range."""

    exit_code = ExitCode.CONFIG


class ToolMissingError(SidecarFacesError):
    """A program that we need (exiftool) is absent, too old or does not start."""

    exit_code = ExitCode.TOOL_MISSING


class ToolFailedError(SidecarFacesError):
    """A program that we need died, hung past its deadline or answered nonsense."""

    exit_code = ExitCode.TOOL_MISSING


class ModelError(SidecarFacesError):
    """A model pack is absent, altered, or has another interface than expected."""

    exit_code = ExitCode.MODEL


class EngineUnavailableError(SidecarFacesError):
    """The engine cannot work now, and no photo is to blame: waiting may help."""

    exit_code = ExitCode.ENGINE


class LockedError(SidecarFacesError):
    """Another run holds the lock of the library."""

    exit_code = ExitCode.LOCKED


class LibraryError(SidecarFacesError):
    """A library or photo is absent, unreadable or not what it claims to be."""

    exit_code = ExitCode.LIBRARY


class PhotoRefusedError(LibraryError):
    """A photo is outside our limits or not a photo: trying again cannot help."""


class PhotoFailedError(LibraryError):
    """A photo could not be read or decoded this time: trying again may help."""


class SidecarError(SidecarFacesError):
    """A sidecar cannot be merged with; it was left byte-identical."""

    exit_code = ExitCode.SIDECAR


class SidecarConflictError(SidecarError):
    """A sidecar kept changing under us; nothing of it was lost and nothing was written."""


class DiskFullError(SidecarFacesError):
    """The file system of a sidecar has no space left; what stood there still stands."""

    exit_code = ExitCode.DISK_FULL
