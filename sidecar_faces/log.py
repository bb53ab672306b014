"""Messages for people, on stderr; structured, so that a daemon can send them elsewhere."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import MutableMapping
from typing import Any

import structlog


def printable(path: str) -> str:
    """A path as one line of text: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def under_journal() -> bool:
    """Whether systemd connected stderr to its journal."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _journal_line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """The sentence, then its values; the journal keeps the time, and takes the priority from the prefix."""
    priority = _PRIORITIES.get(str(event.pop("level", "info")), 6)
    sentence = printable(str(event.pop("event", "")))
    values = structlog.processors.LogfmtRenderer()(None, "", event)
    return f"<{priority}>{sentence} {values}".rstrip()


def configure(*, verbose: bool, json: bool) -> None:
    """Send log lines to stderr: plain lines, journal lines under systemd, or JSON objects for a collector."""
    warnings.filterwarnings("ignore", module="PIL")  # on odd metadata; what matters of it is said by us
    warnings.filterwarnings("ignore", module="watchdog")  # on folders that it watches twice
    time: Any = structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S")
    exception: Any = structlog.processors.format_exc_info
    rendering: list[Any] = [time, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    if json:
        rendering = [time, exception, structlog.processors.JSONRenderer()]
    elif under_journal():
        rendering = [exception, _journal_line]
    structlog.configure(
        processors=[structlog.processors.add_log_level, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger("debug" if verbose else "info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
