"""`GET /metrics`, for Prometheus: what this process counts by itself, and what SQL says of jobs and workers at that moment.

No label holds an id. One registry for each application, and one application for each process: gauges that are read from SQL
cannot be added up over processes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import Scope

from api.jobs.feed import Feed
from core.errors import DatabaseUnavailableError
from core.jobs import census, totals
from core.jobs.census import QueueCount
from core.jobs.database import Database
from core.jobs.queue import QUEUES

log = logging.getLogger(__name__)

router = APIRouter(tags=["service"])

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Monitoring:
    """The registry of one application, and what its requests are counted by."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "distill_http_requests", "Requests by route template.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "distill_http_request_seconds", "Time until the answer begins.", ("route",), buckets=SECONDS, registry=self.registry
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request; `seconds` is the time until its answer began."""
        route = str(getattr(scope.get("route"), "path", "unmatched"))
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


COUNTERS = {
    "attempts": "Attempts that ended, by outcome.",
    "leases_expired": "Attempts whose worker stopped renewing.",
    "jobs_finished": "Jobs that are over.",
    "fence_rejections": "Attempts that found their job given away, when renewing or when committing.",
}
"""What `core.jobs.totals` has, and what it means."""
FROM_THE_START: dict[str, tuple[tuple[str, ...], ...]] = {
    "leases_expired": ((),), "fence_rejections": tuple((op,) for op in totals.FENCED_OPS),
}
"""Counters that are shown as 0 before they are counted: an alarm that watches for a rise must not miss the first."""
SUMMARIES = {
    "job_queue_seconds": "From creation to the first start, of jobs that are over.",
    "job_run_seconds": "From the first start to the end, of jobs that are over.",
}


class SqlCollector(Collector):
    """Gauges and totals read at scrape time. While the database is away, only that is said."""

    def __init__(self, database: Database, feed: Feed, silence_seconds: float) -> None:
        self._database = database
        self._feed = feed
        self._silence = silence_seconds

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect in order to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every gauge."""
        yield GaugeMetricFamily("distill_sse_connections", "Open event streams.", self._feed.followers)
        try:
            found = [*self._read(), *self._totals()]
        except DatabaseUnavailableError as error:
            log.warning("metrics without the database: %s", error.message)
            found = []
        yield GaugeMetricFamily("distill_database_up", "Whether the database answers.", float(bool(found)))
        yield from found

    def _read(self) -> Iterator[Metric]:
        with self._database.read() as session:
            jobs, queues = census.jobs(session), census.queues(session)
            workers, outbox = census.worker_states(session, self._silence), census.outbox(session)
            ages = census.tick_ages(session)
        counted = GaugeMetricFamily("distill_jobs", "Jobs by state and queue.", labels=("state", "queue"))
        for job in jobs:
            counted.add_metric((job.state, job.queue), job.jobs)
        yield counted
        oldest = GaugeMetricFamily("distill_queue_oldest_seconds", "Wait of the oldest job that is due.", labels=("queue",))
        for name in dict.fromkeys([*QUEUES, *queues]):
            oldest.add_metric((name,), queues.get(name, QueueCount()).oldest_seconds)
        yield oldest
        seen = GaugeMetricFamily("distill_workers", "Workers by state.", labels=("state",))
        for state, count in workers.items():
            seen.add_metric((state,), count)
        yield seen
        yield GaugeMetricFamily("distill_outbox_rows", "Due jobs that no message was sent for.", outbox.rows)
        yield GaugeMetricFamily("distill_outbox_oldest_seconds", "Wait of the oldest of them.", outbox.oldest_seconds)
        for name, age in ages.items():
            yield GaugeMetricFamily(f"distill_{name}_last_tick_seconds", f"Time since the {name} last worked.", age)

    def _totals(self) -> Iterator[Metric]:
        with self._database.read() as session:
            found = totals.read(session)
        for name, help_text in COUNTERS.items():
            counter = CounterMetricFamily(f"distill_{name}", help_text, labels=totals.LABELS[name])
            for labels, value in _labelled(found, name):
                counter.add_metric(labels, value)
            yield counter
        for name, help_text in SUMMARIES.items():
            summary = SummaryMetricFamily(f"distill_{name}", help_text, labels=totals.LABELS[name])
            for labels, jobs in _labelled(found, "jobs_started"):
                summary.add_metric(labels, int(jobs), found[name, labels])
            yield summary


def _labelled(found: totals.Totals, name: str) -> list[tuple[tuple[str, ...], float]]:
    """The values of one total by its labels."""
    values = dict.fromkeys(FROM_THE_START.get(name, ()), 0.0)
    values |= {labels: value for (total, labels), value in sorted(found.items()) if total == name}
    return list(values.items())


@router.get(
    "/metrics", response_class=Response,
    responses={200: {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    monitoring: Monitoring = request.app.state.monitoring
    return Response(generate_latest(monitoring.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
