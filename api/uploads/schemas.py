"""An upload as a client sees it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from core.specs.base import Spec
from core.uploads.models import Upload, UploadPart, UploadState
from core.uploads.parts import MAX_CONTENT_BYTES, MAX_PARTS

SHA256 = r"^[0-9a-f]{64}$"
FILE_NAME = r"^[^/\\\u0000-\u001f\u007f-\u009f\u2028\u2029]+$"
MEDIA_TYPE = r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,62}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,62}$"


class UploadRequest(Spec):
    """`POST /v1/uploads`: say what will be sent."""

    filename: str = Field(min_length=1, max_length=255, pattern=FILE_NAME)
    """For people only; no path, no control characters."""

    size_bytes: int = Field(ge=1, le=2**53)
    """Size of the whole file."""

    sha256: str = Field(pattern=SHA256)
    """SHA-256 of the whole file, in hex."""

    media_type: str = Field(default="application/octet-stream", max_length=127, pattern=MEDIA_TYPE)


class PartDigest(Spec):
    """A part as the client knows it."""

    n: int = Field(ge=1, le=MAX_PARTS)
    sha256: str = Field(pattern=SHA256)
    """SHA-256 of the part, in hex."""


class CompleteRequest(Spec):
    """`POST /v1/uploads/{id}/complete`: everything is sent."""

    parts: list[PartDigest] = Field(default=[], max_length=MAX_PARTS)
    """Every part once; then the service compares. Empty: it only looks whether all are there."""


class PartView(BaseModel):
    """A part that is there."""

    n: int = Field(description="Counts from 1.")
    size_bytes: int
    sha256: str = Field(description="SHA-256 of the part, in hex.")


class UploadLinks(BaseModel):
    self: str
    part: str = Field(description="Where a part is sent (PUT), with `{n}` for its number.")
    content: str | None = Field(description="Where the whole file may be sent at once (PUT); null for one that is too large.")
    complete: str
    cancel: str


class UploadView(BaseModel):
    """A file that is sent in parts."""

    id: str
    object: Literal["upload"] = "upload"
    state: UploadState
    filename: str
    media_type: str
    size_bytes: int
    sha256: str = Field(description="SHA-256 of the whole file as the client stated it; the job that reads it verifies it.")
    part_bytes: int = Field(description="Size of every part but the last, which is as long as what is left.")
    num_parts: int
    received_bytes: int = Field(description="Bytes of the parts that are there.")
    created_at: datetime
    touched_at: datetime = Field(description="When the last part came, or the state last changed.")
    expires_at: datetime = Field(
        description="When an open upload ends unless another part comes; a complete one unless a data set is made of it."
    )
    ended_at: datetime | None = Field(description="Since when its bytes are not kept any more.")
    links: UploadLinks


class UploadDetail(UploadView):
    """An upload with the parts that are there: the others are left to send."""

    parts: list[PartView]


def upload_view(upload: Upload, received_bytes: int, at: datetime) -> UploadView:
    """Show a row; `at` is the database's time."""
    url = f"/v1/uploads/{upload.id}"
    return UploadView(
        id=upload.id, state=upload.state_at(at), filename=upload.filename, media_type=upload.media_type,
        size_bytes=upload.size_bytes, sha256=upload.sha256, part_bytes=upload.part_bytes, num_parts=upload.num_parts,
        received_bytes=received_bytes, created_at=upload.created_at, touched_at=upload.touched_at,
        expires_at=upload.expires_at, ended_at=upload.ended_at,
        links=UploadLinks(
            self=url, part=f"{url}/parts/{{n}}", content=f"{url}/content" if upload.size_bytes <= MAX_CONTENT_BYTES else None,
            complete=f"{url}/complete", cancel=f"{url}/cancel",
        ),
    )


def upload_detail(upload: Upload, parts: Sequence[UploadPart], at: datetime) -> UploadDetail:
    """Show a row with its parts."""
    view = upload_view(upload, sum(part.size_bytes for part in parts), at)
    return UploadDetail(
        **view.model_dump(),
        parts=[PartView(n=part.number, size_bytes=part.size_bytes, sha256=part.sha256) for part in parts],
    )
