"""What Prometheus may know of the gateway: counts and times, never text."""

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()
REQUESTS = Counter(
    "modelport_gateway_requests", "Requests by status.", ["endpoint", "status"], registry=REGISTRY
)
IN_FLIGHT = Gauge("modelport_gateway_in_flight", "Requests under way.", registry=REGISTRY)
TTFT = Histogram(
    "modelport_gateway_ttft_seconds",
    "From the request's last byte to the first content of its answer.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)


@lru_cache(maxsize=256)
def requests(endpoint: str, status: int) -> Counter:
    """Of one endpoint and status; what is no endpoint of ours counts as none."""
    return REQUESTS.labels(endpoint or "none", str(status))


def exposition() -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(REGISTRY)


class Series:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def begin(self) -> None:
        IN_FLIGHT.inc()

    def withdraw(self) -> None:
        IN_FLIGHT.dec()

    def refuse(self, status: int) -> None:
        requests(self.endpoint, status).inc()

    def end(self, status: int, used: object, seconds: float, ttft: float) -> None:
        IN_FLIGHT.dec()
        requests(self.endpoint, status).inc()
        if ttft >= 0:
            TTFT.observe(ttft)


@lru_cache(maxsize=1024)
def series(organization_id: bytes, instance_id: bytes, model: str, endpoint: str) -> Series:
    return Series(endpoint)
