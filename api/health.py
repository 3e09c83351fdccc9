"""Liveness, readiness, version, and the workers that were heard of.

Ready means: a job can be accepted. That needs the database, at the revision of this code, and nothing else; a broker or
store that is away is listed and costs only latency. Every look is bounded, because a frozen server never answers.
"""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from celery import Celery
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from api.deps import Data, Res, Tenant
from api.errors import problems
from api.probes import Probe
from api.responses import JsonResponse
from api.schemas import List
from core.jobs import workers
from core.jobs.database import Database, now
from core.store.objects import Objects
from migrations.commands import current, head

router = APIRouter(tags=["service"])

DATABASE_SECONDS = 2.0
OTHERS_SECONDS = 1.0
SPEC_VERSION = 1


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ready", "unavailable"]
    degraded: list[str] = Field(description="Servers that are away without keeping jobs from being accepted.")
    unavailable: list[str]


class Version(BaseModel):
    service: str
    spec_version: int
    revision: str = Field(description="Git revision of the code, or `unknown`.")


class WorkerView(BaseModel):
    """A worker process, from its start on."""

    object: Literal["worker"] = "worker"
    id: str = Field(description="Boot id: drawn anew at each start.")
    host: str
    pid: int
    queues: list[str]
    state: str = Field(description="`idle`, `busy`, `draining`, `stopped`, or `lost`: silent for longer than a lease.")
    job_id: str | None
    started_at: datetime
    seen_at: datetime


def service_version() -> str:
    """Version of the installed package."""
    try:
        return version("distill-service")
    except PackageNotFoundError:
        return "unknown"


def probes(database: Database, app: Celery, objects: Objects) -> tuple[Probe, ...]:
    """The looks that readiness takes; the first one decides."""
    expected = head()

    def database_is_current() -> None:
        found = current(database)
        if found != expected:
            raise RuntimeError(f"the database is at revision {found}, this code expects {expected}")

    def broker_answers() -> None:
        with app.connection_for_write(connect_timeout=OTHERS_SECONDS) as connection:
            connection.connect()

    return (
        Probe("database", database_is_current),
        Probe("broker", broker_answers),
        Probe("store", lambda: objects.size("probe")),
    )


@router.get("/healthz", response_model=Health)
async def liveness() -> Response:
    """The process answers. Touches no other server."""
    return JsonResponse(Health())


@router.get(
    "/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "No job can be accepted"}}
)
async def readiness(resources: Res) -> Response:
    """Whether jobs can be accepted."""
    database, *others = resources.probes
    ready, *answers = await asyncio.gather(
        database.passes(DATABASE_SECONDS), *(probe.passes(OTHERS_SECONDS) for probe in others)
    )
    degraded = [probe.name for probe, answer in zip(others, answers, strict=True) if not answer]
    view = Readiness(
        status="ready" if ready else "unavailable", degraded=degraded, unavailable=[] if ready else [database.name]
    )
    return JsonResponse(view, status_code=200 if ready else 503)


@router.get("/v1/version", response_model=Version)
async def show_version() -> Response:
    """What runs here."""
    revision = os.environ.get("DISTILL_CODE_REVISION", "") or "unknown"
    return JsonResponse(Version(service=service_version(), spec_version=SPEC_VERSION, revision=revision))


@router.get("/v1/workers", response_model=List[WorkerView], responses=problems(503))
def list_workers(resources: Res, database: Data, tenant: Tenant) -> Response:
    """Workers, the newest first."""
    silence = timedelta(seconds=resources.settings.lease_seconds)
    with database.read() as session:
        at = now(session)
        rows = [row for row in workers.listed(session) if row.tenant_id == tenant]
    data = [
        WorkerView(
            id=row.boot_id, host=row.host, pid=row.pid, queues=[name for name in row.queues.split(",") if name],
            state="lost" if row.state != "stopped" and at - row.seen_at > silence else row.state,
            job_id=row.job_id, started_at=row.started_at, seen_at=row.seen_at,
        )
        for row in rows
    ]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return JsonResponse(List[WorkerView](data=data, first_id=first, last_id=last, has_more=False))
