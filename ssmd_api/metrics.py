"""What the API counts; paths are the routes' patterns, never what a client wrote."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)


class Metrics:
    """Counters of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("ssmd_api_requests", "Requests", ["method", "path", "status"], registry=registry)
        self.seconds = Histogram(
            "ssmd_api_request_duration_seconds", "Time to the answer's end", ["method", "path"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.by_key = Counter("ssmd_api_key_requests", "Requests by key", ["key_prefix"], registry=registry)
        self.rate_limit_hits = Counter(
            "ssmd_api_rate_limit_hits", "Requests refused for their number", ["key_prefix"], registry=registry
        )
        self.records_served = Counter(
            "ssmd_data_records_served", "Rows in answers about captured data", ["feed"], registry=registry
        )
        self.datasets_scanned = Counter(
            "ssmd_data_datasets_scanned", "Parquet files read for answers", ["feed"], registry=registry
        )
        self.in_flight = Gauge("ssmd_api_requests_in_flight", "Requests being answered", registry=registry)
