"""The Celery application of a worker process: one task, and the signal that starts a drain.

This process supervises; it never imports torch.
"""

from __future__ import annotations

import threading

import structlog
from celery import Celery
from celery.signals import worker_shutting_down

from core.jobs.ids import is_id
from core.jobs.queue import RUN_JOB, celery_app
from core.settings import Settings
from worker.supervisor import Supervisor

log = structlog.get_logger(__name__)


def make_app(settings: Settings, supervisor: Supervisor) -> Celery:
    """Register the task on the shared configuration. A message is a job id; anything else is dropped with a log line."""
    app = celery_app(settings)

    @app.task(name=RUN_JOB)
    def run_job(job_id: object) -> None:
        if not isinstance(job_id, str) or not is_id(job_id, "job"):
            log.warning("message_is_not_a_job_id")
            return
        with structlog.contextvars.bound_contextvars(job_id=job_id):
            try:
                supervisor.run(job_id)
            except Exception:
                log.exception("supervisor_failed")  # the lease runs out and the reconciler takes the job back
                raise

    return app


def drain_on_shutdown(draining: threading.Event, on_drain: list[object]) -> None:
    """Start the drain when Celery begins its warm shutdown. The handler runs inside a signal handler: it sets an event."""

    def handler(**_: object) -> None:
        draining.set()

    on_drain.append(handler)  # Celery keeps weak references only
    worker_shutting_down.connect(handler)
