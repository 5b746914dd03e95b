"""What Prometheus is told: counts and times, nothing that a client sent."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

OTHER_ROUTE = "other"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "dermascan_http_requests",
            "Requests answered, by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "dermascan_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._images = Counter(
            "dermascan_images",
            "Images, scored (ok) or rejected for a reason.",
            ["outcome"],
            registry=registry,
        )
        self._waiting = Gauge(
            "dermascan_queue_images", "Images that wait for the model.", registry=registry
        )
        self._model = Gauge(
            "dermascan_model_info",
            "The version that answers.",
            ["model", "version"],
            registry=registry,
        )
        self._swaps = Counter(
            "dermascan_model_swaps", "Versions that were loaded and took over.", registry=registry
        )
        self._swap_failures = Counter(
            "dermascan_model_swap_failures",
            "Champions that could not be loaded, once for each try.",
            registry=registry,
        )
        self._poll_failures = Counter(
            "dermascan_champion_poll_failures",
            "Looks at the champion pointer that failed.",
            registry=registry,
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def image(self, outcome: str) -> None:
        """Count an image by `ok` or the code of its refusal."""
        self._images.labels(outcome).inc()

    def watch_queue(self, waiting_images: Callable[[], int]) -> None:
        """Ask for the queue's length whenever Prometheus asks."""
        self._waiting.set_function(waiting_images)

    def swapped(self, model: str, version: int) -> None:
        """Note which version answers from now on."""
        self._swaps.inc()
        self._model.clear()
        self._model.labels(model, str(version)).set(1)

    def swap_failed(self) -> None:
        """Count a version that could not be loaded."""
        self._swap_failures.inc()

    def poll_failed(self) -> None:
        """Count a look at the pointer that failed."""
        self._poll_failures.inc()

    def text(self) -> bytes:
        """Return the figures in Prometheus's text format."""
        return generate_latest(self._registry)
