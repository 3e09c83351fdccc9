"""Messages over a real broker: what is sent can be counted, and an outage stops nobody for good."""

from __future__ import annotations

import time

import pytest

from core.jobs.database import Database
from core.jobs.queue import Sender, Ticket, celery_app, depth, publish
from core.settings import Settings
from tests.fixtures import jobs
from worker.reconciler import Reconciler

pytestmark = pytest.mark.integration


@pytest.fixture(params=["valkey", "redis"])
def broker_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


def test_an_empty_queue_has_no_messages_and_a_sent_one_is_counted(broker_url: str) -> None:
    app = celery_app(Settings(broker_url=broker_url))
    assert depth(app, "cpu") == 0
    for priority in ("low", "high", "normal"):
        publish(app, "job_x", "cpu", priority)  # type: ignore[arg-type]
    assert depth(app, "cpu") == 3
    app.close()


def test_the_reconciler_sends_what_was_lost_once(broker_url: str, sqlite_url: str) -> None:
    settings = Settings(broker_url=broker_url, resend_seconds=0.2)
    database, app = Database(sqlite_url), celery_app(settings)
    job = jobs.create(database)
    reconciler = Reconciler(database, settings)
    reconciler.tick()
    assert depth(app, "cpu") == 1
    time.sleep(0.3)
    reconciler.tick()
    assert depth(app, "cpu") == 1, "a message that still waits in line is not repeated"
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("cpu")
    time.sleep(0.3)
    reconciler.tick()
    assert depth(app, "cpu") == 1, "a message that was lost is"
    assert jobs.get(database, job.id).send_count == 2
    app.close()
    database.dispose()


def test_a_foreign_message_in_the_queue_delays_a_lost_one_and_does_not_block_it(broker_url: str, sqlite_url: str) -> None:
    settings = Settings(broker_url=broker_url, resend_seconds=0.1, resend_crowded_seconds=1.0)
    database, app = Database(sqlite_url), celery_app(settings)
    job = jobs.create(database)
    reconciler = Reconciler(database, settings)
    reconciler.tick()
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("cpu")
    publish(app, "job_nobody", "cpu", "normal")
    time.sleep(0.2)
    reconciler.tick()
    assert (depth(app, "cpu"), jobs.get(database, job.id).send_count) == (1, 1), "not yet: it may still stand in line"
    time.sleep(1.0)
    reconciler.tick()
    assert (depth(app, "cpu"), jobs.get(database, job.id).send_count) == (2, 2)
    app.close()
    database.dispose()


def test_a_broker_that_is_away_costs_nothing_but_time(sqlite_url: str) -> None:
    settings = Settings(broker_url="redis://127.0.0.1:1/0", publish_timeout_seconds=0.5)
    database = Database(sqlite_url)
    job = jobs.create(database)
    sender = Sender(celery_app(settings), database)
    sender.send(Ticket(job.id, 0, "cpu", "normal"))  # returns at once; what becomes of it is not waited for
    Reconciler(database, settings).tick()
    assert jobs.get(database, job.id).sent_at is None
    database.dispose()
