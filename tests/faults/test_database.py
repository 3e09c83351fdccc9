"""Rows D1 to D8: the database fails; no job is lost, doubled or taken from a worker that lives.

D6 (a fail-over that loses the last commits) is an installation's choice of replication; D9 (SQLite on a network share) is a
unit test with a simulated table of mounts.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from core.jobs.models import Job
from tests.faults.boundaries import small_disk
from tests.faults.stand import LEASE_SECONDS, RECOVERY_SECONDS, SLACK_SECONDS, Stand
from tests.faults.test_worker import gone

pytestmark = pytest.mark.faults

LONGER_THAN_A_LEASE = int(10 * (LEASE_SECONDS + 6))
"""Steps of a tenth of a second, so that a probe still runs when its lease looks expired."""

BODY = {"kind": "probe", "work": {"steps": 2}}


def test_d1_down_at_submission(stand: Stand) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    stand.postgres.stop()
    answer = stand.http.post("/v1/jobs", json=BODY, headers=key)
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert (answer.json()["code"], answer.json()["retryable"]) == ("database_unavailable", True)
    stand.postgres.start()
    with stand.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 0
    stand.wait_until(stand.ready, 20 + SLACK_SECONDS, "the API is ready again")
    assert stand.http.post("/v1/jobs", json=BODY, headers=key).status_code == 202


def test_d2_down_during_training(stand: Stand) -> None:
    worker = stand.serving_worker()
    job = stand.probe(steps=LONGER_THAN_A_LEASE)
    stand.stepped(job["id"], 3)
    stand.postgres.stop()
    time.sleep(LEASE_SECONDS + 2)
    assert worker.children(), "training goes on"
    stand.postgres.start()
    assert stand.succeeded(job["id"], attempts=1)["failures"] == 0


def test_d3_restart_when_every_lease_looks_expired(stand: Stand) -> None:
    """Also trap 4."""
    for _ in range(2):
        stand.serving_worker()
    made = [stand.probe(steps=LONGER_THAN_A_LEASE) for _ in range(2)]
    for job in made:
        stand.stepped(job["id"], 2)
    stand.postgres.crash()
    time.sleep(LEASE_SECONDS + 2)
    stand.postgres.start()
    for job in made:
        assert stand.succeeded(job["id"], attempts=1)["failures"] == 0


def test_d4_one_worker_is_cut_off(stand: Stand) -> None:
    alone = stand.serving_worker()
    job = stand.probe(steps=60)
    stand.stepped(job["id"], 7)
    alone.db.cut()
    stand.in_state(job["id"], "queued", RECOVERY_SECONDS)
    stand.worker()
    stand.in_state(job["id"], "running")
    alone.db.heal()
    gone(stand, alone)
    done = stand.succeeded(job["id"], attempts=2)
    assert done["failures"] == 1
    assert "attempt_discarded" in alone.log.read_text()
    assert alone.running


def test_d5_fails_in_the_committing_transaction(stand: Stand) -> None:
    worker = stand.serving_worker()
    commit = worker.db.catch(b"COMMIT", after=b"INSERT INTO artifacts")
    job = stand.probe()
    commit.wait()
    stand.postgres.crash()
    commit.drop()
    stand.postgres.start()
    stand.wait_until(stand.ready, 20 + SLACK_SECONDS, "the API is ready again")
    stand.succeeded(job["id"], attempts=1)


def test_d7_a_revision_that_this_code_does_not_know(stand: Stand) -> None:
    stand.serving_worker()
    job = stand.probe(steps=30)
    stand.stepped(job["id"], 2)
    with stand.database.write() as session:
        known = session.scalar(sa.text("SELECT version_num FROM alembic_version"))
        session.execute(sa.text("UPDATE alembic_version SET version_num = 'of_tomorrow'"))
    try:
        stand.wait_until(lambda: not stand.ready(), 20 + SLACK_SECONDS, "the API refuses the revision")
        stand.in_state(job["id"], "succeeded", 30)
    finally:
        with stand.database.write() as session:
            session.execute(sa.text("UPDATE alembic_version SET version_num = :known"), {"known": known})
    stand.wait_until(stand.ready, 20 + SLACK_SECONDS, "the API is ready again")
    stand.succeeded(job["id"], attempts=1)


def fill(path: Path) -> None:
    """Leave no room on the disk of a file."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as target:
        while target.write(bytes(4096)):
            pass


def test_d8_the_disk_is_full(stand: Stand) -> None:
    """The events of jobs are moved to a small disk, which then is filled."""
    stand.serving_worker()
    done = stand.probe(steps=2)
    stand.succeeded(done["id"], attempts=1)
    place = stand.postgres.folder / "small"
    admin = sa.create_engine(stand.database_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with small_disk(place, 4 << 20, stand.postgres.account):
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{place}'")
            connection.exec_driver_sql("ALTER TABLE events SET TABLESPACE small")
        try:
            filler = place / "filler"
            fill(filler)
            answers = [stand.http.post("/v1/jobs", json=BODY | {"priority": "low"})]
            while answers[-1].status_code == 202 and len(answers) < 300:
                answers.append(stand.http.post("/v1/jobs", json=BODY | {"priority": "low"}))
            assert answers[-1].status_code == 503, answers[-1].text
            assert answers[-1].json()["code"] == "database_unavailable"
            assert stand.http.get(f"/v1/jobs/{done['id']}").status_code == 200
            stand.download(stand.artifacts(done["id"])["probe.bin"])
            with stand.http.stream("GET", f"/v1/jobs/{done['id']}/events/stream") as stream:
                assert sum(line.startswith("data:") for line in stream.iter_lines()) == len(stand.events(done["id"]))
            filler.unlink()
            stand.succeeded(stand.probe(steps=2, priority="high")["id"], attempts=1, seconds=120)
        finally:
            (place / "filler").unlink(missing_ok=True)
            stand.clear()
            with admin.connect() as connection:
                connection.exec_driver_sql("ALTER TABLE events SET TABLESPACE pg_default")
                connection.exec_driver_sql("DROP TABLESPACE small")
                connection.exec_driver_sql("CHECKPOINT")  # a crash in a later test would look for the small disk


def test_d7_a_worker_older_than_the_job(stand: Stand) -> None:
    """Simulated: a specification of a kind that no worker here knows. It is handed back, uncounted, until one does."""
    job = stand.probe(steps=3)
    change = sa.text("UPDATE jobs SET spec = jsonb_set(spec, '{kind}', to_jsonb(CAST(:kind AS text))) WHERE id = :id")
    with stand.database.write() as session:
        session.execute(change, {"kind": "of_tomorrow", "id": job["id"]})
    old = stand.serving_worker()
    stand.wait_until(lambda: "specification_unknown" in old.log.read_text(), 60 + SLACK_SECONDS, "the worker refuses")
    with stand.database.write() as session:
        session.execute(change, {"kind": "probe", "id": job["id"]})
    assert stand.succeeded(job["id"], seconds=90)["failures"] == 0
    assert old.running
