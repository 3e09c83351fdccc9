"""`/v1/uploads`: send a large file in parts, in any order, in parallel, and go on after an interruption; or all at once."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.background import BackgroundTask
from starlette.responses import Response

from api.bodies import parse_model
from api.deps import Data, IfNoneMatch, JsonBody, Limit, Res, Tenant, UploadId
from api.errors import problems
from api.responses import JsonResponse, cached
from api.schemas import List
from api.uploads import service
from api.uploads.schemas import CompleteRequest, PartView, UploadDetail, UploadRequest, UploadView, upload_view
from core.errors import InvalidCursorError, SpecError, UploadExpiredError
from core.jobs.database import now
from core.jobs.ids import is_id
from core.uploads.models import UploadState
from core.uploads.parts import MAX_PARTS
from core.uploads.repository import NewUpload, Uploads

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


def _body(schema: str, *, required: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": required, "content": content}}


_OCTETS = {
    "requestBody": {
        "required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_LOCATION = {"Location": {"description": "Path of the upload.", "schema": {"type": "string"}}}


@router.post(
    "", status_code=201, response_model=UploadDetail,
    responses={
        201: {"description": "The upload is open, and its size is reserved", "headers": _LOCATION},
        **problems(400, 413, 415, 422, 429, 503),
    },
    openapi_extra=_body("UploadRequest", required=True),
)
def create_upload(resources: Res, tenant: Tenant, body: JsonBody) -> Response:
    """Begin an upload. The answer says how large the parts are.

    A request whose answer was lost may have begun one: look for it among those that are open, and go on with it.
    """
    _, request = parse_model(body, UploadRequest)
    new = NewUpload(request.filename, request.media_type, request.size_bytes, request.sha256)
    with resources.database.write() as session:
        upload = Uploads(session, tenant).create(new, resources.settings)
        view = service.detail(session, tenant, upload)
    return JsonResponse(view, status_code=201, headers={"Location": view.links.self})


@router.get("", response_model=List[UploadView], responses=problems(400, 422, 503))
def list_uploads(
    database: Data,
    tenant: Tenant,
    limit: Limit,
    after: Annotated[str | None, Query(description="Id of an upload: the page holds older ones.")] = None,
    before: Annotated[str | None, Query(description="Id of an upload: the page holds the newer ones next to it.")] = None,
    state: Annotated[list[UploadState] | None, Query(description="Keep these states; repeatable.")] = None,
) -> Response:
    """Uploads, newest first. Those that ended are forgotten after some days."""
    with database.read() as session:
        uploads = Uploads(session, tenant)
        page = uploads.page(limit=limit, after=_cursor(after), before=_cursor(before), states=state or ())
        received = uploads.received_bytes([upload.id for upload in page.uploads])
        at = now(session)
        data = [upload_view(upload, received.get(upload.id, 0), at) for upload in page.uploads]
    return JsonResponse(List[UploadView](
        data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None, has_more=page.has_more
    ))


def _cursor(cursor: str | None) -> str | None:
    if cursor is not None and not is_id(cursor, "up"):
        raise InvalidCursorError("the cursor must be the id of an upload")
    return cursor


@router.get(
    "/{upload_id}", response_model=UploadDetail,
    responses={304: {"description": "The upload has not changed"}, **problems(404, 410, 503)},
)
def get_upload(database: Data, tenant: Tenant, upload_id: UploadId, if_none_match: IfNoneMatch = None) -> Response:
    """One upload with the parts that are there."""
    with database.read() as session:
        upload = Uploads(session, tenant).get(upload_id)
        view = service.detail(session, tenant, upload)
    if view.state is UploadState.EXPIRED:
        raise UploadExpiredError("the upload has expired: begin another one")
    return cached(view, f'W/"{upload.version}"', if_none_match)


@router.put(
    "/{upload_id}/parts/{n}", response_model=PartView,
    responses={
        200: {"description": "The part is stored and will not be lost"},
        **problems(400, 404, 408, 409, 410, 411, 413, 415, 422, 503),
    },
    openapi_extra=_OCTETS,
)
async def put_part(
    request: Request,
    resources: Res,
    tenant: Tenant,
    upload_id: UploadId,
    n: Annotated[int, Path(ge=1, le=MAX_PARTS, description="Number of the part, from 1.")],
    content_digest: Annotated[str, Header(description="`sha-256=:BASE64:`, the SHA-256 of the part (RFC 9530).")],
) -> Response:
    """Send one part: its bytes as they are, with `Content-Length`. Repeatable, in any order, in parallel."""
    return JsonResponse(await service.receive(resources, tenant, upload_id, n, request, content_digest))


@router.put(
    "/{upload_id}/content", response_model=UploadDetail,
    responses={
        200: {"description": "The whole file is stored, and the upload is complete"},
        **problems(400, 404, 408, 409, 410, 411, 413, 415, 422, 503),
    },
    openapi_extra=_OCTETS,
)
async def put_content(
    request: Request,
    resources: Res,
    tenant: Tenant,
    upload_id: UploadId,
    content_digest: Annotated[
        str | None, Header(description="`sha-256=:BASE64:` of the whole file (RFC 9530); compared, where it is there.")
    ] = None,
) -> Response:
    """Send the whole file in one request, up to 512 MiB, with `Content-Length`: `curl -T FILE` does. It completes the upload.

    Parts that were sent before are replaced. Where it fails nothing is kept of it, and it is sent again from its beginning.
    """
    return JsonResponse(await service.receive_whole(resources, tenant, upload_id, request, content_digest))


@router.post(
    "/{upload_id}/complete", response_model=UploadDetail,
    responses={200: {"description": "The upload is complete"}, **problems(400, 404, 409, 410, 413, 415, 422, 503)},
    openapi_extra=_body("CompleteRequest", required=False),
)
def complete_upload(resources: Res, tenant: Tenant, upload_id: UploadId, body: JsonBody) -> Response:
    """Close an upload that has all its parts; then a data set can be made of it. Repeating changes nothing."""
    _, request = parse_model(body.strip() or b"{}", CompleteRequest)
    digests = {part.n: part.sha256 for part in request.parts}
    if len(digests) != len(request.parts):
        raise SpecError.at("/parts", "parts must name each part once")
    with resources.database.write() as session:
        upload = Uploads(session, tenant).complete(upload_id, digests, resources.settings.upload_expiry_seconds)
        view = service.detail(session, tenant, upload)
    return JsonResponse(view)


@router.post(
    "/{upload_id}/cancel", response_model=UploadDetail,
    responses={200: {"description": "The upload is cancelled"}, **problems(404, 409, 410, 503)},
)
def cancel_upload(resources: Res, tenant: Tenant, upload_id: UploadId) -> Response:
    """Give an open upload up; what was sent is deleted. Repeating changes nothing."""
    with resources.database.write() as session:
        upload = Uploads(session, tenant).cancel(upload_id)
        view = service.detail(session, tenant, upload)
    response = JsonResponse(view)
    response.background = BackgroundTask(service.collect_soon, resources, upload_id)
    return response
