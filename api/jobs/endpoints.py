"""`/v1/jobs`: submit, look, stop, repeat, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from api.bodies import parse_model
from api.deps import NAME, Data, IfMatch, IfNoneMatch, JobId, JsonBody, Limit, Res, Tenant
from api.errors import PreconditionFailedError, distill_problem, problems
from api.jobs import service
from api.jobs.schemas import CancelRequest, JobValidation, JobView, job_view
from api.responses import JsonResponse, cached, tag_matches
from api.schemas import List
from core.errors import JobAlreadyTerminalError
from core.jobs import deletion
from core.jobs.database import now
from core.jobs.models import Job
from core.jobs.repository import Jobs
from core.jobs.states import State
from core.specs.job import RetryRequest

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

IdempotencyKey = Annotated[
    str | None, Header(description="1 to 255 printable characters; the same key and body never make a second job.")
]


def _body(*schemas: str, required: bool) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{schema}"} for schema in schemas]
    content = {"application/json": {"schema": references[0] if len(references) == 1 else {"anyOf": references}}}
    return {"requestBody": {"required": required, "content": content}}


_HEADERS = {
    "Retry-After": {"description": "Seconds until another look pays; absent when it is over", "schema": {"type": "integer"}},
}
_CREATED_HEADERS = _HEADERS | {
    "Location": {"description": "Path of the job.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {"description": "`true` when an earlier request made the job.", "schema": {"type": "string"}},
}


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    responses={
        202: {"description": "The job is accepted and will not be lost", "headers": _CREATED_HEADERS},
        200: {"model": JobValidation, "description": "`validate_only`: the resolved specification; nothing was kept"},
        **problems(400, 404, 409, 413, 415, 422, 503),
    },
    openapi_extra=_body("JobRequest", "ProbeRequest", required=True),
)
def create_job(
    resources: Res,
    tenant: Tenant,
    body: JsonBody,
    idempotency_key: IdempotencyKey = None,
    validate_only: Annotated[
        bool, Query(description="Only resolve the specification; show its budget and a coarse estimate of time and memory.")
    ] = False,
) -> Response:
    """Submit a job: a recipe with overrides, or a whole method. The answer shows the fully resolved specification.

    A probe (`kind: probe`) takes the same way without data or mathematics: a smoke test of an installation.
    """
    key = service.checked_key(idempotency_key)
    if validate_only:
        return JsonResponse(service.validation(resources, tenant, body))
    return _accepted(service.create(resources, tenant, body, key))


@router.get("", response_model=List[JobView], responses=problems(400, 422, 503))
def list_jobs(
    database: Data,
    tenant: Tenant,
    limit: Limit,
    after: Annotated[str | None, Query(description="Id of a job: the page holds older ones.")] = None,
    before: Annotated[str | None, Query(description="Id of a job: the page holds the newer ones next to it.")] = None,
    state: Annotated[list[State] | None, Query(description="Keep these states; repeatable.")] = None,
    kind: Annotated[str | None, Query(pattern=NAME, description="Keep this kind.")] = None,
    recipe: Annotated[str | None, Query(pattern=NAME)] = None,
    dataset: Annotated[str | None, Query(pattern=NAME)] = None,
) -> Response:
    """Jobs, newest first."""
    with database.read() as session:
        page = Jobs(session, tenant).page(
            limit=limit, after=service.checked_cursor(after), before=service.checked_cursor(before),
            states=state or (), kind=kind, recipe=recipe, dataset=dataset,
        )
        data = service.views(session, tenant, page.jobs)
    return JsonResponse(
        List[JobView](
            data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None, has_more=page.has_more
        )
    )


@router.get(
    "/{job_id}", response_model=JobView,
    responses={200: {"headers": _HEADERS}, 304: {"description": "The job has not changed"}, **problems(404, 503)},
)
def get_job(database: Data, tenant: Tenant, job_id: JobId, if_none_match: IfNoneMatch = None) -> Response:
    """One job. Poll with `If-None-Match`: an unchanged job costs almost nothing."""
    with database.read() as session:
        job = Jobs(session, tenant).get(job_id)
        (view,) = service.views(session, tenant, [job])
    return cached(view, _tag(job), if_none_match, _retry_after(view))


@router.post(
    "/{job_id}/cancel",
    response_model=JobView,
    responses={
        200: {"description": "The job is cancelled"},
        202: {"model": JobView, "description": "The job is `cancelling` until its worker has stopped it"},
        **problems(400, 404, 409, 413, 415, 422, 503),
    },
    openapi_extra=_body("CancelRequest", required=False),
)
def cancel_job(request: Request, database: Data, tenant: Tenant, job_id: JobId, body: JsonBody) -> Response:
    """Stop a job. Repeating changes nothing; a cancel that was accepted wins over a result that comes later."""
    _, request_body = parse_model(body.strip() or b"{}", CancelRequest)
    try:
        with database.write() as session:
            job = Jobs(session, tenant).cancel(job_id, request_body.reason)
            view = job_view(job, job.finished_at or now(session))
    except JobAlreadyTerminalError as error:
        with database.read() as session:
            job = Jobs(session, tenant).get(job_id)
            view = job_view(job, now(session))
        return distill_problem(request, error, job=view.model_dump(mode="json"))
    return JsonResponse(view, status_code=200 if view.state.terminal else 202, headers=_retry_after(view))


@router.post(
    "/{job_id}/retry",
    status_code=202,
    response_model=JobView,
    responses={
        202: {"description": "A new job is accepted and will not be lost", "headers": _CREATED_HEADERS},
        **problems(400, 404, 409, 413, 415, 422, 503),
    },
    openapi_extra=_body("RetryRequest", required=False),
)
def retry_job(
    resources: Res, tenant: Tenant, job_id: JobId, body: JsonBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """Run a job that is over once more, as a new job with the same specification or with changes to it."""
    key = service.checked_key(idempotency_key)
    tree, changes = parse_model(body.strip() or b"{}", RetryRequest)
    return _accepted(service.retry(resources, tenant, job_id, tree, changes, key))


@router.delete(
    "/{job_id}", status_code=204, response_class=Response,
    responses={204: {"description": "The job is gone"}, **problems(404, 409, 412, 503)},
)
def delete_job(database: Data, tenant: Tenant, job_id: JobId, if_match: IfMatch = None) -> Response:
    """Delete a job that is over, with everything it made and the jobs that evaluated its set.

    It is hidden at once; its bytes are collected later.
    """
    with database.write() as session:
        job = Jobs(session, tenant).locked(job_id)
        if if_match is not None and not tag_matches(if_match, _tag(job)):
            raise PreconditionFailedError("the job has another ETag than If-Match asks for")
        deletion.delete(session, job, now(session))
    return Response(status_code=204)


def _tag(job: Job) -> str:
    return f'W/"{job.version}"'


def _accepted(created: service.Created) -> Response:
    headers = {"Location": created.view.links.self, **_retry_after(created.view)}
    if created.replayed:
        headers["Idempotent-Replayed"] = "true"
    return JsonResponse(created.view, status_code=202, headers=headers)


def _retry_after(view: JobView) -> dict[str, str]:
    seconds = service.retry_after_seconds(view)
    return {} if seconds is None else {"Retry-After": str(seconds)}
