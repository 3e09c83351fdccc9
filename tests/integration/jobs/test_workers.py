"""Rows of workers, on both databases."""

from __future__ import annotations

from core.jobs import workers
from core.jobs.database import Database
from core.jobs.models import Worker
from core.jobs.workers import Device

GPU = Device(uuid="GPU-1", name="NVIDIA H200", memory_bytes=150_000_000_000, driver="570.1")


def register(database: Database, boot_id: str = "wkr_a") -> None:
    with database.write() as session:
        workers.register(session, boot_id, "host-a", 1, "gpu,cpu", devices=[GPU], software={"torch": "2.13.0"})


def row(database: Database, boot_id: str = "wkr_a") -> Worker:
    with database.read() as session:
        found = session.get(Worker, boot_id)
    assert found is not None
    return found


def test_devices_and_versions_are_kept(database: Database) -> None:
    register(database)
    found = row(database)
    assert (found.devices, found.software, found.state) == ([GPU], {"torch": "2.13.0"}, "idle")
    assert (found.quarantined_reason, found.drain_requested) == (None, False)


def test_a_beat_moves_the_row_and_brings_back_what_an_operator_wants(database: Database) -> None:
    register(database)
    before = row(database).seen_at
    with database.write() as session:
        assert not workers.beat(session, "wkr_a", "busy", "job_x")
        session.get_one(Worker, "wkr_a").drain_requested = True
    with database.write() as session:
        assert workers.beat(session, "wkr_a", "draining", "job_x")
        assert not workers.beat(session, "wkr_nobody", "idle", None)
    found = row(database)
    assert (found.state, found.job_id) == ("draining", "job_x")
    assert found.seen_at > before


def test_quarantine_names_its_reason_until_it_is_lifted(database: Database) -> None:
    register(database)
    with database.write() as session:
        workers.quarantine(session, "wkr_a", "the device failed")
    assert (row(database).state, row(database).quarantined_reason) == ("quarantined", "the device failed")
    with database.write() as session:
        workers.quarantine(session, "wkr_a", None)
        workers.beat(session, "wkr_a", "idle", None)
    assert (row(database).state, row(database).quarantined_reason) == ("idle", None)
