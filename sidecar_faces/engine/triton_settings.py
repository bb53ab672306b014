"""How to talk to Triton servers; apart from the client, so that choosing an engine need not import gRPC."""

from __future__ import annotations

from dataclasses import dataclass

PROBE_TIMEOUT_S = 5.0
PATIENCE = 3
"""A request is not begun again once it has taken this many timeouts."""


@dataclass(frozen=True, slots=True)
class TritonSettings:
    """Where servers are and how to talk to them; small and picklable.

    `urls`: HOST:PORT each, tried in turn. `timeout`: seconds for one request. `attempts`: tries of a request
    before the server counts as unavailable. `tls`: encrypt; `tls_ca`, `tls_cert`, `tls_key`: PEM files, empty
    for the system's roots and no client certificate. `token`: sent as a bearer token and as the header of
    Triton's restricted protocols. `shared_memory`: hand tensors over through /dev/shm where the server is on
    this machine.
    """

    urls: tuple[str, ...] = ("localhost:8001",)
    timeout: float = 20.0
    attempts: int = 6
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    token: str = ""
    shared_memory: bool = True

    @property
    def longest(self) -> float:
        """Seconds after which a request has surely ended, one way or the other."""
        return (PATIENCE + 2) * (self.timeout + PROBE_TIMEOUT_S)
