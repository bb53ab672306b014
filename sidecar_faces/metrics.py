"""Numbers for Prometheus: on a port of this machine alone, or as a file for node_exporter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sidecar_faces.errors import ConfigError

_FILE_EVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class Metric:
    """One number per set of labels; `kind` is "counter" or "gauge". Names follow Prometheus' conventions."""

    name: str
    help: str
    kind: str
    labels: tuple[str, ...] = ()
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def add(self, value: float, *labels: str) -> None:
        """Set the number for one set of labels."""
        self.samples.append((labels, value))


Collect = Callable[[], Iterable[Metric]]


class _Collector:
    """Asks for the numbers whenever somebody looks."""

    def __init__(self, collect: Collect, families: dict[str, Any]) -> None:
        self._collect = collect
        self._families = families

    def collect(self) -> Iterator[Any]:
        """For prometheus_client."""
        for metric in self._collect():
            family = self._families[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.samples:
                family.add_metric(labels, value)
            yield family


def export(place: str, collect: Collect) -> AbstractContextManager[None]:
    """Offer the numbers while the block runs; `place` is the setting `metrics`.

    Raises ConfigError where prometheus-client is not installed or the place cannot be used.
    """
    if place == "off":
        return _nowhere()
    try:
        import prometheus_client  # noqa: PLC0415 - an extra that few need
        from prometheus_client import core  # noqa: PLC0415
    except ImportError:
        raise ConfigError("metrics need an extra package: pip install 'sidecar-faces[metrics]'.") from None
    registry = prometheus_client.CollectorRegistry()
    families = {"counter": core.CounterMetricFamily, "gauge": core.GaugeMetricFamily}
    registry.register(_Collector(collect, families))
    return _on_port(int(place), registry) if place.isdecimal() else _in_file(place, registry)


@contextmanager
def _nowhere() -> Iterator[None]:
    yield


@contextmanager
def _on_port(port: int, registry: Any) -> Iterator[None]:
    from prometheus_client import start_http_server  # noqa: PLC0415

    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ConfigError(f"metrics: port {port} cannot be used ({error.strerror}).") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _in_file(path: str, registry: Any) -> Iterator[None]:
    from prometheus_client import write_to_textfile  # noqa: PLC0415

    try:
        write_to_textfile(path, registry)
    except OSError as error:
        raise ConfigError(f"metrics: {path} cannot be written ({error.strerror}).") from None
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(_FILE_EVERY_S):
            with suppress(OSError):  # the old numbers stand; a full disk must not end the daemon
                write_to_textfile(path, registry)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
