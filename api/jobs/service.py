"""Creating a job, new or as a repetition: validation, one transaction, and a message after the commit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, assert_never

from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.bodies import parse_object
from api.datasets.service import known_info
from api.deps import Resources
from api.errors import InvalidHeaderError
from api.jobs.schemas import JobValidation, JobView, budget_of, job_view
from api.schemas import Json
from core.catalogue import DatasetInfo
from core.errors import (
    ConflictError,
    IdempotencyInProgressError,
    IdempotencyKeyReusedError,
    InvalidCursorError,
    InvalidStateError,
    NotFoundError,
    SpecError,
)
from core.jobs.database import now
from core.jobs.ids import is_id
from core.jobs.models import Job
from core.jobs.queue import Ticket
from core.jobs.repository import Idempotency, Jobs
from core.jobs.states import State
from core.settings import Settings
from core.specs.base import digest
from core.specs.dataset import DatasetSpec
from core.specs.defaults import warning_of
from core.specs.estimate import estimate
from core.specs.job import (
    REQUESTS,
    DistillationSpec,
    JobRequest,
    ProbeRequest,
    ProbeSpec,
    RequestedSpec,
    RetryRequest,
    parse_job_spec,
)
from core.specs.resolve import repeat, resolve, spec_error
from core.specs.run_options import PRIORITIES
from core.specs.trajectories import require_room

SCOPE = "POST /v1/jobs"


class Created(NamedTuple):
    """A job as shown to the client, and whether an earlier request had made it."""

    view: JobView
    replayed: bool


def read_specification(tree: Json, settings: Settings, known: Callable[[DatasetSpec], DatasetInfo]) -> RequestedSpec:
    """The specification that a body resolves to; `known` tells what is known of a data set.

    Raises:
        SpecError: a rule is broken, or this installation does not allow it.
        DatasetNotReadyError: the files of the data set are still being read, or were refused.
    """
    kind = tree.get("kind", "distillation")
    if not isinstance(kind, str) or kind not in REQUESTS:
        raise SpecError.at("/kind", f"kind must be one of: {', '.join(REQUESTS)}", "literal_error")
    try:
        request = REQUESTS[kind].model_validate_json(json.dumps(tree, allow_nan=False))
    except ValidationError as error:
        raise spec_error(error, tree) from None
    match request:
        case JobRequest():
            info = known(request.dataset)
            spec = resolve(request, info)
            require_room(spec, info, settings.max_trajectory_bytes)
            return spec
        case ProbeRequest():
            return _probe(request, settings)
        case _:
            assert_never(request)


def _probe(request: ProbeRequest, settings: Settings) -> ProbeSpec:
    if request.fault.kind != "none" and not settings.probe_faults:
        raise SpecError.at(
            "/fault/kind", "fault must be 'none': this installation takes no probes that misbehave (DISTILL_PROBE_FAULTS)",
            "fault_not_allowed",
        )
    return ProbeSpec.model_validate(request.model_dump())


def validation(resources: Resources, tenant: str, body: bytes) -> JobValidation:
    """What `validate_only` shows.

    Raises:
        DistillError: what `create` would raise for the same body.
    """
    spec = read_specification(parse_object(body), resources.settings, partial(known_info, resources.database, tenant))
    if isinstance(spec, ProbeSpec):
        return JobValidation(spec=spec, budget=None, estimate=None)
    info = known_info(resources.database, tenant, spec.dataset)
    far = warning_of(spec.recipe, info, spec.ipc) if spec.recipe else ""
    return JobValidation(
        spec=spec, budget=budget_of(spec, info), estimate=estimate(spec, info), warnings=[far] if far else []
    )


def checked_key(key: str | None) -> str | None:
    """An Idempotency-Key that may be stored.

    Raises:
        InvalidHeaderError: it is empty, too long, or not printable ASCII.
    """
    if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise InvalidHeaderError("Idempotency-Key must have 1 to 255 printable ASCII characters")
    return key


def checked_cursor(cursor: str | None) -> str | None:
    """A page cursor that may name a job.

    Raises:
        InvalidCursorError: it is not an id.
    """
    if cursor is not None and not is_id(cursor, "job"):
        raise InvalidCursorError("the cursor must be the id of a job")
    return cursor


def create(resources: Resources, tenant: str, body: bytes, key: str | None) -> Created:
    """Insert the job, or find the one that the same request made before; then hand a message to the sender.

    Raises:
        InvalidJsonError: the body is not JSON.
        SpecError: a rule is broken, or this installation does not allow it.
        DatasetNotReadyError: the files of the data set are still being read, or were refused.
        IdempotencyKeyReusedError: the key belongs to another body.
        IdempotencyInProgressError: the request that uses the key has not committed yet.
        DatabaseUnavailableError: nothing was stored, or the outcome is unknown; repeating with the key is safe.
    """
    tree = parse_object(body)
    idempotency = None if key is None else Idempotency(SCOPE, key, digest(tree))

    def specify() -> RequestedSpec:
        return read_specification(tree, resources.settings, partial(known_info, resources.database, tenant))

    return _create(resources, tenant, specify, idempotency, retried_from=None)


def retry(resources: Resources, tenant: str, job_id: str, tree: Json, changes: RetryRequest, key: str | None) -> Created:
    """As `create`, for a job that repeats another one with changes.

    Raises:
        NotFoundError: this tenant has no such job.
        InvalidStateError: the job is not over, or is not one that a client submits.
        SpecError: a change breaks a rule.
    """
    idempotency = None if key is None else Idempotency(f"{SCOPE}/{job_id}/retry", key, digest(tree))
    return _create(
        resources, tenant, partial(_repeated, resources, tenant, job_id, changes), idempotency, retried_from=job_id
    )


def _repeated(resources: Resources, tenant: str, job_id: str, changes: RetryRequest) -> RequestedSpec:
    with resources.database.read() as session:
        job = Jobs(session, tenant).get(job_id)
    if not State(job.state).terminal:
        raise InvalidStateError(f"the job is {job.state}; only a job that is over can be repeated")
    try:
        before = parse_job_spec(job.spec)
    except ValidationError:
        raise InvalidStateError("the job was specified for another version of this service; submit a new one") from None
    if isinstance(before, ProbeSpec):
        raise InvalidStateError("a probe has nothing to change that is worth keeping; submit a new one")
    if not isinstance(before, DistillationSpec):
        raise InvalidStateError(f"a job of kind {job.kind!r} is made for the jobs that need it; repeat one of those")
    info = known_info(resources.database, tenant, before.dataset)
    spec = repeat(before, changes, info)
    require_room(spec, info, resources.settings.max_trajectory_bytes)
    return spec


def _create(
    resources: Resources, tenant: str, specify: Callable[[], RequestedSpec], idempotency: Idempotency | None,
    *, retried_from: str | None,
) -> Created:
    try:
        spec = specify()
    except (SpecError, NotFoundError, ConflictError):
        # What it names may have gone since the same request was accepted: that one's answer is still due.
        before = _accepted_before(resources, tenant, idempotency)
        if before is None:
            raise
        return before
    try:
        job, created = _insert(resources, tenant, spec, idempotency, retried_from)
    except IdempotencyInProgressError:  # the other transaction has committed meanwhile, or is about to
        job, created = _insert(resources, tenant, spec, idempotency, retried_from)
    if not created.replayed:
        priority = next(name for name in PRIORITIES if name == job.priority)
        resources.sender.send(Ticket(job.id, job.attempt, job.queue, priority))
    return created


def _accepted_before(resources: Resources, tenant: str, idempotency: Idempotency | None) -> Created | None:
    if idempotency is None:
        return None
    with resources.database.read() as session:
        try:
            job = Jobs(session, tenant).replayed(idempotency)
        except IdempotencyKeyReusedError:  # what is wrong with this body says more
            return None
        return None if job is None else Created(job_view(job, now(session)), replayed=True)


def _insert(
    resources: Resources, tenant: str, spec: RequestedSpec, idempotency: Idempotency | None, retried_from: str | None
) -> tuple[Job, Created]:
    with resources.database.write() as session:
        job, replayed = Jobs(session, tenant).create(spec, idempotency, retried_from=retried_from)
        at = now(session) if replayed else job.created_at
        return job, Created(job_view(job, at), replayed)


def views(session: Session, tenant: str, jobs: Sequence[Job]) -> list[JobView]:
    """Show rows, each with the jobs it waits for."""
    waiting = Jobs(session, tenant).waiting_for([job.id for job in jobs if job.state == State.WAITING])
    at = now(session)
    return [job_view(job, job.finished_at or at, waiting.get(job.id, ())) for job in jobs]


def retry_after_seconds(view: JobView) -> int | None:
    """When to ask again: soon while it runs, later the longer it has waited; None when it is over."""
    if view.state.terminal:
        return None
    if view.state in {State.RUNNING, State.CANCELLING}:
        return 2
    return int(min(30.0, max(2.0, view.durations.queued / 10)))
