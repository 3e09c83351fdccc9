"""The job object and what hangs on it, as a client sees them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import DocumentedAs, Json
from core.catalogue import DatasetInfo
from core.jobs.models import Attempt, Event, Job
from core.jobs.states import State
from core.specs.estimate import Estimate
from core.specs.job import DistillationSpec, JobSpec, ProbeSpec
from core.specs.run_options import Priority


class Reason(BaseModel):
    code: str
    message: str


class JobError(BaseModel):
    """Why the last attempt that ended badly did so."""

    code: str
    message: str
    retryable: bool = False
    attempt: int = 0
    detail: Json = Field(default_factory=dict)


class Progress(BaseModel):
    """How far the current phase is."""

    model_config = ConfigDict(extra="ignore")

    phase: str
    step: int
    total_steps: int
    fraction: float = Field(description="Share of the phase that is done, in [0, 1].")
    eta_seconds: float | None = Field(default=None, description="Seconds left in this phase, at the pace so far.")
    seconds_per_step: float | None = None
    message: str = ""
    updated_at: datetime


class Durations(BaseModel):
    """Seconds by the database's clock; what has not ended counts up to now."""

    queued: float = Field(description="From creation to the first start.")
    running: float | None = Field(description="From the first start to the end.")
    total: float


class JobLinks(BaseModel):
    self: str
    events: str
    stream: str
    artifacts: str
    cancel: str
    retry: str


class JobView(BaseModel):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    kind: str = Field(
        description="`distillation`; `probe`: a smoke test; `experts`: networks trained on the real set for others; "
        "`evaluation`: networks trained on the set of its parent; `ingest`: a data set made of a user's files."
    )
    state: State
    state_reason: Reason | None
    recipe: str = Field(description="Empty when the request wrote the whole composition out.")
    dataset: str = Field(description="Empty where none is read.")
    ipc: int | None = Field(description="Null where nothing is distilled.")
    spec: Annotated[Json, DocumentedAs(JobSpec)] = Field(description="The specification with every default resolved.")
    priority: Priority
    seed: int
    tags: dict[str, str]
    attempt: int = Field(description="Claims so far; also the number of the current attempt.")
    failures: int = Field(description="Attempts that ended badly.")
    max_attempts: int
    progress: Progress | None
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    durations: Durations
    parent_id: str | None = Field(description="The job that asked for this one first.")
    retried_from: str | None = Field(description="The job that this one repeats.")
    waiting_for: list[str] = Field(description="Jobs that have to succeed before this one runs, while it is `waiting`.")
    result: Json | None = Field(description="Summary of a succeeded job, with the ids of its `artifacts`.")
    error: JobError | None
    links: JobLinks


def job_view(job: Job, at: datetime, waiting_for: Sequence[str] = ()) -> JobView:
    """Show a row; `at` is the database's time."""
    url = f"/v1/jobs/{job.id}"
    end = job.finished_at or at
    return JobView(
        id=job.id, kind=job.kind, state=State(job.state),
        state_reason=Reason.model_validate(job.reason) if job.reason else None,
        recipe=job.recipe, dataset=job.dataset, ipc=job.spec.get("ipc"), spec=job.spec,
        priority=job.priority, seed=job.spec["seed"], tags=job.spec["tags"],
        attempt=job.attempt, failures=job.failures, max_attempts=job.max_attempts,
        progress=Progress.model_validate(job.progress) if job.progress else None,
        created_at=job.created_at, queued_at=job.queued_at, started_at=job.started_at, finished_at=job.finished_at,
        durations=Durations(
            queued=_seconds(job.created_at, job.started_at or end),
            running=_seconds(job.started_at, end) if job.started_at else None,
            total=_seconds(job.created_at, end),
        ),
        parent_id=job.parent_id, retried_from=job.retried_from, waiting_for=list(waiting_for), result=job.result,
        error=JobError.model_validate(job.error) if job.error else None,
        links=JobLinks(
            self=url, events=f"{url}/events", stream=f"{url}/events/stream", artifacts=f"{url}/artifacts",
            cancel=f"{url}/cancel", retry=f"{url}/retry",
        ),
    )


def _seconds(start: datetime, end: datetime) -> float:
    return round(max(0.0, (end - start).total_seconds()), 3)


class Budget(BaseModel):
    """What the synthetic set may hold, beside the real one."""

    stored_scalars: int = Field(description="Classes x ipc x channels x height x width.")
    bytes_float32: int
    real_images: int = Field(description="Training images left after holding out.")
    ratio: float = Field(description="Stored images over real images.")


def budget_of(spec: DistillationSpec, info: DatasetInfo) -> Budget:
    """The budget of a resolved specification."""
    images = info.num_classes * spec.ipc
    scalars = images * info.scalars_per_image
    real = sum(info.train_per_class_after(spec.dataset.held_out_fraction))
    return Budget(stored_scalars=scalars, bytes_float32=4 * scalars, real_images=real, ratio=images / real)


class JobValidation(BaseModel):
    """Answer to `validate_only`: nothing was kept."""

    object: Literal["job_validation"] = "job_validation"
    spec: DistillationSpec | ProbeSpec
    budget: Budget | None = Field(description="Null where nothing is distilled.")
    estimate: Estimate | None = Field(description="Null where nothing is distilled.")
    warnings: list[str] = Field(default=[], description="What the job would say before it begins, such as numbers from afar.")


class CancelRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field(default="", max_length=500, description="Shown as the job's `state_reason`.")


class AttemptView(BaseModel):
    """One claim of a job by one worker."""

    object: Literal["attempt"] = "attempt"
    number: int
    worker: str = Field(description="Boot id of the worker.")
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None = Field(
        description="`succeeded`, `failed`, `cancelled`, `given_back` or `waiting`; null while it runs."
    )
    error: JobError | None
    resumed_from_step: int
    log_bytes: int | None = Field(description="Size of what `GET /v1/jobs/{id}/logs` gives of it; null where there is none.")


def attempt_view(row: Attempt) -> AttemptView:
    """Show a row."""
    return AttemptView(
        number=row.number, worker=row.boot_id, started_at=row.started_at, finished_at=row.finished_at, outcome=row.outcome,
        error=JobError.model_validate(row.error) if row.error else None, resumed_from_step=row.resumed_from_step,
        log_bytes=row.log_bytes,
    )


class EventView(BaseModel):
    """What happened to a job."""

    seq: int = Field(description="Counts from 1 without gaps.")
    type: str
    level: str
    created_at: datetime
    attempt: int
    message: str
    data: Json


def event_view(row: Event) -> EventView:
    """Show a row."""
    return EventView(
        seq=row.seq, type=row.type, level=row.level, created_at=row.created_at, attempt=row.attempt, message=row.message,
        data=row.data,
    )


class EventList(BaseModel):
    """Events in ascending order; continue with `after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[EventView]
    first_id: int | None
    last_id: int | None
    has_more: bool


def event_list(rows: Sequence[Event], has_more: bool) -> EventList:
    """Show a page."""
    data = [event_view(row) for row in rows]
    return EventList(
        data=data, first_id=data[0].seq if data else None, last_id=data[-1].seq if data else None, has_more=has_more
    )


class Best(BaseModel):
    """Extremes of a series; which one is best depends on the metric. Null when no value was finite."""

    min: float | None
    max: float | None


class MetricSummary(BaseModel):
    """One series in short."""

    name: str
    last: float | None = Field(description="Value at `step`; null when it was not finite.")
    step: int = Field(description="The last step.")
    best: Best
    count: int = Field(description="Points, those that were not finite included.")
    diverged: bool = Field(description="Whether a value of the series was not finite.")


class MetricList(BaseModel):
    object: Literal["list"] = "list"
    data: list[MetricSummary]
    first_id: str | None
    last_id: str | None
    has_more: Literal[False] = False


class Series(BaseModel):
    """A curve. `attempts` names the attempt that reported each point."""

    steps: list[int]
    values: list[float | None]
    attempts: list[int]
    count: int = Field(description="Points before thinning out.")


class SeriesView(BaseModel):
    object: Literal["metric_series"] = "metric_series"
    series: dict[str, Series]
