"""Data sets that users registered. Each is what its `ingest` job made: the job's row is the only truth about it.

The job's state tells whether the set can be used, its result what is known of the set, its artifacts are the canonical form,
and deleting it deletes the set. Every statement is scoped by tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.catalogue import DatasetInfo
from core.errors import DatasetNotReadyError, DatasetRejectedError, InvalidCursorError, NotFoundError, UnknownDatasetError
from core.jobs import events
from core.jobs.creation import columns
from core.jobs.database import insert_into, now
from core.jobs.models import Artifact, Job
from core.jobs.states import State
from core.specs.base import digest
from core.specs.dataset import DatasetSpec
from core.specs.ingest import ConversionSpec, Format, IngestSpec, IngestSummary

CANONICAL = "dataset"
"""Kind of the artifacts that are the canonical form."""


class FileDigest(NamedTuple):
    """What tells a user's file from every other, as the client states it; the job that reads it verifies it."""

    sha256: str
    size_bytes: int


class Page(NamedTuple):
    """Ingest jobs, newest first, and whether there are older ones."""

    jobs: Sequence[Job]
    has_more: bool


class Datasets:
    """The registered data sets of one tenant, within one session."""

    def __init__(self, session: Session, tenant_id: str) -> None:
        self.session = session
        self.tenant_id = tenant_id

    def create(self, spec: IngestSpec) -> tuple[Job, bool]:
        """Register a data set: insert the job that reads its files.

        Returns:
            The job, and whether it was there: the same file, read the same way and under the same name, is one data set,
            however often it is uploaded. What lies in a store may be another file by now.
        """
        at, file = now(self.session), FileDigest(spec.sha256, spec.size_bytes)
        key = content_key(file, spec.title, spec.format, spec.conversion)
        insert = insert_into(self.session, Job).on_conflict_do_nothing(index_elements=["tenant_id", "content_key"])
        values = columns(spec, self.tenant_id, at) | {"content_key": key if spec.upload_id else None}
        while True:  # again only where the job that was there failed, or was deleted, between the two statements
            job = self.session.scalar(insert.values(values).returning(Job))
            if job is not None:
                events.append(self.session, job, [events.state_event(State.QUEUED, "the data set was registered")], at)
                return job, False
            if (before := self._with_key(key)) is not None:
                return before, True

    def made_of(self, file: FileDigest, title: str, file_format: Format, conversion: ConversionSpec) -> Job | None:
        """What the same registration made before, of whatever upload; its bytes need not be there any more."""
        return self._with_key(content_key(file, title, file_format, conversion))

    def file_of(self, upload_id: str) -> FileDigest | None:
        """The file of an upload that was registered, which may itself be forgotten."""
        spec = self.session.scalar(
            sa.select(Job.spec)
            .where(Job.tenant_id == self.tenant_id, Job.kind == "ingest", Job.spec["upload_id"].as_string() == upload_id)
            .limit(1)
        )
        return None if spec is None else FileDigest(spec["sha256"], spec["size_bytes"])

    def _with_key(self, key: str) -> Job | None:
        return self.session.scalar(self._visible().where(Job.content_key == key))

    def num_being_read(self) -> int:
        """Data sets whose files are still to be read."""
        waiting = self._visible().where(Job.state.not_in([state for state in State if state.terminal]))
        return self.session.scalar(sa.select(sa.func.count()).select_from(waiting.subquery())) or 0

    def get(self, dataset_id: str) -> Job:
        """The job that makes, or has made, a data set.

        Raises:
            NotFoundError: this tenant has no such data set.
        """
        job = self.session.scalar(self._visible().where(Job.dataset == dataset_id))
        if job is None:
            raise NotFoundError(f"none of your data sets has the id {dataset_id!r}")
        return job

    def locked(self, dataset_id: str) -> Job:
        """As `get`; nobody else changes the row until the transaction ends.

        Raises:
            NotFoundError: this tenant has no such data set.
        """
        self.get(dataset_id)
        query = self._visible().where(Job.dataset == dataset_id).with_for_update(key_share=True)
        return self.session.scalars(query, execution_options={"populate_existing": True}).one()

    def page(self, *, limit: int, after: str | None = None) -> Page:
        """Data sets, newest first; with `after`, those older than that one.

        Raises:
            InvalidCursorError: the cursor names no data set of this tenant.
        """
        query = self._visible()
        if after is not None:
            at = self.session.execute(
                sa.select(Job.created_at, Job.id).where(
                    Job.tenant_id == self.tenant_id, Job.kind == "ingest", Job.dataset == after
                )
            ).one_or_none()
            if at is None:
                raise InvalidCursorError(f"no page starts at {after!r}")
            place = sa.tuple_(sa.literal(at.created_at, Job.created_at.type), sa.literal(at.id))
            query = query.where(sa.tuple_(Job.created_at, Job.id) < place)
        rows = list(self.session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)))
        return Page(rows[:limit], len(rows) > limit)

    def info(self, dataset: DatasetSpec) -> DatasetInfo:
        """What is known of a registered data set that a request names.

        Raises:
            UnknownDatasetError: this tenant has no such data set.
            DatasetNotReadyError: its files are still being read, or were refused.
        """
        return info_of(self._named(dataset))

    def hold(self, dataset: DatasetSpec) -> None:
        """Keep a registered data set from being deleted until the transaction ends, as a job on it is being created.

        Raises:
            UnknownDatasetError: this tenant has no such data set any more.
            DatasetNotReadyError: its files are still being read, or were refused.
        """
        info_of(self._named(dataset, lock=True))

    def _named(self, dataset: DatasetSpec, *, lock: bool = False) -> Job:
        query = self._visible().where(Job.dataset == dataset.id)
        job = self.session.scalar(query.with_for_update(read=True) if lock else query)
        if job is None:
            raise UnknownDatasetError.at("/dataset/id", f"there is no data set {dataset.id!r}")
        return job

    def canonical(self, dataset_id: str) -> Sequence[Artifact]:
        """The files of the canonical form, by name; none while the data set is not ready."""
        return self.session.scalars(
            sa.select(Artifact)
            .join(Job, Job.id == Artifact.job_id)
            .where(
                Job.tenant_id == self.tenant_id, Job.kind == "ingest", Job.deleted_at.is_(None), Job.dataset == dataset_id,
                Artifact.kind == CANONICAL,
            )
            .order_by(Artifact.name)
        ).all()

    def _visible(self) -> sa.Select[Job]:
        return sa.select(Job).where(Job.tenant_id == self.tenant_id, Job.kind == "ingest", Job.deleted_at.is_(None))


def content_key(file: FileDigest, title: str, file_format: Format, conversion: ConversionSpec) -> str:
    """What one registration of a data set has in common with its repetitions, and with nothing else."""
    made = {"file": file._asdict(), "title": title, "format": file_format, "conversion": conversion.model_dump(mode="json")}
    return f"ingest-{digest(made)}"


def summary_of(job: Job) -> IngestSummary | None:
    """What an ingest job found out; None unless it has succeeded."""
    if job.state != State.SUCCEEDED or job.result is None:
        return None
    return IngestSummary.model_validate(job.result["summary"])


def info_of(job: Job) -> DatasetInfo:
    """What is known of the data set of an ingest job.

    Raises:
        DatasetNotReadyError: its files are still being read, or were refused.
    """
    summary = summary_of(job)
    if summary is not None:
        return summary.info
    if State(job.state).terminal:
        why = job.error["message"] if job.error else "reading its files was cancelled"
        verdict = "was rejected" if (job.error or {}).get("code") == DatasetRejectedError.code else "could not be made"
        raise DatasetNotReadyError(f"the data set {job.dataset} {verdict}: {why}")
    raise DatasetNotReadyError(f"the files of the data set {job.dataset} are still being read")
