"""Workers and queues, as an operator sees them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from core.jobs.census import QueueCount
from core.jobs.models import Worker
from core.jobs.workers import ShownState, shown_state


class DeviceView(BaseModel):
    """A GPU, as its driver describes it."""

    uuid: str
    name: str
    memory_bytes: int
    driver: str


class WorkerView(BaseModel):
    """A worker process, from its start on."""

    object: Literal["worker"] = "worker"
    id: str = Field(description="Boot id: drawn anew at each start.")
    host: str
    pid: int
    queues: list[str]
    devices: list[DeviceView] = Field(description="GPUs of its own; none on the CPU.")
    software: dict[str, str] = Field(description="Versions by name.")
    state: ShownState = Field(description="`lost`: silent for longer than a lease. `quarantined`: its device failed.")
    quarantined_reason: str | None
    drain_requested: bool = Field(description="It was asked to hand its job back and to take no more.")
    job_id: str | None
    started_at: datetime
    seen_at: datetime


def worker_view(row: Worker, at: datetime, silence_seconds: float) -> WorkerView:
    """Show a row; `at` is the database's time."""
    return WorkerView(
        id=row.boot_id, host=row.host, pid=row.pid, queues=served(row),
        devices=[DeviceView.model_validate(device) for device in row.devices], software=row.software,
        state=shown_state(row, at, silence_seconds), quarantined_reason=row.quarantined_reason,
        drain_requested=row.drain_requested, job_id=row.job_id, started_at=row.started_at, seen_at=row.seen_at,
    )


def served(row: Worker) -> list[str]:
    """Names of the queues that a worker serves."""
    return [name for name in row.queues.split(",") if name]


class QueueView(BaseModel):
    """Jobs that need the same resources, and who serves them."""

    object: Literal["queue"] = "queue"
    name: str
    depth: int = Field(description="Jobs that a worker may take now.")
    delayed: int = Field(description="Queued jobs whose next attempt is not due yet.")
    running: int
    oldest_seconds: float = Field(description="How long the oldest job of `depth` has been waiting; 0 when there is none.")
    workers: int = Field(description="Workers that serve the queue and take jobs.")


def queue_view(name: str, count: QueueCount, workers: int) -> QueueView:
    """Show a queue."""
    return QueueView(
        name=name, depth=count.queued, delayed=count.delayed, running=count.running,
        oldest_seconds=round(count.oldest_seconds, 3), workers=workers,
    )
