"""What the API asks of the tables of uploads. Every statement is scoped by tenant; another tenant's upload does not exist.

Whatever changes an upload locks its row first, so parts that are committed at the same time, the completion, the registration
of a data set and the sweeper's decisions happen one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.errors import InvalidCursorError, NotFoundError, UploadClosedError, UploadExpiredError, UploadNotCompleteError
from core.jobs.database import now
from core.jobs.ids import new_id
from core.settings import Settings
from core.uploads import quota, sweeping
from core.uploads.checks import check_parts
from core.uploads.models import Upload, UploadPart, UploadState
from core.uploads.parts import part_bytes_for


class NewUpload(NamedTuple):
    """What a client says of its file."""

    filename: str
    media_type: str
    size_bytes: int
    sha256: str


class StoredPart(NamedTuple):
    """A part whose bytes are in the store."""

    number: int
    size_bytes: int
    sha256: str
    key: str


class Page(NamedTuple):
    """One page of uploads, newest first, and whether more follow in the direction of travel."""

    uploads: Sequence[Upload]
    has_more: bool


def parts_of(session: Session, tenant_id: str, upload_id: str) -> Sequence[UploadPart]:
    """The parts of a complete upload, in order; none when it is not complete, or its bytes are not kept any more."""
    return session.scalars(
        sa.select(UploadPart)
        .join(Upload, Upload.id == UploadPart.upload_id)
        .where(
            UploadPart.tenant_id == tenant_id, UploadPart.upload_id == upload_id,
            Upload.state == UploadState.COMPLETE, Upload.ended_at.is_(None),
        )
        .order_by(UploadPart.number)
    ).all()


class Uploads:
    """The uploads of one tenant, within one session."""

    def __init__(self, session: Session, tenant_id: str) -> None:
        self.session = session
        self.tenant_id = tenant_id

    # ------------------------------------------------------------------ create

    def create(self, new: NewUpload, settings: Settings) -> Upload:
        """Begin an upload, and reserve what it will take.

        Raises:
            UploadTooLargeError: this installation takes no files of this size.
            QuotaExceededError: the tenant has begun too many, or would have too much in the store.
        """
        quota.reserve(self.session, self.tenant_id, new.size_bytes, settings)
        at = now(self.session)
        upload = Upload(
            **new._asdict(), id=new_id("up"), tenant_id=self.tenant_id, state=UploadState.OPEN,
            part_bytes=part_bytes_for(new.size_bytes), version=1, created_at=at, touched_at=at,
            expires_at=at + timedelta(seconds=settings.upload_expiry_seconds),
        )
        self.session.add(upload)
        self.session.flush()
        return upload

    # -------------------------------------------------------------------- read

    def get(self, upload_id: str) -> Upload:
        """One upload.

        Raises:
            NotFoundError: this tenant has no such upload.
        """
        return self._found(upload_id, sa.select(Upload))

    def locked(self, upload_id: str) -> Upload:
        """One upload, which nobody else changes until the transaction ends.

        Raises:
            NotFoundError: this tenant has no such upload.
        """
        return self._found(upload_id, sa.select(Upload).with_for_update().execution_options(populate_existing=True))

    def _found(self, upload_id: str, query: sa.Select[Upload]) -> Upload:
        upload = self.session.scalar(query.where(Upload.tenant_id == self.tenant_id, Upload.id == upload_id))
        if upload is None:
            raise NotFoundError(f"there is no upload {upload_id!r}")
        return upload

    def parts(self, upload_id: str) -> Sequence[UploadPart]:
        """The parts that are there, by number."""
        return self.session.scalars(
            sa.select(UploadPart)
            .where(UploadPart.tenant_id == self.tenant_id, UploadPart.upload_id == upload_id)
            .order_by(UploadPart.number)
        ).all()

    def received_bytes(self, upload_ids: Sequence[str]) -> dict[str, int]:
        """What is there of some uploads, by their ids; nothing for one without parts."""
        rows = self.session.execute(
            sa.select(UploadPart.upload_id, sa.func.sum(UploadPart.size_bytes))
            .where(UploadPart.tenant_id == self.tenant_id, UploadPart.upload_id.in_(upload_ids))
            .group_by(UploadPart.upload_id)
        )
        return {upload_id: int(size) for upload_id, size in rows}

    def page(
        self, *, limit: int, after: str | None = None, before: str | None = None, states: Sequence[UploadState] = ()
    ) -> Page:
        """A page of uploads, newest first, by keyset on (created_at, id).

        Args:
            limit: largest number of uploads to return.
            after: id of an upload; the page holds older ones.
            before: id of an upload; the page holds the newer ones next to it.
            states: keep only these states; empty keeps all.

        Raises:
            InvalidCursorError: a cursor names no upload of this tenant.
        """
        query = sa.select(Upload).where(Upload.tenant_id == self.tenant_id)
        if states:
            overdue = (Upload.state == UploadState.OPEN) & (Upload.expires_at <= now(self.session))
            query = query.where(sa.case((overdue, str(UploadState.EXPIRED)), else_=Upload.state).in_(states))
        key = sa.tuple_(Upload.created_at, Upload.id)
        if after is not None:
            query = query.where(key < self._cursor(after))
        if before is not None:
            query = query.where(key > self._cursor(before))
        backwards = before is not None and after is None
        order = (Upload.created_at.asc(), Upload.id.asc()) if backwards else (Upload.created_at.desc(), Upload.id.desc())
        rows = list(self.session.scalars(query.order_by(*order).limit(limit + 1)))
        has_more = len(rows) > limit
        rows = rows[:limit]
        return Page(rows[::-1] if backwards else rows, has_more)

    def _cursor(self, upload_id: str) -> Any:
        try:
            created = self.get(upload_id).created_at
        except NotFoundError:
            raise InvalidCursorError(f"no page starts at {upload_id!r}") from None
        return sa.tuple_(sa.literal(created, Upload.created_at.type), sa.literal(upload_id))

    def completed(self, upload_id: str) -> Upload:
        """A complete upload whose bytes are kept at least until the transaction ends: it may create the job that reads them.

        Raises:
            NotFoundError: this tenant has no such upload.
            UploadNotCompleteError: parts are missing, or its bytes are not kept any more.
        """
        upload = self.locked(upload_id)
        state = upload.state_at(now(self.session))
        if state is not UploadState.COMPLETE:
            raise UploadNotCompleteError(f"the upload is {state}, not complete")
        if upload.ended_at is not None:
            raise UploadNotCompleteError("the upload was used or expired, and its bytes are not kept: upload the file again")
        return upload

    # ------------------------------------------------------------------ change

    def open(self, upload_id: str, *, lock: bool = False) -> Upload:
        """An upload that takes parts.

        Raises:
            NotFoundError: this tenant has no such upload.
            UploadClosedError: it is complete or cancelled.
            UploadExpiredError: its time is over.
        """
        upload = self.locked(upload_id) if lock else self.get(upload_id)
        self._require(upload, UploadState.OPEN)
        return upload

    def whole(self, upload_id: str, *, lock: bool = False) -> Upload:
        """An upload that takes a whole file: an open one, or a complete one whose bytes can be compared with it.

        Raises:
            NotFoundError: this tenant has no such upload.
            UploadClosedError: it is cancelled, or complete and its bytes are not kept any more.
            UploadExpiredError: its time is over.
        """
        upload = self.locked(upload_id) if lock else self.get(upload_id)
        state = self._require(upload, UploadState.OPEN, UploadState.COMPLETE)
        if state is UploadState.COMPLETE and upload.ended_at is not None:
            raise UploadClosedError("the upload is complete; its bytes were used, or are not kept any more")
        return upload

    def await_whole(self, upload_id: str, seconds: float) -> None:
        """Keep an upload for so long at least, as a whole file is about to come.

        Raises:
            DistillError: as `whole` does.
        """
        upload = self.whole(upload_id, lock=True)
        at = now(self.session)
        if upload.expires_at < at + timedelta(seconds=seconds):
            upload.expires_at = at + timedelta(seconds=seconds)
            self._touch(upload, at)

    def _require(self, upload: Upload, *states: UploadState) -> UploadState:
        state = upload.state_at(now(self.session))
        if state in states:
            return state
        if state is UploadState.EXPIRED:
            raise UploadExpiredError("the upload has expired: begin another one")
        raise UploadClosedError(f"the upload is {state}")

    def add_part(self, upload_id: str, part: StoredPart, expiry_seconds: float) -> str | None:
        """Note a part whose bytes are in the store; the key that it replaces, to delete after the commit.

        Raises:
            NotFoundError: this tenant has no such upload.
            UploadClosedError: it is complete or cancelled.
            UploadExpiredError: its time is over.
        """
        upload = self.open(upload_id, lock=True)
        at = now(self.session)
        row = self.session.get(UploadPart, (upload_id, part.number))
        replaced = None if row is None else row.key
        values = part._asdict() | {"upload_id": upload_id, "tenant_id": self.tenant_id, "created_at": at}
        self.session.merge(UploadPart(**values))
        self._touch(upload, at)
        upload.expires_at = at + timedelta(seconds=expiry_seconds)
        return replaced

    def complete(self, upload_id: str, digests: Mapping[int, str], expiry_seconds: float) -> Upload:
        """Close an upload that has all its parts. Repeating changes nothing.

        Args:
            upload_id: which.
            digests: SHA-256 of every part by its number, as the client knows them; empty: not compared.
            expiry_seconds: how long the bytes are kept for a data set to be made of them.

        Raises:
            NotFoundError: this tenant has no such upload.
            UploadClosedError: it is cancelled.
            UploadExpiredError: its time is over.
            PartsMissingError: parts are missing.
            SpecError: the digests are not one for each part.
            SizeMismatchError: a part has another size than it should have.
            DigestMismatchError: a part has other bytes than the client says.
        """
        upload = self.locked(upload_id)
        if self._require(upload, UploadState.OPEN, UploadState.COMPLETE) is UploadState.COMPLETE:
            return upload
        check_parts(upload, {part.number: part for part in self.parts(upload_id)}, digests)
        self._close(upload, now(self.session), expiry_seconds)
        return upload

    def complete_with(self, upload_id: str, parts: Sequence[StoredPart], expiry_seconds: float) -> tuple[Upload, list[str]]:
        """Note all parts at once, in place of those that were sent before, and close the upload.

        Repeating changes nothing: of a complete upload that has these very bytes, the parts that it has are kept.

        Returns:
            The upload, and the keys that nothing names, to delete after the commit.

        Raises:
            NotFoundError: this tenant has no such upload.
            UploadClosedError: it is cancelled, or complete with other bytes or with none that are kept.
            UploadExpiredError: its time is over.
        """
        upload = self.whole(upload_id, lock=True)
        if upload.state == UploadState.COMPLETE:
            if [(part.number, part.sha256) for part in self.parts(upload_id)] != [(part.number, part.sha256) for part in parts]:
                raise UploadClosedError("the upload is complete, with parts that have other bytes")
            return upload, [part.key for part in parts]
        at = now(self.session)
        of_upload = sa.delete(UploadPart).where(UploadPart.tenant_id == self.tenant_id, UploadPart.upload_id == upload_id)
        keys = list(self.session.scalars(of_upload.returning(UploadPart.key)))
        shared = {"upload_id": upload_id, "tenant_id": self.tenant_id, "created_at": at}
        self.session.execute(sa.insert(UploadPart), [part._asdict() | shared for part in parts])
        self._close(upload, at, expiry_seconds)
        return upload, keys

    def release(self, upload_id: str) -> None:
        """Let the sweeper have the bytes of a complete upload, where it is still there and no job reads it."""
        self.session.execute(
            sa.update(Upload)
            .where(
                Upload.tenant_id == self.tenant_id, Upload.id == upload_id, Upload.state == UploadState.COMPLETE,
                Upload.ended_at.is_(None),
            )
            .values(expires_at=now(self.session), version=Upload.version + 1)
        )

    def cancel(self, upload_id: str) -> Upload:
        """Give an upload up that no job reads. Repeating changes nothing.

        Raises:
            NotFoundError: this tenant has no such upload.
            UploadClosedError: a job reads it.
            UploadExpiredError: its time is over.
        """
        upload = self.locked(upload_id)
        if self._require(upload, UploadState.OPEN, UploadState.COMPLETE, UploadState.CANCELLED) is not UploadState.CANCELLED:
            readers = sweeping.states_of_readers(self.session, [upload_id]).get(upload_id, [])
            if not all(state.terminal for state in readers):
                raise UploadClosedError("a data set is being made of the upload: cancel the job that reads it first")
            at = now(self.session)
            upload.state = UploadState.CANCELLED
            upload.ended_at = at
            self._touch(upload, at)
        return upload

    def _close(self, upload: Upload, at: datetime, expiry_seconds: float) -> None:
        upload.state = UploadState.COMPLETE
        self._touch(upload, at)
        upload.expires_at = at + timedelta(seconds=expiry_seconds)

    def _touch(self, upload: Upload, at: datetime) -> None:
        upload.touched_at = at
        upload.version += 1
