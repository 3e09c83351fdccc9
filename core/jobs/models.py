"""The tables. `tenant_id` stands in every one; states are VARCHAR with a CHECK, because native enums are hard to change."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.jobs.database import UtcDateTime
from core.jobs.states import State

DEFAULT_TENANT = "local"
Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_Id = String(64)
_STATES = ", ".join(f"'{state.value}'" for state in State)


class Base(DeclarativeBase):
    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: Json}


class Job(Base):
    """A job, and its own outbox: a `queued` row whose `sent_at` is null or old is sent (again) by the reconciler."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        UniqueConstraint("tenant_id", "content_key"),
        Index("ix_jobs_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
        Index("ix_jobs_state_next_run_at", "state", "next_run_at"),
        Index("ix_jobs_state_lease_until", "state", "lease_until"),
        Index("ix_jobs_deleted_at", "deleted_at"),
        Index("ix_jobs_parent_id", "parent_id"),
        Index("ix_jobs_tenant_id_dataset", "tenant_id", "dataset"),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(_Id)
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]]
    recipe: Mapped[str] = mapped_column(String(64))
    dataset: Mapped[str] = mapped_column(String(64))
    queue: Mapped[str] = mapped_column(String(32))
    priority: Mapped[str] = mapped_column(String(8))

    attempt: Mapped[int]
    """Fencing token: grows with every claim, stands in the WHERE of every write that matters."""
    failures: Mapped[int]
    """Attempts that ended badly; the limit counts these."""
    max_attempts: Mapped[int]
    boot_id: Mapped[str | None] = mapped_column(_Id)
    lease_until: Mapped[datetime | None]
    next_run_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    send_count: Mapped[int]

    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    reason: Mapped[dict[str, Any] | None]
    """Why the state is what it is: `{code, message}`."""

    event_seq: Mapped[int]
    version: Mapped[int]
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    parent_id: Mapped[str | None] = mapped_column(_Id, ForeignKey("jobs.id"))
    """The job that asked for this one; others may need it as well."""
    retried_from: Mapped[str | None] = mapped_column(_Id)
    """The job that this one repeats. Not a foreign key: the older job may be deleted and forgotten."""
    content_key: Mapped[str | None] = mapped_column(String(128))
    """What the job makes, where others share its result: one job for each key. Cleared when it ends badly or is deleted."""
    deleted_at: Mapped[datetime | None]
    """Hidden from every read since then; the sweeper collects its bytes and rows."""


class JobDependency(Base):
    """A job needs another one to succeed before it runs."""

    __tablename__ = "job_dependencies"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    needs_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True, index=True)
    tenant_id: Mapped[str] = mapped_column(_Id)


class Attempt(Base):
    """One claim of a job by one worker."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(_Id)
    boot_id: Mapped[str] = mapped_column(_Id)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(16))
    error: Mapped[dict[str, Any] | None]
    resumed_from_step: Mapped[int]
    log_key: Mapped[str | None] = mapped_column(String(512))
    """What its child wrote for people, where it could be stored."""
    log_bytes: Mapped[int | None] = mapped_column(sa.BigInteger)


class Event(Base):
    """What happened to a job; `seq` counts from 1 without gaps and becomes visible in order."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(_Id)
    type: Mapped[str] = mapped_column(String(32))
    level: Mapped[str] = mapped_column(String(8))
    attempt: Mapped[int]
    message: Mapped[str] = mapped_column(sa.Text)
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Metric(Base):
    """One point of one series. A step repeated by a later attempt replaces the earlier point."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(_Id)
    attempt: Mapped[int]
    value: Mapped[float | None] = mapped_column(sa.Double)
    """Null where the number was not finite."""


class Artifact(Base):
    """A finished file. The row is committed with the attempt's success, after its bytes are durable."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("job_id", "name"), Index("ix_artifacts_tenant_id_job_id", "tenant_id", "job_id"))

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"))
    tenant_id: Mapped[str] = mapped_column(_Id)
    attempt: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(255))
    media_type: Mapped[str] = mapped_column(String(127))
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(512))
    created_at: Mapped[datetime]


class Checkpoint(Base):
    """A checkpoint whose bytes are in the store; the newest one is where the next attempt continues."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    """Iteration, in the child's own count; grows within an attempt and over attempts."""
    tenant_id: Mapped[str] = mapped_column(_Id)
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(512))
    created_at: Mapped[datetime]


class IdempotencyKey(Base):
    """A client's key, inserted in the transaction that creates its job."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[str] = mapped_column(_Id, primary_key=True)
    scope: Mapped[str] = mapped_column(String(128), primary_key=True)
    """Method and path."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id"), index=True)
    created_at: Mapped[datetime]


class Worker(Base):
    """A worker process, by the boot id it drew at start."""

    __tablename__ = "workers"

    boot_id: Mapped[str] = mapped_column(_Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(_Id)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    queues: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str | None] = mapped_column(_Id)
    devices: Mapped[list[dict[str, Any]]] = mapped_column(Json, server_default=sa.text("'[]'"))
    software: Mapped[dict[str, Any]] = mapped_column(Json, server_default=sa.text("'{}'"))
    """Versions by name."""
    quarantined_reason: Mapped[str | None] = mapped_column(sa.Text)
    """Why the worker takes no job, since its device failed."""
    drain_requested: Mapped[bool] = mapped_column(server_default=sa.false())
    """An operator wants it to hand its job back and to take no more; it reads this with its heartbeat."""
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class Tick(Base):
    """When a periodic process last worked; a gap makes the reaper wait."""

    __tablename__ = "ticks"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(_Id)
    ticked_at: Mapped[datetime]


class Total(Base):
    """The share that removed rows had in a total (`core.jobs.totals`)."""

    __tablename__ = "totals"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    labels: Mapped[str] = mapped_column(String(255), primary_key=True)
    """Values of its labels, as a JSON list."""
    tenant_id: Mapped[str] = mapped_column(_Id)
    value: Mapped[float] = mapped_column(sa.Double)
