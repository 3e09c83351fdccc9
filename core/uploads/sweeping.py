"""What the sweeper asks of the tables of uploads: which nobody can need any more.

Each function runs in the caller's transaction and may be repeated, or run side by side with itself, with the same result.
An upload ends (`ended_at`) in one transaction, its bytes are deleted after that, and then the rows of its parts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs.database import now
from core.jobs.models import Job
from core.jobs.states import State
from core.uploads.models import Upload, UploadPart, UploadState

AT_ONCE = 1000
"""Uploads that are forgotten by one call."""


def expire(session: Session, tenant_id: str | None = None) -> int:
    """End the open uploads that nobody has gone on with, of all tenants or of one; how many there were."""
    at = now(session)
    overdue = [Upload.state == UploadState.OPEN, Upload.expires_at <= at]
    if tenant_id is not None:
        overdue.append(Upload.tenant_id == tenant_id)
    ended = sa.update(Upload).where(*overdue).values(
        state=UploadState.EXPIRED, ended_at=at, touched_at=at, version=Upload.version + 1
    )
    return len(session.scalars(ended.returning(Upload.id)).all())


def end_unneeded(session: Session) -> int:
    """End the complete uploads that a data set was made of, or none in time; how many there were.

    The rows are locked before the jobs are looked at: a data set that is registered meanwhile waits, or has been.
    """
    complete = sa.select(Upload).where(Upload.state == UploadState.COMPLETE, Upload.ended_at.is_(None)).order_by(Upload.id)
    uploads = session.scalars(complete.with_for_update(), execution_options={"populate_existing": True}).all()
    if not uploads:
        return 0
    readers = states_of_readers(session, [upload.id for upload in uploads])
    at = now(session)
    ended = 0
    for upload in uploads:
        states = readers.get(upload.id, [])
        # One whose files were refused is kept: perhaps they are read in another way next.
        if all(state.terminal for state in states) and (State.SUCCEEDED in states or upload.expires_at <= at):
            upload.ended_at = at
            upload.version += 1
            ended += 1
    return ended


def states_of_readers(session: Session, upload_ids: Collection[str]) -> dict[str, list[State]]:
    """States of the jobs that read some uploads, or have read them, by the upload's id."""
    read = Job.spec["upload_id"].as_string()
    readers: dict[str, list[State]] = {}
    for upload_id, state in session.execute(sa.select(read, Job.state).where(Job.kind == "ingest", read.in_(upload_ids))):
        readers.setdefault(upload_id, []).append(State(state))
    return readers


def uncollected(session: Session) -> Sequence[str]:
    """Uploads that have ended and whose bytes and rows are still there."""
    return session.scalars(
        sa.select(Upload.id)
        .where(Upload.ended_at.is_not(None), sa.exists().where(UploadPart.upload_id == Upload.id))
        .order_by(Upload.ended_at)
    ).all()


def forget_parts(session: Session, upload_id: str) -> None:
    """Remove the parts of an upload that has ended, after their bytes are gone."""
    ended = sa.update(Upload).where(Upload.id == upload_id, Upload.ended_at.is_not(None)).values(version=Upload.version + 1)
    for found in session.scalars(ended.returning(Upload.id)).all():
        session.execute(sa.delete(UploadPart).where(UploadPart.upload_id == found))


def forgettable(session: Session, seconds: float) -> Sequence[str]:
    """Uploads without parts that ended longer ago."""
    return session.scalars(
        sa.select(Upload.id)
        .where(
            Upload.ended_at < now(session) - timedelta(seconds=seconds),
            ~sa.exists().where(UploadPart.upload_id == Upload.id),
        )
        .limit(AT_ONCE)
    ).all()


def forget(session: Session, upload_ids: Collection[str]) -> None:
    """Remove such uploads."""
    session.execute(sa.delete(Upload).where(Upload.id.in_(upload_ids), Upload.ended_at.is_not(None)))


def known(session: Session, upload_ids: Collection[str]) -> set[str]:
    """Those of some uploads that have a row."""
    return set(session.scalars(sa.select(Upload.id).where(Upload.id.in_(upload_ids))))


def named(session: Session, upload_ids: Collection[str], keys: Collection[str]) -> set[str]:
    """Those of some store keys that a part of some uploads names."""
    return set(session.scalars(
        sa.select(UploadPart.key).where(UploadPart.upload_id.in_(upload_ids), UploadPart.key.in_(keys))
    ))
