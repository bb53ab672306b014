"""Tell systemd how the service is: one datagram per message, as sd_notify(3) describes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that systemd named in the environment."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = b"\0" + os.fsencode(name[1:]) if name.startswith("@") else os.fsencode(name)
        self._watchdog_s = _watchdog_s(environment)

    @property
    def watchdog_every(self) -> float | None:
        """Seconds between two signs of life: a third of what systemd allows; None where it expects none."""
        return None if self._watchdog_s is None else self._watchdog_s / 3

    def send(self, **states: str) -> bool:
        """Send states such as READY="1"; False where nobody listens."""
        if not self._address:
            return False
        message = "\n".join(f"{name}={' '.join(value.split())}" for name, value in states.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError:  # a service must not die of a deaf manager
            return False
        return True


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    meant_for_us = not pid or pid == str(os.getpid())
    return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) and meant_for_us else None
