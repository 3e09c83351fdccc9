"""What endpoints ask for, as annotated aliases. Dependencies are `async` where they do nothing that blocks: no thread hop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Depends, Header, Path, Query, Request
from fastapi.dependencies.models import Dependant

from api.bodies import json_body
from api.jobs.feed import Feed
from api.probes import Probe
from api.termination import Closing
from core.errors import FieldProblem, NotFoundError, SpecError
from core.jobs.database import Database
from core.jobs.ids import is_id
from core.jobs.models import DEFAULT_TENANT
from core.jobs.queue import Sender
from core.settings import Settings
from core.store.objects import Objects

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
MAX_PROBLEMS = 20
"""Unknown parameters that one refusal names."""


@dataclass(frozen=True)
class Resources:
    """What one process of the API holds open."""

    settings: Settings
    database: Database
    objects: Objects
    sender: Sender
    feed: Feed
    stream_threads: anyio.CapacityLimiter
    """Threads in which event streams read what lies further back, apart from those of ordinary requests."""
    store_threads: anyio.CapacityLimiter
    """Threads that wait for the object store: while it is frozen, only downloads are."""
    part_slots: anyio.CapacityLimiter
    """Parts of uploads that are received at once: each takes some MiB."""
    file_slots: anyio.CapacityLimiter
    """Whole files that are received at once: each may take hours, and is not to keep parts from coming."""
    probes: tuple[Probe, ...]
    closing: Closing
    """Whether the process was asked to end: streams then do."""


async def _resources(request: Request) -> Resources:
    found: Resources = request.app.state.resources
    return found


async def _database(request: Request) -> Database:
    return (await _resources(request)).database


async def _tenant() -> str:
    """Whose objects a request sees. One tenant until keys exist; every query already carries it."""
    return DEFAULT_TENANT


async def known_query(request: Request) -> None:
    """Refuse query parameters that the route does not have: a misspelled filter must not silently find everything.

    Raises:
        SpecError: at least one is unknown; `problems` names each.
    """
    if not request.url.query:
        return
    known = sorted(_query_names(request.scope["route"].dependant))
    rule = f"unknown parameter; known: {', '.join(known) or 'none'}"
    unknown = [name[:64] for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        problems = tuple(FieldProblem(f"/query/{name}", "extra_forbidden", rule) for name in unknown[:MAX_PROBLEMS])
        raise SpecError(f"/query/{unknown[0]}: {rule}", problems=problems)


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _query_names(inner)


async def _job_id(job_id: Annotated[str, Path(description="Id of a job.")]) -> str:
    if not is_id(job_id, "job"):
        raise NotFoundError("there is no such job")
    return job_id


async def _artifact_id(artifact_id: Annotated[str, Path(description="Id of an artifact.")]) -> str:
    if not is_id(artifact_id, "art"):
        raise NotFoundError("there is no such artifact")
    return artifact_id


async def _upload_id(upload_id: Annotated[str, Path(description="Id of an upload.")]) -> str:
    if not is_id(upload_id, "up"):
        raise NotFoundError("there is no such upload")
    return upload_id


async def _limit(
    limit: Annotated[int, Query(ge=1, description=f"Largest number of entries; lowered to {MAX_LIMIT}.")] = DEFAULT_LIMIT,
) -> int:
    return min(limit, MAX_LIMIT)


Res = Annotated[Resources, Depends(_resources)]
Data = Annotated[Database, Depends(_database)]
Tenant = Annotated[str, Depends(_tenant)]
JobId = Annotated[str, Depends(_job_id)]
ArtifactId = Annotated[str, Depends(_artifact_id)]
UploadId = Annotated[str, Depends(_upload_id)]
Limit = Annotated[int, Depends(_limit)]
JsonBody = Annotated[bytes, Depends(json_body)]
IfMatch = Annotated[str | None, Header(description="Fail with 412 unless the ETag is one of these.")]
IfNoneMatch = Annotated[str | None, Header(description="An ETag the client has; when it still holds, the answer is 304.")]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
"""What a name in a query may look like; nothing else can match a row."""
