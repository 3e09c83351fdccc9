"""`/v1/jobs`: submit, look, follow, stop."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import StringConstraints, ValidationError
from starlette.responses import Response

from api.bodies import parse_object
from api.deps import NAME, Data, IfNoneMatch, JobId, JsonBody, Limit, Res, Tenant
from api.errors import TooManySeriesError, distill_problem, problems
from api.jobs import metrics, service, stream
from api.jobs.schemas import (
    AttemptView,
    CancelRequest,
    EventList,
    JobValidation,
    JobView,
    MetricList,
    SeriesView,
    attempt_view,
    event_list,
    job_view,
)
from api.responses import JsonResponse, cached
from api.schemas import List
from core.errors import JobAlreadyTerminalError
from core.jobs.database import now
from core.jobs.repository import Jobs
from core.jobs.states import State
from core.specs.resolve import spec_error

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MAX_SERIES = 20
SeriesName = Annotated[str, StringConstraints(pattern=NAME)]
LARGEST_STEP = 2**31 - 1


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
    idempotency_key: Annotated[
        str | None, Header(description="1 to 255 printable characters; the same key and body never make a second job.")
    ] = None,
    validate_only: Annotated[
        bool, Query(description="Only resolve the specification; show its budget and a coarse estimate of time and memory.")
    ] = False,
) -> Response:
    """Submit a job: a recipe with overrides, or a whole method. The answer shows the fully resolved specification.

    A probe (`kind: probe`) takes the same way without data or mathematics: a smoke test of an installation.
    """
    key = service.checked_key(idempotency_key)
    tree, spec = service.read_specification(body, resources.settings)
    if validate_only:
        return JsonResponse(service.validation(spec))
    view, replayed = service.create(resources, tenant, tree, spec, key)
    headers = {"Location": view.links.self, **_retry_after(view)}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return JsonResponse(view, status_code=202, headers=headers)


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
    return cached(view, f'W/"{job.version}"', if_none_match, _retry_after(view))


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
    reason = _cancel_reason(body)
    try:
        with database.write() as session:
            job = Jobs(session, tenant).cancel(job_id, reason)
            view = job_view(job, job.finished_at or now(session))
    except JobAlreadyTerminalError as error:
        with database.read() as session:
            job = Jobs(session, tenant).get(job_id)
            view = job_view(job, now(session))
        return distill_problem(request, error, job=view.model_dump(mode="json"))
    return JsonResponse(view, status_code=200 if view.state.terminal else 202, headers=_retry_after(view))


def _cancel_reason(body: bytes) -> str:
    if not body.strip():
        return ""
    tree = parse_object(body)
    try:
        return CancelRequest.model_validate(tree).reason
    except ValidationError as error:
        raise spec_error(error, tree) from None


@router.get("/{job_id}/attempts", response_model=List[AttemptView], responses=problems(404, 503))
def list_attempts(database: Data, tenant: Tenant, job_id: JobId) -> Response:
    """Every attempt of a job, the first one first."""
    with database.read() as session:
        jobs = Jobs(session, tenant)
        jobs.get(job_id)
        data = [attempt_view(row) for row in jobs.attempts(job_id)]
    first, last = (str(data[0].number), str(data[-1].number)) if data else (None, None)
    return JsonResponse(List[AttemptView](data=data, first_id=first, last_id=last, has_more=False))


@router.get("/{job_id}/events", response_model=EventList, responses=problems(400, 404, 422, 503))
def list_events(
    database: Data,
    tenant: Tenant,
    job_id: JobId,
    limit: Limit,
    after: Annotated[str | None, Query(description="Sequence number: the page holds later events.")] = None,
) -> Response:
    """What happened, in order. The sequence has no gaps, so `after=<last_id>` never misses an event."""
    seq = stream.parse_cursor(after)
    with database.read() as session:
        jobs = Jobs(session, tenant)
        stream.check_cursor(jobs.get(job_id), seq)
        rows = jobs.events_after(job_id, seq, limit + 1)
    return JsonResponse(event_list(rows[:limit], len(rows) > limit))


@router.get(
    "/{job_id}/events/stream",
    response_class=stream.EventStream,
    responses={
        200: {
            "description": "Server-sent events: `id` is the sequence number, `event` the type, `data` the event as JSON",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "The job is over and nothing is left to send"},
        **problems(400, 404, 503),
    },
)
async def stream_events(
    resources: Res,
    tenant: Tenant,
    job_id: JobId,
    last_event_id: Annotated[str | None, Header(description="Continue after this event; goes before `after`.")] = None,
    after: Annotated[str | None, Query(description="Continue after this event.")] = None,
) -> Response:
    """Follow a job live. The stream ends after the event that ends the job; coming back then gives 204."""
    seq = stream.parse_cursor(last_event_id or after)
    news = await stream.in_stream_thread(resources, tenant, job_id, seq)
    if news.over and not news.events:
        return Response(status_code=204)
    return stream.EventStream(
        stream.follow(resources, tenant, job_id, seq, news), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    )


@router.get("/{job_id}/metrics", response_model=MetricList, responses=problems(404, 503))
def list_metrics(database: Data, tenant: Tenant, job_id: JobId, if_none_match: IfNoneMatch = None) -> Response:
    """Every series of a job in short."""
    with database.read() as session:
        job = Jobs(session, tenant).get(job_id)
        data = metrics.summaries(session, tenant, job_id)
    view = MetricList(data=data, first_id=data[0].name if data else None, last_id=data[-1].name if data else None)
    return cached(view, f'W/"{job.version}"', if_none_match)


@router.get("/{job_id}/metrics/series", response_model=SeriesView, responses=problems(400, 404, 422, 503))
def get_series(
    database: Data,
    tenant: Tenant,
    job_id: JobId,
    name: Annotated[list[SeriesName] | None, Query(description=f"Series; repeatable, at most {MAX_SERIES}.")] = None,
    after_step: Annotated[int, Query(ge=-1, le=LARGEST_STEP, description="Only later steps.")] = -1,
    max_points: Annotated[int, Query(ge=5, le=5000, description="Points of each series; spikes survive thinning out.")] = 1000,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Curves, thinned out so that minimum and maximum of every stretch survive. Without `name`, every series."""
    with database.read() as session:
        jobs = Jobs(session, tenant)
        job = jobs.get(job_id)
        names = list(dict.fromkeys(name or jobs.metric_names(job_id)))
        if len(names) > MAX_SERIES:
            raise TooManySeriesError(f"{len(names)} series at once; ask for at most {MAX_SERIES}")
        found = {each: metrics.series(session, tenant, job_id, each, after_step, max_points) for each in names}
    return cached(SeriesView(series=found), f'W/"{job.version}"', if_none_match)


def _retry_after(view: JobView) -> dict[str, str]:
    seconds = service.retry_after_seconds(view)
    return {} if seconds is None else {"Retry-After": str(seconds)}
