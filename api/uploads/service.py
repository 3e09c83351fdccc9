"""Receiving a part, and giving back what an upload took. SQL and the store are waited for in threads."""

from __future__ import annotations

from functools import partial

import structlog
from anyio import to_thread
from fastapi import Request
from sqlalchemy.orm import Session

from api.artifacts.service import in_store_thread
from api.deps import Resources
from api.uploads.body import checked_pieces, declared_length, require_octets, sha256_of_header
from api.uploads.schemas import PartView, UploadDetail, upload_detail
from core.errors import (
    ConflictError,
    InfrastructureError,
    NotFoundError,
    SizeMismatchError,
    StoreUnavailableError,
    UploadExpiredError,
)
from core.jobs.database import now
from core.store.keys import part_key
from core.uploads.collecting import collect
from core.uploads.models import Upload
from core.uploads.repository import StoredPart, Uploads

log = structlog.get_logger(__name__)


async def receive(
    resources: Resources, tenant: str, upload_id: str, number: int, request: Request, content_digest: str
) -> PartView:
    """Store the body of a request as a part of an upload: bytes first, row second.

    Raises:
        DistillError: the part was refused, and nothing of it was kept.
        DatabaseUnavailableError: the outcome is unknown; sending the part again is safe.
    """
    length, sha256 = declared_length(request), sha256_of_header(content_digest)
    require_octets(request)
    await to_thread.run_sync(partial(_require_open, resources, tenant, upload_id, number, length))
    part = StoredPart(number, length, sha256, part_key(upload_id, number))
    async with resources.part_slots:
        pieces = checked_pieces(request, length, sha256, resources.store_threads)
        await resources.objects.put_stream(part.key, pieces, length)
    try:
        replaced = await to_thread.run_sync(partial(_commit, resources, tenant, upload_id, part))
    except (NotFoundError, ConflictError, UploadExpiredError):
        await _delete(resources, part.key)
        raise
    if replaced is not None:
        await _delete(resources, replaced)
    return PartView(n=number, size_bytes=length, sha256=sha256)


def _require_open(resources: Resources, tenant: str, upload_id: str, number: int, length: int) -> None:
    with resources.database.read() as session:
        upload = Uploads(session, tenant).open(upload_id)
    if number > upload.num_parts:
        raise NotFoundError(f"the upload has {upload.num_parts} parts, and no part {number}")
    if length != upload.size_of(number):
        raise SizeMismatchError(f"part {number} has {upload.size_of(number)} bytes, and {length} are announced")


def _commit(resources: Resources, tenant: str, upload_id: str, part: StoredPart) -> str | None:
    with resources.database.write() as session:
        return Uploads(session, tenant).add_part(upload_id, part, resources.settings.upload_expiry_seconds)


async def _delete(resources: Resources, key: str) -> None:
    """Delete an object that no row names; the sweeper finds it where that fails."""
    try:
        await in_store_thread(resources, partial(resources.objects.delete, key))
    except StoreUnavailableError as error:
        log.warning("part_not_deleted", error=error.message)


async def collect_soon(resources: Resources, upload_id: str) -> None:
    """Give the bytes of a cancelled upload back at once; the sweeper does it where that fails."""
    try:
        await in_store_thread(resources, partial(collect, resources.database, resources.objects, upload_id))
    except InfrastructureError as error:
        log.warning("upload_not_collected", upload_id=upload_id, error=error.message)


def detail(session: Session, tenant: str, upload: Upload) -> UploadDetail:
    """Show an upload with its parts."""
    return upload_detail(upload, Uploads(session, tenant).parts(upload.id), now(session))
