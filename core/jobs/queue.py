"""Celery as the queue: its settings, each with a reason, and sending after commit.

A message is a job id and nothing else. A message that is lost, doubled or late changes nothing but latency, because the
claim in SQL decides. Publishing happens in a thread of its own, never inside a request or a transaction.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any, NamedTuple

from celery import Celery
from kombu import Queue
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from core.errors import DistillError
from core.jobs import recovery
from core.jobs.database import Database
from core.settings import Settings
from core.specs.run_options import Priority

log = logging.getLogger(__name__)

RUN_JOB = "distill.run_job"
BROKER_ERRORS: tuple[type[Exception], ...] = (OSError, KombuError, RedisError)
"""What a broker's client raises when the broker is away, full or frozen."""

_SENDING_ERRORS: tuple[type[Exception], ...] = (*BROKER_ERRORS, DistillError)

QUEUES = ("cpu", "gpu", "control")

PRIORITY_LEVELS: dict[Priority, int] = {"high": 0, "normal": 3, "low": 6}
"""On the Redis transport 0 is the highest, and ten levels fold into four lists at 0, 3, 6 and 9."""


def celery_app(settings: Settings) -> Celery:
    """The Celery application, the same for the sender and for the worker."""
    app = Celery("distill", broker=settings.broker, set_as_current=False)
    app.conf.update(
        result_backend=None, task_ignore_result=True,  # state is in SQL; a second copy would expire and disagree
        # The Redis transport redelivers whatever stays unacknowledged for `visibility_timeout`, healthy or not. With early
        # acknowledgement the message is gone before the job starts, and the lease takes over.
        task_acks_late=False,
        task_reject_on_worker_lost=False,  # the lease handles loss; requeueing from the broker can loop
        worker_disable_prefetch=True,  # a busy worker must not reserve a message an idle one could take
        worker_prefetch_multiplier=1,  # the same, where the broker is not Redis
        worker_concurrency=1,
        worker_pool="threads",  # the supervisor stays responsive; training runs in its own child process
        task_publish_retry=False,  # a publish that timed out may have happened; the reconciler repeats instead
        broker_transport_options={
            "socket_timeout": settings.publish_timeout_seconds,  # without one, a vanished broker blocks for ever
            "socket_connect_timeout": min(3.0, settings.publish_timeout_seconds),
            "socket_keepalive": True,
            "visibility_timeout": settings.visibility_seconds,  # matters only between delivery and early acknowledgement
            "unacked_restore_interval": min(10, settings.visibility_seconds),
            "unacked_restore_throttle": 1,
            "global_keyprefix": "distill:",  # several applications may share one server
            "priority_steps": sorted({*PRIORITY_LEVELS.values(), 9}),
            "queue_order_strategy": "priority",
        },
        task_queues=[Queue(name) for name in QUEUES],
        task_default_queue="control",
        task_create_missing_queues=False,  # a misspelled queue fails instead of becoming a list nobody reads
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker survives an outage of any length
        worker_cancel_long_running_tasks_on_connection_loss=False,  # jobs do not depend on the broker
        worker_soft_shutdown_timeout=0,  # plain SIGTERM and our own drain
        task_serializer="json", accept_content=["json"],  # never pickle
        worker_send_task_events=False,
        worker_hijack_root_logger=False, worker_redirect_stdouts=False,  # our structured logs stay ours
        enable_utc=True, timezone="UTC",
    )
    return app


def publish(app: Celery, job_id: str, queue_name: str, priority: Priority) -> None:
    """Send one message. Raises whatever the broker's client raises; nothing is retried."""
    app.send_task(RUN_JOB, args=[job_id], queue=queue_name, priority=PRIORITY_LEVELS[priority])


def depth(app: Celery, queue_name: str) -> int:
    """Messages waiting in a queue, over all priorities. Raises one of `BROKER_ERRORS` when the broker is away."""
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        # Not passive: on Redis that looks for the key without `global_keyprefix`, and never finds it.
        return int(channel.queue_declare(queue_name).message_count)


class Ticket(NamedTuple):
    """A committed job that wants a message."""

    job_id: str
    attempt: int
    """Attempts so far."""
    queue: str
    priority: Priority


class Sender:
    """Publishes tickets from a thread of its own and marks the rows as sent.

    Best effort by design: what fails here, or dies with the process, is found by the reconciler because `sent_at` is null.
    """

    def __init__(self, app: Celery, database: Database) -> None:
        self._app = app
        self._database = database
        self._tickets: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def send(self, ticket: Ticket) -> None:
        """Hand a ticket over; returns at once. Call it after the commit."""
        self._tickets.put(ticket)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Stop after the tickets handed over so far, or after the time-out."""
        self._tickets.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (ticket := self._tickets.get()) is not None:
            try:
                publish(self._app, ticket.job_id, ticket.queue, ticket.priority)
                with self._database.write() as session:
                    recovery.mark_sent(session, ticket.job_id, ticket.attempt)
            except _SENDING_ERRORS as error:
                log.warning("message not sent, the reconciler will: %s (%s)", ticket.job_id, error)
            except Exception:
                log.exception("message not sent: %s", ticket.job_id)  # the thread outlives any surprise
