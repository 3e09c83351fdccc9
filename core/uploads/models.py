"""The tables of uploads. A complete upload is its parts in order: nothing is ever put together here."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from core.jobs.models import Base


class UploadState(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_Id = String(64)
_STATES = ", ".join(f"'{state.value}'" for state in UploadState)


class Upload(Base):
    """A file that a client sends in parts."""

    __tablename__ = "uploads"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        Index("ix_uploads_tenant_id_created_at_id", "tenant_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(_Id)
    state: Mapped[str] = mapped_column(String(16))
    filename: Mapped[str] = mapped_column(String(255))
    """The client's, for people. No key is made of it."""
    media_type: Mapped[str] = mapped_column(String(127))
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the whole file, as the client stated it: verified by who reads the parts."""
    part_bytes: Mapped[int]
    version: Mapped[int]
    created_at: Mapped[datetime]
    touched_at: Mapped[datetime]
    """When the last part came, or the state last changed."""
    expires_at: Mapped[datetime]
    """When it ends, if nobody goes on with it until then."""
    ended_at: Mapped[datetime | None]
    """Since when nobody may read its bytes any more: they go, or are gone."""

    @property
    def num_parts(self) -> int:
        """How many parts it has when it is complete."""
        return -(-self.size_bytes // self.part_bytes)

    def state_at(self, at: datetime) -> UploadState:
        """The state: an upload whose time is over has expired, whether or not the sweeper has come by."""
        if self.state == UploadState.OPEN and self.expires_at <= at:
            return UploadState.EXPIRED
        return UploadState(self.state)

    def size_of(self, number: int) -> int:
        """Size of a part; numbers count from 1."""
        assert 1 <= number <= self.num_parts, number
        return min(self.part_bytes, self.size_bytes - (number - 1) * self.part_bytes)


class UploadPart(Base):
    """A part whose bytes are in the store. A part that is sent again has a key of its own, and the row names the last one."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(_Id, ForeignKey("uploads.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Counts from 1."""
    tenant_id: Mapped[str] = mapped_column(_Id)
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(512))
    created_at: Mapped[datetime]
