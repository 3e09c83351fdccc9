"""`/v1/datasets`: what can be distilled, and how to add to it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.artifacts.conditions import Conditions
from api.artifacts.endpoints import BYTES, PNG
from api.artifacts.service import content, in_store_thread
from api.bodies import parse_model
from api.datasets import service
from api.datasets.schemas import DatasetCheck, DatasetRequest, DatasetValidation, DatasetView, SampleList
from api.deps import NAME, Data, IfNoneMatch, JsonBody, Limit, Res, Tenant
from api.errors import problems
from api.responses import JsonResponse
from api.schemas import List
from core.jobs import deletion
from core.jobs.database import now
from core.jobs.datasets import Datasets

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

DatasetId = Annotated[str, Path(description="Id of a registered data set.")]
_REGISTERED = {
    "Location": {"description": "Path of the data set.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {"description": "`true` when it was registered before.", "schema": {"type": "string"}},
}
_BODIES = [{"$ref": f"#/components/schemas/{name}"} for name in ("DatasetRequest", "DatasetCheck")]
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": _BODIES}}}}}


@router.get("", response_model=List[DatasetView], responses=problems(400, 422, 503))
def list_datasets(
    database: Data,
    tenant: Tenant,
    limit: Limit,
    after: Annotated[str | None, Query(pattern=NAME, description="Name or id: the page holds what follows it.")] = None,
    source: Annotated[Literal["builtin", "upload"] | None, Query(description="Only these.")] = None,
) -> Response:
    """Registered data sets, newest first, then the built-in ones."""
    views, has_more = service.page(database, tenant, limit=limit, after=after, source=source)
    keys = [view.id or view.name for view in views]
    return JsonResponse(List[DatasetView](
        data=views, first_id=keys[0] if keys else None, last_id=keys[-1] if keys else None, has_more=has_more
    ))


@router.post(
    "", status_code=202, response_model=DatasetView,
    responses={
        202: {"description": "A job reads the files", "headers": _REGISTERED},
        200: {"model": DatasetValidation, "description": "`validate_only`: what would be made; nothing was kept"},
        **problems(400, 403, 404, 409, 413, 415, 422, 429, 503),
    },
    openapi_extra=_BODY,
)
def register_dataset(
    resources: Res,
    tenant: Tenant,
    body: JsonBody,
    validate_only: Annotated[
        bool, Query(description="Only check the request; `source` may be left out, and an upload is not looked at.")
    ] = False,
) -> Response:
    """Make a data set of uploaded files.

    The same file under the same name, read in the same way, is the same data set, also when it was uploaded again.
    """
    if validate_only:
        _, check = parse_model(body, DatasetCheck)
        return JsonResponse(service.validation(resources.settings, check))
    _, request = parse_model(body, DatasetRequest)
    view, known = service.register(resources, tenant, request)
    headers = {"Location": view.links.self} | ({"Idempotent-Replayed": "true"} if known else {})
    return JsonResponse(view, status_code=202, headers=headers)


@router.get("/{name}", response_model=DatasetView, responses=problems(404, 503))
def get_dataset(
    database: Data, tenant: Tenant, name: Annotated[str, Path(description="Name of a built-in set, or id of a registered one.")]
) -> Response:
    """One data set: its state, shape, classes, counts, split rule, normalisation, digest; why its files were refused."""
    return JsonResponse(service.view(database, tenant, name))


@router.get("/{dataset_id}/inspect", response_model=SampleList, responses=problems(404, 409, 502, 503))
async def inspect_dataset(
    resources: Res,
    tenant: Tenant,
    dataset_id: DatasetId,
    split: Annotated[Literal["train", "test"] | None, Query(description="Only of this split.")] = None,
    class_name: Annotated[str | None, Query(alias="class", max_length=128, description="Only of this class.")] = None,
    n: Annotated[int, Query(ge=1, le=service.MAX_SAMPLES, description="At most so many, spread over the classes.")] = 20,
) -> Response:
    """Samples of a registered data set, as PNG files in base64."""
    find = partial(service.samples, resources, tenant, dataset_id, split=split, class_name=class_name, count=n)
    return JsonResponse(SampleList(data=await in_store_thread(resources, find)))


@router.get(
    "/{dataset_id}/preview", response_class=Response,
    responses={
        200: {"description": "Samples of every class", "content": {PNG: BYTES}},
        304: {"description": "The client has this image"}, **problems(404, 409, 502, 503),
    },
)
async def get_dataset_preview(
    resources: Res, tenant: Tenant, dataset_id: DatasetId, if_none_match: IfNoneMatch = None
) -> Response:
    """A picture of a registered data set: some samples of every class."""
    find = partial(service.file_of, resources.database, tenant, dataset_id, "preview")
    return await content(resources, find, Conditions(if_none_match=if_none_match), inline=True)


@router.delete(
    "/{dataset_id}", status_code=204, response_class=Response,
    responses={204: {"description": "The data set is gone"}, **problems(404, 409, 503)},
)
def delete_dataset(database: Data, tenant: Tenant, dataset_id: DatasetId) -> Response:
    """Delete a registered data set. Jobs that have distilled it stay, with what they made."""
    with database.write() as session:
        deletion.delete(session, Datasets(session, tenant).locked(dataset_id), now(session))
    return Response(status_code=204)
