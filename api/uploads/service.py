"""Receiving a part or a whole file, and giving back what an upload took. SQL and the store are waited for in threads."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio
import structlog
from anyio import to_thread
from fastapi import Request
from sqlalchemy.orm import Session

from api.artifacts.service import in_store_thread
from api.deps import Resources
from api.errors import InvalidHeaderError, ServiceBusyError
from api.uploads.body import CONTENT_SECONDS, Body, checked_pieces, declared_length, require_octets, sha256_of_header
from api.uploads.schemas import PartView, UploadDetail, upload_detail
from core.errors import (
    ConflictError,
    DigestMismatchError,
    InfrastructureError,
    NotFoundError,
    PartDamagedError,
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

PLACE_SECONDS = 60.0
"""How long a request waits while others send."""
DELETE_SECONDS = 10.0
"""How long a refusal waits until what was stored of a file is deleted."""


async def receive(
    resources: Resources, tenant: str, upload_id: str, number: int, request: Request, content_digest: str
) -> PartView:
    """Store the body of a request as a part of an upload: bytes first, row second.

    Raises:
        DistillError: the part was refused, and nothing of it was kept.
        DatabaseUnavailableError: the outcome is unknown; sending the part again is safe.
    """
    length, sha256 = declared_length(request), sha256_of_header(content_digest)
    if sha256 is None:
        raise InvalidHeaderError("Content-Digest must be sha-256=:BASE64:, the SHA-256 of the body")
    require_octets(request)
    await to_thread.run_sync(partial(_require_open, resources, tenant, upload_id, number, length))
    part = StoredPart(number, length, sha256, part_key(upload_id, number))
    async with _place(resources.part_slots):
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


@asynccontextmanager
async def _place(places: anyio.CapacityLimiter) -> AsyncIterator[None]:
    """One of the places for those that send at a time.

    Raises:
        ServiceBusyError: none became free.
    """
    try:
        with anyio.fail_after(PLACE_SECONDS):
            await places.acquire()
    except TimeoutError:
        raise ServiceBusyError("no place became free") from None
    try:
        yield
    finally:
        places.release()


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


async def receive_whole(
    resources: Resources, tenant: str, upload_id: str, request: Request, content_digest: str | None
) -> UploadDetail:
    """Store the body of a request as all parts of an upload, and complete it: bytes first, rows second.

    Raises:
        DistillError: the file was refused, and nothing of it was kept.
        DatabaseUnavailableError: the outcome is unknown; the upload's state tells.
    """
    length = declared_length(request)
    sha256 = None if content_digest is None else sha256_of_header(content_digest)
    # What no row names yet is taken for lost after a time: long before that, the rows must be there.
    seconds = min(CONTENT_SECONDS, resources.settings.orphan_seconds / 2)
    require_octets(request)
    upload = await to_thread.run_sync(partial(_require_whole, resources, tenant, upload_id, length, sha256))
    parts: list[StoredPart] = []
    try:
        async with _place(resources.file_slots):
            await to_thread.run_sync(partial(_await_whole, resources, tenant, upload_id, seconds))
            found = await _store(resources, upload, request, seconds, parts)
        if found != upload.sha256:  # where a Content-Digest says that it is the right file, it was damaged on the way
            mismatch = DigestMismatchError if sha256 is None else PartDamagedError
            raise mismatch("the bytes received have another SHA-256 than the upload was begun with; nothing was kept")
    except Exception:  # also where the client has gone; where the server ends, there is no time, and the sweeper does it
        with anyio.move_on_after(DELETE_SECONDS):
            await _delete(resources, *(part.key for part in parts))
        raise
    try:
        view, replaced = await to_thread.run_sync(partial(_commit_whole, resources, tenant, upload_id, parts))
    except (NotFoundError, ConflictError, UploadExpiredError):
        await _delete(resources, *(part.key for part in parts))
        raise
    await _delete(resources, *replaced)
    return view


def _require_whole(resources: Resources, tenant: str, upload_id: str, length: int, sha256: str | None) -> Upload:
    with resources.database.read() as session:
        upload = Uploads(session, tenant).whole(upload_id)
    if length != upload.size_bytes:
        raise SizeMismatchError(f"the file has {upload.size_bytes} bytes, and {length} are announced")
    if sha256 not in (None, upload.sha256):
        raise DigestMismatchError("Content-Digest is another one than the upload was begun with")
    return upload


def _await_whole(resources: Resources, tenant: str, upload_id: str, seconds: float) -> None:
    with resources.database.write() as session:
        Uploads(session, tenant).await_whole(upload_id, seconds)


async def _store(
    resources: Resources, upload: Upload, request: Request, seconds: float, parts: list[StoredPart]
) -> str:
    """Cut a body into parts on its way to the store; its SHA-256. `parts` gets each of them, one that fails included."""
    body = Body(request, seconds, resources.store_threads)
    for number in range(1, upload.num_parts + 1):
        part = StoredPart(number, upload.size_of(number), "", part_key(upload.id, number))
        parts.append(part)
        hasher = hashlib.sha256()
        await resources.objects.put_stream(part.key, body.part(part.size_bytes, hasher.update), part.size_bytes)
        parts[-1] = part._replace(sha256=hasher.hexdigest())
    await body.end()
    return body.hexdigest()


def _commit_whole(
    resources: Resources, tenant: str, upload_id: str, parts: Sequence[StoredPart]
) -> tuple[UploadDetail, Sequence[str]]:
    with resources.database.write() as session:
        expiry = resources.settings.upload_expiry_seconds
        upload, replaced = Uploads(session, tenant).complete_with(upload_id, parts, expiry)
        return detail(session, tenant, upload), replaced


async def _delete(resources: Resources, *keys: str) -> None:
    """Delete objects that no row names; the sweeper finds them where that fails."""
    try:
        await in_store_thread(resources, partial(resources.objects.delete, *keys))
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
