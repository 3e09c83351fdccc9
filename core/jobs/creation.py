"""The row of a job that has just been accepted, whoever asked for it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from core.jobs.ids import new_id
from core.jobs.states import State
from core.specs.ingest import IngestSpec
from core.specs.job import DataOptions, DistillationSpec, JobSpec


def columns(spec: JobSpec, tenant_id: str, at: datetime) -> dict[str, Any]:
    """Values of a queued row under a new id; `at` is the database's time."""
    return {
        "id": new_id("job"), "tenant_id": tenant_id, "kind": spec.kind, "state": State.QUEUED,
        "spec": spec.model_dump(mode="json"), "recipe": spec.recipe if isinstance(spec, DistillationSpec) else "",
        "dataset": _dataset_of(spec),
        "queue": spec.queue, "priority": spec.priority, "attempt": 0, "failures": 0,
        "max_attempts": spec.max_attempts, "next_run_at": at, "send_count": 0, "event_seq": 0, "version": 1,
        "created_at": at, "queued_at": at,
    }


def _dataset_of(spec: JobSpec) -> str:
    """The data set that a job reads, or makes; empty where there is none."""
    match spec:
        case DataOptions():
            return spec.dataset.key
        case IngestSpec():
            return spec.dataset_id
        case _:
            return ""
