"""`/v1/artifacts`: finished files and their bytes; `/v1/jobs/{id}/artifacts` and previews."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from api.artifacts.conditions import Conditions
from api.artifacts.schemas import ArtifactView, artifact_view
from api.artifacts.service import content
from api.deps import NAME, ArtifactId, Data, IfMatch, IfNoneMatch, JobId, Res, Tenant
from api.errors import Responses, problems
from api.responses import JsonResponse, cached
from api.schemas import List
from core.errors import NotFoundError
from core.jobs.database import Database
from core.jobs.models import Artifact
from core.jobs.repository import Jobs

router = APIRouter(tags=["artifacts"])

PREVIEW = "preview"
PNG = "image/png"

BYTES = {"schema": {"type": "string", "format": "binary"}}
_CONTENT: Responses = {
    200: {"description": "All bytes", "content": {"*/*": BYTES}},
    206: {"description": "The range that was asked for", "content": {"*/*": BYTES}},
    304: {"description": "The client has these bytes"},
    **problems(404, 412, 416, 502, 503),
}
_IMAGE: Responses = {
    200: {"description": "A grid of synthetic images", "content": {PNG: BYTES}},
    304: {"description": "The client has this image"},
    **problems(404, 502, 503),
}


async def _conditions(
    if_none_match: IfNoneMatch = None,
    range_: Annotated[
        str | None, Header(alias="Range", description="One range: `bytes=a-b`, `bytes=a-` or `bytes=-n`.")
    ] = None,
    if_range: Annotated[str | None, Header(description="Send the range only while the ETag is this one.")] = None,
    if_match: IfMatch = None,
) -> Conditions:
    return Conditions(range_, if_range, if_match, if_none_match)


RangeHeaders = Annotated[Conditions, Depends(_conditions)]


@router.get("/v1/jobs/{job_id}/artifacts", response_model=List[ArtifactView], responses=problems(404, 422, 503))
def list_artifacts(
    database: Data,
    tenant: Tenant,
    job_id: JobId,
    kind: Annotated[str | None, Query(pattern=NAME, description="Keep this kind.")] = None,
) -> Response:
    """Finished files of a job, by name; none before it has succeeded."""
    with database.read() as session:
        jobs = Jobs(session, tenant)
        jobs.get(job_id)
        data = [artifact_view(row) for row in jobs.artifacts(job_id, kind)]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return JsonResponse(List[ArtifactView](data=data, first_id=first, last_id=last, has_more=False))


@router.get("/v1/jobs/{job_id}/preview", response_class=Response, responses=_IMAGE)
async def get_job_preview(resources: Res, tenant: Tenant, job_id: JobId, if_none_match: IfNoneMatch = None) -> Response:
    """The preview of a job, once it has one."""
    find = partial(_preview, resources.database, tenant, job_id)
    return await content(resources, find, Conditions(if_none_match=if_none_match), inline=True)


@router.get(
    "/v1/artifacts/{artifact_id}", response_model=ArtifactView,
    responses={304: {"description": "The client has it"}, **problems(404, 503)},
)
def get_artifact(database: Data, tenant: Tenant, artifact_id: ArtifactId, if_none_match: IfNoneMatch = None) -> Response:
    """What is known of a finished file."""
    row = _artifact(database, tenant, artifact_id)
    return cached(artifact_view(row), 'W/"1"', if_none_match)  # the row never changes


@router.get("/v1/artifacts/{artifact_id}/content", response_class=Response, responses=_CONTENT)
async def get_artifact_content(
    resources: Res, tenant: Tenant, artifact_id: ArtifactId, conditions: RangeHeaders
) -> Response:
    """The bytes of a finished file. Interrupted downloads continue with `Range` and `If-Range`."""
    return await content(resources, partial(_artifact, resources.database, tenant, artifact_id), conditions)


@router.head(
    "/v1/artifacts/{artifact_id}/content", response_class=Response,
    responses={
        200: {"description": "Headers only"}, 304: {"description": "The client has these bytes"},
        **problems(404, 412, 502, 503),
    },
)
async def head_artifact_content(
    resources: Res, tenant: Tenant, artifact_id: ArtifactId, conditions: RangeHeaders
) -> Response:
    """The headers of GET, without the bytes."""
    return await content(resources, partial(_artifact, resources.database, tenant, artifact_id), conditions, head=True)


@router.get("/v1/artifacts/{artifact_id}/preview", response_class=Response, responses=_IMAGE)
async def get_artifact_preview(
    resources: Res, tenant: Tenant, artifact_id: ArtifactId, if_none_match: IfNoneMatch = None
) -> Response:
    """The preview of the job that made this file."""

    def find() -> Artifact:
        return _preview(resources.database, tenant, _artifact(resources.database, tenant, artifact_id).job_id)

    return await content(resources, find, Conditions(if_none_match=if_none_match), inline=True)


def _artifact(database: Database, tenant: str, artifact_id: str) -> Artifact:
    with database.read() as session:
        return Jobs(session, tenant).artifact(artifact_id)


def _preview(database: Database, tenant: str, job_id: str) -> Artifact:
    with database.read() as session:
        jobs = Jobs(session, tenant)
        jobs.get(job_id)
        images = [row for row in jobs.artifacts(job_id, PREVIEW) if row.media_type == PNG]
    if not images:
        raise NotFoundError("the job has no preview yet")
    return min(images, key=lambda row: row.name)  # `preview.png`; a database's collation may order otherwise
