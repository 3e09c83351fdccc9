"""What happened to a job: its attempts, events (as pages and as a stream) and metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import StringConstraints
from starlette.responses import Response

from api.artifacts.service import in_store_thread
from api.deps import NAME, Data, IfNoneMatch, JobId, Limit, Res, Tenant
from api.errors import Responses, TooManySeriesError, problems
from api.jobs import metrics, stream
from api.jobs.schemas import AttemptView, EventList, MetricList, SeriesView, attempt_view, event_list
from api.responses import JsonResponse, cached
from api.schemas import List
from core.jobs.repository import Jobs

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MAX_SERIES = 20
SeriesName = Annotated[str, StringConstraints(pattern=NAME)]
LARGEST_STEP = 2**31 - 1
_SENT_EVENT = {
    "type": "object", "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"}, "event": {"type": "string"},
        "data": {
            "type": "string", "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/EventView"},
        },
    },
}
_UNCHANGED: Responses = {304: {"description": "The job has not changed"}}


@router.get("/{job_id}/attempts", response_model=List[AttemptView], responses=problems(404, 503))
def list_attempts(database: Data, tenant: Tenant, job_id: JobId) -> Response:
    """Every attempt of a job, the first one first."""
    with database.read() as session:
        jobs = Jobs(session, tenant)
        jobs.get(job_id)
        data = [attempt_view(row) for row in jobs.attempts(job_id)]
    first, last = (str(data[0].number), str(data[-1].number)) if data else (None, None)
    return JsonResponse(List[AttemptView](data=data, first_id=first, last_id=last, has_more=False))


@router.get(
    "/{job_id}/logs", response_class=Response,
    responses={
        200: {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(404, 422, 502, 503)
    },
)
async def get_log(
    resources: Res,
    tenant: Tenant,
    job_id: JobId,
    attempt: Annotated[int | None, Query(ge=1, le=LARGEST_STEP, description="Of this attempt; else of the newest.")] = None,
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="Only so many lines from the end.")] = None,
) -> Response:
    """What the process of an attempt that has ended wrote for people, its last mebibyte; empty where that was nothing."""

    def read() -> bytes:
        with resources.database.read() as session:
            row = Jobs(session, tenant).ended_attempt(job_id, attempt)
        return b"".join(resources.objects.chunks(row.log_key, 0, row.log_bytes or 0)) if row.log_key is not None else b""

    lines = (await in_store_thread(resources, read)).splitlines(keepends=True)
    text = b"".join(lines if tail is None else lines[-tail:])
    return Response(text, media_type="text/plain; charset=utf-8", headers={"X-Content-Type-Options": "nosniff"})


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
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: `id` is the sequence number, `event` the type, `data` the event as JSON",
            "content": {"text/event-stream": {"itemSchema": _SENT_EVENT}},
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
    if news.over and not news.messages:
        return Response(status_code=204)
    return stream.EventStream(
        stream.follow(resources, tenant, job_id, seq, news), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    )


@router.get("/{job_id}/metrics", response_model=MetricList, responses={**_UNCHANGED, **problems(404, 503)})
def list_metrics(database: Data, tenant: Tenant, job_id: JobId, if_none_match: IfNoneMatch = None) -> Response:
    """Every series of a job in short."""
    with database.read() as session:
        job = Jobs(session, tenant).get(job_id)
        data = metrics.summaries(session, tenant, job_id)
    view = MetricList(data=data, first_id=data[0].name if data else None, last_id=data[-1].name if data else None)
    return cached(view, f'W/"{job.version}"', if_none_match)


@router.get(
    "/{job_id}/metrics/series", response_model=SeriesView, responses={**_UNCHANGED, **problems(400, 404, 422, 503)}
)
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
