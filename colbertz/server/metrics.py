"""What Prometheus reads at `/metrics`."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from colbertz.server.errors import UnknownIndex
from colbertz.server.root import Root

# Seconds. Searches take milliseconds, encoding long texts seconds.
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
# Other words in their place, which a client may invent, are counted together.
_METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Metrics:
    """Counters of one server; several in a process do not disturb each other."""

    registry: CollectorRegistry
    requests: Counter
    seconds: Histogram
    in_flight: Gauge

    @classmethod
    def of(cls, root: Root) -> "Metrics":
        registry = CollectorRegistry()
        registry.register(IndexCollector(root))
        labels = ("method", "route", "status")
        return cls(
            registry,
            Counter("colbertz_requests", "Requests that were answered", labels, registry=registry),
            Histogram("colbertz_request_seconds", "Their time", labels[:2], registry=registry, buckets=_BUCKETS),
            Gauge("colbertz_requests_in_flight", "Requests that are being answered", registry=registry),
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else "OTHER"
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class IndexCollector(Collector):
    """Reads the state of the indexes when Prometheus asks."""

    def __init__(self, root: Root) -> None:
        self.root = root

    def collect(self) -> Iterable[Metric]:
        documents = GaugeMetricFamily("colbertz_documents", "Documents of an index", labels=["index"])
        generation = GaugeMetricFamily("colbertz_generation", "Generation of an index", labels=["index"])
        queued = GaugeMetricFamily("colbertz_queued_operations", "Writes that wait", labels=["index"])
        for name in self.root.names():
            with suppress(UnknownIndex):  # it was dropped meanwhile
                index = self.root.index(name)
                view = index.snapshot()
                documents.add_metric([name], len(view))
                generation.add_metric([name], view.generation)
                queued.add_metric([name], index.queued)
        return (documents, generation, queued)
