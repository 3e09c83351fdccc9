"""Liveness, readiness and version.

Ready means: a job can be accepted. That needs the database, at the revision of this code, and nothing else; a broker or
store that is away is listed and costs only latency. Every look is bounded, because a frozen server never answers.
"""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from celery import Celery
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from api.deps import Res
from api.probes import Probe
from api.responses import JsonResponse
from core.jobs.database import Database
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
