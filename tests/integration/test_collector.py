"""Checkpoints on their way from a child to the store: the row always names bytes that are there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from core.jobs.database import Database
from core.settings import Settings
from core.specs.report import CheckpointLine, MetricLine, ProgressLine
from core.store.objects import open_store
from tests.fixtures import jobs
from worker.collector import Collector

pytestmark = pytest.mark.integration


def test_later_checkpoints_of_one_iteration_replace_the_row_and_not_its_bytes(sqlite_url: str, tmp_path: Path) -> None:
    database, store = Database(sqlite_url), open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
    job = jobs.create(database)
    collector = Collector(database, store, jobs.claim(database, job.id).lease, tmp_path)
    for content in (b"first", b"second"):  # as during evaluation: same iteration, more finished networks
        (tmp_path / "c").write_bytes(content)
        collector.take(CheckpointLine(step=300, file="c"))
        collector.wait_for_checkpoint()
        (kept,) = store.keys("jobs")
        with database.write() as session:
            from core.jobs.models import Checkpoint

            (row,) = session.query(Checkpoint).all()
        assert (row.step, row.key, row.sha256) == (300, kept, hashlib.sha256(content).hexdigest())
    collector.close()
    database.dispose()


def test_a_checkpoint_that_its_child_has_replaced_is_passed_over(sqlite_url: str, tmp_path: Path) -> None:
    database, store = Database(sqlite_url), open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
    job = jobs.create(database)
    collector = Collector(database, store, jobs.claim(database, job.id).lease, tmp_path)
    collector.take(CheckpointLine(step=1, file="gone"))
    collector.wait_for_checkpoint()
    assert store.keys("jobs") == []
    collector.close()
    database.dispose()


def test_a_long_call_that_says_the_same_makes_one_event(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.collector.EVENT_SECONDS", 0.0)
    database, store = Database(sqlite_url), open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
    job = jobs.create(database)
    collector = Collector(database, store, jobs.claim(database, job.id).lease, tmp_path)
    for message in ("reading", "reading", "reading", "checking", "checking"):
        collector.take(ProgressLine(phase="preparing", step=0, total_steps=0, message=message))
        collector.flush()
    assert [kind for _, kind in jobs.event_types(database, job.id)].count("job.progress") == 2
    collector.close()
    database.dispose()


def test_progress_of_a_phase_is_coalesced_between_flushes(sqlite_url: str, tmp_path: Path) -> None:
    database, store = Database(sqlite_url), open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
    job = jobs.create(database)
    collector = Collector(database, store, jobs.claim(database, job.id).lease, tmp_path)
    for step in range(1, 101):
        collector.take(ProgressLine(phase="distilling", step=step, total_steps=100, seconds_per_step=0.5))
        collector.take(MetricLine(name="loss", step=step, value=None if step == 50 else 1.0))
    collector.flush()
    row = jobs.get(database, job.id)
    assert row.progress is not None
    assert (row.progress["step"], row.progress["fraction"], row.progress["eta_seconds"]) == (100, 1.0, 0.0)
    assert [kind for _, kind in jobs.event_types(database, job.id)].count("job.progress") == 1
    collector.close()
    database.dispose()
