"""What the service counts, in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "resnestkit_requests", "Requests answered.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "resnestkit_request_seconds",
            "Seconds from headers to answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "resnestkit_batch_images", "Images of a batch.", buckets=_BATCHES, registry=registry
        )
        self._computing = Counter(
            "resnestkit_compute_seconds", "Seconds spent in the model.", registry=registry
        )

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """A request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_batch(self, images: int, seconds: float) -> None:
        """A batch that was computed."""
        self._batches.observe(images)
        self._computing.inc(seconds)

    def show(self, name: str, words: str, read: Callable[[], float]) -> None:
        """A number that is read when somebody asks."""
        Gauge(f"resnestkit_{name}", words, registry=self._registry).set_function(read)

    def to_text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
