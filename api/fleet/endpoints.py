"""`/v1/workers` and `/v1/queues`: who works, and what waits."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from sqlalchemy.orm import Session
from starlette.responses import Response

from api.deps import Data, IfNoneMatch, Res, Tenant
from api.errors import problems
from api.fleet.schemas import QueueView, WorkerView, queue_view, served, worker_view
from api.responses import JsonResponse, cached
from api.schemas import List
from core.errors import InvalidStateError, NotFoundError
from core.jobs import census, workers
from core.jobs.census import QueueCount
from core.jobs.database import now
from core.jobs.ids import is_id
from core.jobs.models import Worker
from core.jobs.queue import QUEUES
from core.specs.base import digest

router = APIRouter(prefix="/v1", tags=["service"])


async def _worker_id(worker_id: Annotated[str, Path(description="Boot id of a worker.")]) -> str:
    if not is_id(worker_id, "wkr"):
        raise NotFoundError("there is no such worker")
    return worker_id


WorkerId = Annotated[str, Depends(_worker_id)]


@router.get("/workers", response_model=List[WorkerView], responses=problems(503))
def list_workers(resources: Res, database: Data, tenant: Tenant) -> Response:
    """Workers, the newest first."""
    silence = resources.settings.lease_seconds
    with database.read() as session:
        at = now(session)
        data = [worker_view(row, at, silence) for row in workers.listed(session) if row.tenant_id == tenant]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return JsonResponse(List[WorkerView](data=data, first_id=first, last_id=last, has_more=False))


@router.get(
    "/workers/{worker_id}", response_model=WorkerView,
    responses={304: {"description": "The worker has not changed"}, **problems(404, 503)},
)
def get_worker(
    resources: Res, database: Data, tenant: Tenant, worker_id: WorkerId, if_none_match: IfNoneMatch = None
) -> Response:
    """One worker: its devices, versions and state, and the job it has."""
    with database.read() as session:
        view = worker_view(_existing(session, tenant, worker_id), now(session), resources.settings.lease_seconds)
    return cached(view, f'W/"{digest(view.model_dump(mode="json"))[:32]}"', if_none_match)


@router.post(
    "/workers/{worker_id}/drain", status_code=202, response_model=WorkerView,
    responses={202: {"description": "The worker reads this with its next heartbeat"}, **problems(404, 409, 503)},
)
def drain_worker(resources: Res, database: Data, tenant: Tenant, worker_id: WorkerId) -> Response:
    """Let a worker save its job, hand it back and take no more. Repeating changes nothing."""
    silence = resources.settings.lease_seconds
    with database.write() as session:
        row, at = _existing(session, tenant, worker_id), now(session)
        if row.state == "stopped":
            raise InvalidStateError("the worker has stopped")
        workers.request_drain(session, worker_id)
        session.refresh(row)
        view = worker_view(row, at, silence)
    return JsonResponse(view, status_code=202)


def _existing(session: Session, tenant: str, worker_id: str) -> Worker:
    row = session.get(Worker, worker_id)
    if row is None or row.tenant_id != tenant:
        raise NotFoundError("there is no such worker")
    return row


@router.get("/queues", response_model=List[QueueView], responses=problems(503))
def list_queues(resources: Res, database: Data, tenant: Tenant) -> Response:
    """Every queue: how many jobs wait in it, for how long, how many run, and how many workers serve it."""
    silence = resources.settings.lease_seconds
    with database.read() as session:
        at, counts = now(session), census.queues(session, tenant)
        taking = [
            served(row) for row in workers.listed(session)
            if row.tenant_id == tenant and not row.drain_requested and workers.shown_state(row, at, silence) in {"idle", "busy"}
        ]
    data = [
        queue_view(name, counts.get(name, QueueCount()), sum(name in names for names in taking))
        for name in dict.fromkeys([*QUEUES, *sorted(counts)])
    ]
    return JsonResponse(List[QueueView](data=data, first_id=data[0].name, last_id=data[-1].name, has_more=False))
