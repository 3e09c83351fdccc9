"""Creating a job from bytes: validation, one transaction, and a message after the commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.bodies import parse_object
from api.deps import Resources
from api.errors import InvalidHeaderError
from api.jobs.schemas import JobView, job_view
from api.schemas import Json
from core.errors import IdempotencyInProgressError, InvalidCursorError
from core.jobs.database import now
from core.jobs.ids import is_id
from core.jobs.models import Job
from core.jobs.queue import Ticket
from core.jobs.repository import Idempotency, Jobs
from core.jobs.states import State
from core.specs.base import digest
from core.specs.job import PRIORITIES, DistillationSpec, JobRequest
from core.specs.resolve import resolve, spec_error

SCOPE = "POST /v1/jobs"


class Created(NamedTuple):
    """A job as shown to the client, and whether an earlier request had made it."""

    view: JobView
    replayed: bool


def read_specification(body: bytes) -> tuple[Json, DistillationSpec]:
    """The body's tree, and the specification it resolves to.

    Raises:
        InvalidJsonError: the body is not JSON.
        SpecError: a rule is broken.
    """
    tree = parse_object(body)
    try:
        request = JobRequest.model_validate_json(json.dumps(tree, allow_nan=False))
    except ValidationError as error:
        raise spec_error(error, tree) from None
    return tree, resolve(request)


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


def create(resources: Resources, tenant: str, tree: Json, spec: DistillationSpec, key: str | None) -> Created:
    """Insert the job, or find the one that the same request made before; then hand a message to the sender.

    Raises:
        IdempotencyKeyReusedError: the key belongs to another body.
        IdempotencyInProgressError: the request that uses the key has not committed yet.
        DatabaseUnavailableError: nothing was stored, or the outcome is unknown; repeating with the key is safe.
    """
    idempotency = None if key is None else Idempotency(SCOPE, key, digest(tree))
    try:
        job, created = _insert(resources, tenant, spec, idempotency)
    except IdempotencyInProgressError:  # the other transaction has committed meanwhile, or is about to
        job, created = _insert(resources, tenant, spec, idempotency)
    if not created.replayed:
        priority = next(name for name in PRIORITIES if name == job.priority)
        resources.sender.send(Ticket(job.id, job.queue, priority))
    return created


def _insert(
    resources: Resources, tenant: str, spec: DistillationSpec, idempotency: Idempotency | None
) -> tuple[Job, Created]:
    with resources.database.write() as session:
        job, replayed = Jobs(session, tenant).create(spec, idempotency)
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
