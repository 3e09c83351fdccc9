"""A child that SIGKILL does not end. Simulated: the signal is withheld; a real one hangs in the kernel."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.jobs.database import Database
from core.jobs.models import Attempt, Worker
from core.jobs.queue import Sender, celery_app
from core.settings import Settings
from core.store.objects import open_store
from tests.fixtures import jobs
from worker import child as child_module
from worker.child import Child
from worker.host import Host
from worker.supervisor import Supervisor

pytestmark = pytest.mark.integration

HANG = {"fault": {"kind": "hang"}}


class Site:
    """A supervisor without a consumer, whose children live until they are let go."""

    def __init__(self, database: Database, folder: Path, **settings: float) -> None:
        self.database = database
        self.settings = Settings.model_validate({"home": folder, "store_url": (folder / "objects").as_uri()} | settings)
        self.host = Host(self.settings, "cpu", [])
        self.sender = Sender(celery_app(self.settings), database)
        self.supervisor = Supervisor(database, open_store(self.settings), self.sender, self.settings, self.host)
        self.host.start_heartbeat(database)

    def worker_state(self) -> str:
        with self.database.read() as session:
            return session.scalars(sa.select(Worker.state)).one()

    def outcomes(self) -> list[tuple[str | None, str | None]]:
        with self.database.read() as session:
            rows = session.scalars(sa.select(Attempt).order_by(Attempt.number)).all()
        return [(row.outcome, (row.error or {}).get("code")) for row in rows]

    def close(self) -> None:
        self.sender.close()
        self.host.stop(self.database)


@pytest.fixture
def immortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Child]]:
    """The children that were to be killed; from the end of the test on the signal works again."""
    spared: list[Child] = []
    with monkeypatch.context() as patched:
        patched.setattr(child_module, "CLOSE_SECONDS", 0.2)
        patched.setattr(Child, "kill", lambda child: spared.append(child))  # a function, so that it is bound
        yield spared
    for child in set(spared):
        child.close()


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def test_its_job_is_tried_again_and_its_worker_waits_for_its_end(
    sqlite_url: str, tmp_path: Path, immortal: list[Child]
) -> None:
    database = Database(sqlite_url)
    site = Site(database, tmp_path, stall_seconds=1.0, unkillable_seconds=0.5, self_test_seconds=0.1, renew_seconds=0.2)
    job = jobs.create_probe(database, **HANG)
    running = threading.Thread(target=site.supervisor.run, args=(job.id,))
    running.start()
    until(lambda: site.worker_state() == "quarantined")
    row = jobs.get(database, job.id)
    assert (row.state, row.failures) == ("queued", 1)
    assert site.outcomes() == [("failed", "device_fault")]
    (hanging,) = set(immortal)
    assert hanging.poll() is None
    time.sleep(1.0)  # ten tests could have begun
    assert set(immortal) == {hanging}
    assert running.is_alive()

    os.killpg(hanging.pid, signal.SIGKILL)
    running.join(timeout=60)
    assert not running.is_alive()
    until(lambda: site.worker_state() == "idle")
    site.close()
    database.dispose()


def test_a_drain_is_not_held_against_its_job(sqlite_url: str, tmp_path: Path, immortal: list[Child]) -> None:
    database = Database(sqlite_url)
    site = Site(database, tmp_path, drain_seconds=0.5, unkillable_seconds=0.5)
    job = jobs.create_probe(database, **HANG)
    running = threading.Thread(target=site.supervisor.run, args=(job.id,))
    running.start()
    until(lambda: jobs.get(database, job.id).state == "running")
    site.host.draining.set()
    running.join(timeout=30)
    assert not running.is_alive()
    row = jobs.get(database, job.id)
    assert (row.state, row.failures) == ("queued", 0)
    assert immortal
    site.close()
    database.dispose()
