"""Messages for people, on stderr; structured, so that a daemon can send them elsewhere."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import structlog


def printable(path: str) -> str:
    """A path as one line of text: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def configure(*, verbose: bool, json: bool) -> None:
    """Send log lines to stderr: plain lines, or JSON objects for a collector."""
    warnings.filterwarnings("ignore", module="PIL")  # on odd metadata; what matters of it is said by us
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if not json else "iso"),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug" if verbose else "info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
