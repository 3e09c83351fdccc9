"""What a tenant may have: uploads begun at a time, and bytes in the store."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.errors import QuotaExceededError, UploadTooLargeError
from core.jobs.models import Artifact, Job
from core.settings import Settings
from core.uploads import sweeping
from core.uploads.models import Upload, UploadPart, UploadState


def reserve(session: Session, tenant_id: str, size_bytes: int, settings: Settings) -> None:
    """Make sure that an upload may begin, and that no other one of the tenant is judged until the transaction ends.

    Raises:
        UploadTooLargeError: this installation takes no files of this size.
        QuotaExceededError: the tenant has begun too many, or would have too much in the store.
    """
    if size_bytes > settings.max_upload_bytes:
        raise UploadTooLargeError.at(
            "/size_bytes", f"a file may have at most {settings.max_upload_bytes} bytes", UploadTooLargeError.code
        )
    _one_at_a_time(session, tenant_id)
    sweeping.expire(session, tenant_id)
    opened = session.scalar(
        sa.select(sa.func.count()).select_from(Upload)
        .where(Upload.tenant_id == tenant_id, Upload.state == UploadState.OPEN)
    ) or 0
    if opened >= settings.max_open_uploads:
        raise QuotaExceededError(
            f"{opened} uploads are open, and {settings.max_open_uploads} may be: complete or cancel one first "
            "(`distill uploads` lists them, `distill uploads cancel` gives one up)"
        )
    require_room(session, tenant_id, size_bytes, settings)


def require_room(session: Session, tenant_id: str, size_bytes: int, settings: Settings) -> None:
    """Make sure that the tenant may store so many bytes more.

    Raises:
        QuotaExceededError: it would have too much in the store.
    """
    stored = stored_bytes(session, tenant_id)
    if stored + size_bytes > settings.max_stored_bytes:
        wanted = f", and {size_bytes} more are wanted" if size_bytes else ""
        raise QuotaExceededError(
            f"{stored} of {settings.max_stored_bytes} bytes are taken or promised{wanted}: "
            "delete jobs or data sets, or cancel uploads, first (`distill uploads --complete` lists those)"
        )


def stored_bytes(session: Session, tenant_id: str) -> int:
    """What a tenant's finished files and uploads take, the parts that are yet to come included; not what it has deleted."""
    deleted = sa.select(Job.id).where(Job.tenant_id == tenant_id, Job.deleted_at.is_not(None))
    ended = sa.select(Upload.id).where(Upload.tenant_id == tenant_id, Upload.ended_at.is_not(None))
    return sum((
        _sum(session, Upload.size_bytes, Upload.tenant_id == tenant_id, Upload.ended_at.is_(None)),
        _sum(session, UploadPart.size_bytes, UploadPart.tenant_id == tenant_id, UploadPart.upload_id.in_(ended)),
        _sum(session, Artifact.size_bytes, Artifact.tenant_id == tenant_id, Artifact.job_id.not_in(deleted)),
    ))


def _sum(session: Session, column: Any, *conditions: sa.ColumnElement[bool]) -> int:
    return int(session.scalar(sa.select(sa.func.sum(column)).where(*conditions)) or 0)


def _one_at_a_time(session: Session, tenant_id: str) -> None:
    """Hold back other creations of this tenant until the transaction ends; SQLite's writers take turns anyway."""
    if session.get_bind().dialect.name == "postgresql":
        name = sa.func.hashtextextended(f"uploads {tenant_id}", 0)
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(name)))
