"""What the API asks of the job tables. Every statement is scoped by tenant; another tenant's object does not exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.errors import (
    IdempotencyInProgressError,
    IdempotencyKeyReusedError,
    InvalidCursorError,
    JobAlreadyTerminalError,
    NotFoundError,
)
from core.jobs import dependencies, events
from core.jobs.creation import columns
from core.jobs.database import now
from core.jobs.datasets import Datasets
from core.jobs.models import Artifact, Attempt, Event, IdempotencyKey, Job, Metric
from core.jobs.states import State
from core.specs.job import DataOptions, RequestedSpec


class Idempotency(NamedTuple):
    """A client's key for one request: scope is method and path, fingerprint the digest of the body."""

    scope: str
    key: str
    fingerprint: str


class Page(NamedTuple):
    """One page of jobs, newest first, and whether more follow in the direction of travel."""

    jobs: Sequence[Job]
    has_more: bool


class Jobs:
    """The jobs of one tenant, within one session."""

    def __init__(self, session: Session, tenant_id: str) -> None:
        self.session = session
        self.tenant_id = tenant_id

    # ------------------------------------------------------------------ create

    def create(
        self, spec: RequestedSpec, idempotency: Idempotency | None, *, retried_from: str | None = None
    ) -> tuple[Job, bool]:
        """Insert job, first event and idempotency key in the caller's transaction.

        Returns:
            The job, and whether it is a replay of an earlier request with the same key.

        Raises:
            NotFoundError: the job that the key made was deleted.
            IdempotencyKeyReusedError: the key was used with another body.
            IdempotencyInProgressError: another transaction is using the key at this moment.
            UnknownDatasetError: the data set was deleted meanwhile.
        """
        if idempotency is not None:
            replay = self.replayed(idempotency)
            if replay is not None:
                return replay, True
        if isinstance(spec, DataOptions) and spec.dataset.id:
            Datasets(self.session, self.tenant_id).hold(spec.dataset)
        at = now(self.session)
        job = Job(**columns(spec, self.tenant_id, at), retried_from=retried_from)
        self.session.add(job)
        self.session.flush()
        message = "the job was accepted" + (f"; it repeats {retried_from}" if retried_from else "")
        events.append(self.session, job, [events.state_event(State.QUEUED, message)], at)
        if idempotency is not None:
            self.session.add(
                IdempotencyKey(
                    tenant_id=self.tenant_id, scope=idempotency.scope, key=idempotency.key,
                    fingerprint=idempotency.fingerprint, job_id=job.id, created_at=at,
                )
            )
            try:
                self.session.flush()
            except IntegrityError as error:  # another transaction committed the same key after our look
                raise IdempotencyInProgressError("a request with this Idempotency-Key is being handled") from error
        return job, False

    def replayed(self, idempotency: Idempotency) -> Job | None:
        """The job that an earlier request with this key made, as it is now; None where there was none.

        Raises:
            NotFoundError: it was deleted.
            IdempotencyKeyReusedError: the key was used with another body.
        """
        row = self.session.get(IdempotencyKey, (self.tenant_id, idempotency.scope, idempotency.key))
        if row is None:
            return None
        if row.fingerprint != idempotency.fingerprint:
            raise IdempotencyKeyReusedError("this Idempotency-Key was used before with another request body")
        try:
            return self.get(row.job_id)
        except NotFoundError:
            raise NotFoundError(f"this Idempotency-Key made {row.job_id}, which was deleted") from None

    # -------------------------------------------------------------------- read

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            NotFoundError: this tenant has no such job.
        """
        return self._found(job_id, self._visible().where(Job.id == job_id))

    def locked(self, job_id: str) -> Job:
        """One job, which nobody else changes until the transaction ends.

        Raises:
            NotFoundError: this tenant has no such job.
        """
        return self._found(job_id, self._visible().where(Job.id == job_id).with_for_update(key_share=True))

    def _visible(self) -> sa.Select[Job]:
        return sa.select(Job).where(Job.tenant_id == self.tenant_id, Job.deleted_at.is_(None))

    def _found(self, job_id: str, query: sa.Select[Job]) -> Job:
        job = self.session.scalar(query)
        if job is None:
            raise NotFoundError(f"there is no job {job_id!r}")
        return job

    def page(
        self,
        *,
        limit: int,
        after: str | None = None,
        before: str | None = None,
        states: Sequence[State] = (),
        kind: str | None = None,
        recipe: str | None = None,
        dataset: str | None = None,
    ) -> Page:
        """A page of jobs, newest first, by keyset on (created_at, id).

        Args:
            limit: largest number of jobs to return.
            after: id of a job; the page holds older ones.
            before: id of a job; the page holds the newer ones next to it.
            states: keep only these states; empty keeps all.
            kind: keep only this kind of job.
            recipe: keep only this recipe.
            dataset: keep only this data set.

        Raises:
            InvalidCursorError: a cursor names no job of this tenant.
        """
        query = self._visible()
        if states:
            query = query.where(Job.state.in_(states))
        if kind is not None:
            query = query.where(Job.kind == kind)
        if recipe is not None:
            query = query.where(Job.recipe == recipe)
        if dataset is not None:
            query = query.where(Job.dataset == dataset)
        key = sa.tuple_(Job.created_at, Job.id)
        if after is not None:
            query = query.where(key < self._cursor(after))
        if before is not None:
            query = query.where(key > self._cursor(before))
        backwards = before is not None and after is None
        order = (Job.created_at.asc(), Job.id.asc()) if backwards else (Job.created_at.desc(), Job.id.desc())
        rows = list(self.session.scalars(query.order_by(*order).limit(limit + 1)))
        has_more = len(rows) > limit
        rows = rows[:limit]
        return Page(rows[::-1] if backwards else rows, has_more)

    def _cursor(self, job_id: str) -> Any:
        # A deleted job is still a place in the list: clients delete what they page through.
        created = self.session.scalar(
            sa.select(Job.created_at).where(Job.tenant_id == self.tenant_id, Job.id == job_id)
        )
        if created is None:
            raise InvalidCursorError(f"no page starts at {job_id!r}")
        return sa.tuple_(sa.literal(created, Job.created_at.type), sa.literal(job_id))

    def waiting_for(self, job_ids: Sequence[str]) -> dict[str, list[str]]:
        """The jobs that each of some waiting jobs still waits for, by its id."""
        return dependencies.waiting_for(self.session, self.tenant_id, job_ids)

    def events_after(self, job_id: str, seq: int, limit: int) -> Sequence[Event]:
        """Events of a job with a larger sequence number, ascending."""
        return self.session.scalars(
            sa.select(Event)
            .where(Event.tenant_id == self.tenant_id, Event.job_id == job_id, Event.seq > seq)
            .order_by(Event.seq)
            .limit(limit)
        ).all()

    def ended_attempt(self, job_id: str, number: int | None) -> Attempt:
        """An attempt that has ended: that one, or the newest.

        Raises:
            NotFoundError: this tenant has no such job, or that has no such attempt.
        """
        self.get(job_id)
        wanted = sa.true() if number is None else Attempt.number == number
        row = self.session.scalar(
            sa.select(Attempt)
            .where(Attempt.job_id == job_id, Attempt.tenant_id == self.tenant_id, Attempt.finished_at.is_not(None), wanted)
            .order_by(Attempt.number.desc()).limit(1)
        )
        if row is None:
            raise NotFoundError(f"{'no attempt' if number is None else f'no attempt {number}'} of {job_id} has ended")
        return row

    def attempts(self, job_id: str) -> Sequence[Attempt]:
        """Attempts of a job, ascending."""
        return self.session.scalars(
            sa.select(Attempt).where(Attempt.tenant_id == self.tenant_id, Attempt.job_id == job_id).order_by(Attempt.number)
        ).all()

    def metric_names(self, job_id: str) -> Sequence[str]:
        """Names of a job's series, sorted."""
        return self.session.scalars(
            sa.select(Metric.name)
            .where(Metric.tenant_id == self.tenant_id, Metric.job_id == job_id)
            .distinct()
            .order_by(Metric.name)
        ).all()

    def metric_points(self, job_id: str, name: str, after_step: int = -1) -> Sequence[Metric]:
        """Points of one series with a larger step, ascending by step."""
        return self.session.scalars(
            sa.select(Metric)
            .where(
                Metric.tenant_id == self.tenant_id, Metric.job_id == job_id, Metric.name == name, Metric.step > after_step
            )
            .order_by(Metric.step)
        ).all()

    def artifacts(self, job_id: str, kind: str | None = None) -> Sequence[Artifact]:
        """Finished artifacts of a job, by name."""
        query = sa.select(Artifact).where(Artifact.tenant_id == self.tenant_id, Artifact.job_id == job_id)
        if kind is not None:
            query = query.where(Artifact.kind == kind)
        return self.session.scalars(query.order_by(Artifact.name)).all()

    def artifact(self, artifact_id: str) -> Artifact:
        """One artifact.

        Raises:
            NotFoundError: this tenant has no such artifact.
        """
        row = self.session.scalar(
            sa.select(Artifact)
            .join(Job, Job.id == Artifact.job_id)
            .where(Artifact.tenant_id == self.tenant_id, Artifact.id == artifact_id, Job.deleted_at.is_(None))
        )
        if row is None:
            raise NotFoundError(f"there is no artifact {artifact_id!r}")
        return row

    # ------------------------------------------------------------------ cancel

    def cancel(self, job_id: str, reason: str) -> Job:
        """Ask for a job to stop: at once when it waits, through its supervisor when it runs. Repeating changes nothing.

        Jobs that wait for it fail when it has stopped. Queued jobs that it alone waits for, and its evaluation, are cancelled
        with it.

        Raises:
            NotFoundError: this tenant has no such job.
            JobAlreadyTerminalError: the job has succeeded or failed.
        """
        detail = {"code": "cancelled_by_request", "message": reason or "cancelled on request"}
        needed = dependencies.lock_needed(self.session, self.tenant_id, job_id)
        # Lock the row first: between two looks a worker may hand the job back, and the cancel would miss both states.
        self.session.execute(
            sa.select(Job.id).where(Job.tenant_id == self.tenant_id, Job.id == job_id).with_for_update()
        )
        at = now(self.session)
        waiting = self._move(job_id, (State.QUEUED, State.WAITING), State.CANCELLED, reason=detail, finished_at=at)
        moved = waiting or self._move(job_id, (State.RUNNING,), State.CANCELLING, reason=detail)
        if moved is not None:
            events.append(self.session, moved, [events.state_event(moved.state, detail["message"])], at)
            if moved.state == State.CANCELLED:
                dependencies.cancel_unneeded(self.session, needed, at)
                dependencies.ended(self.session, moved, at)
            return moved
        job = self.get(job_id)
        if job.state in {State.SUCCEEDED, State.FAILED}:
            raise JobAlreadyTerminalError(f"the job has already {job.state}")
        return job

    def _move(
        self, job_id: str, old: Sequence[State], new: Literal[State.CANCELLED, State.CANCELLING], **values: Any
    ) -> Job | None:
        return self.session.scalar(
            sa.update(Job)
            .where(Job.tenant_id == self.tenant_id, Job.id == job_id, Job.state.in_(old))
            .values(state=new, version=Job.version + 1, content_key=None, **values)
            .returning(Job),
            execution_options={"populate_existing": True},
        )
