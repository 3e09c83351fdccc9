"""A finished file of a job, as a client sees it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from core.jobs.models import Artifact


class ArtifactLinks(BaseModel):
    self: str
    content: str


class ArtifactView(BaseModel):
    """A finished file. Its bytes never change."""

    id: str
    object: Literal["artifact"] = "artifact"
    job_id: str
    attempt: int
    kind: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str = Field(description="SHA-256 of the bytes, in hex.")
    created_at: datetime
    links: ArtifactLinks


def artifact_view(row: Artifact) -> ArtifactView:
    """Show a row."""
    url = f"/v1/artifacts/{row.id}"
    return ArtifactView(
        id=row.id, job_id=row.job_id, attempt=row.attempt, kind=row.kind, name=row.name, media_type=row.media_type,
        size_bytes=row.size_bytes, sha256=row.sha256, created_at=row.created_at,
        links=ArtifactLinks(self=url, content=f"{url}/content"),
    )
