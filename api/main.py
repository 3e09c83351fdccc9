"""`uvicorn api.main:create_app --factory`: opens what the API needs, puts the parts together, closes everything at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import Depends, FastAPI

from api import errors, health, home, monitoring, openapi, termination
from api.artifacts import endpoints as artifacts
from api.datasets import endpoints as datasets
from api.deps import Resources, known_query
from api.fleet import endpoints as fleet
from api.jobs import endpoints as jobs
from api.jobs import history
from api.jobs.feed import Feed
from api.methods import endpoints as methods
from api.middleware import AllowedHosts, BodyLimit, RequestContext
from api.uploads import endpoints as uploads
from core import logging as logs
from core.jobs.database import Database
from core.jobs.queue import Sender, celery_app
from core.settings import Settings, get_settings
from core.store.objects import open_store

STREAM_THREADS = 8
STORE_THREADS = 16
PARTS_AT_ONCE = 16
FILES_AT_ONCE = 8


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Without settings, those of the environment, and the process's logs become JSON lines."""
    if settings is None:
        settings = get_settings()
        logs.configure()
    given = settings
    counters = monitoring.Monitoring()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database, objects, celery = Database(given.database), open_store(given), celery_app(given)
        sender = Sender(celery, database)
        feed = Feed(database, given.stream_seconds)
        gauges = monitoring.SqlCollector(database, feed, given.lease_seconds)
        try:
            with termination.noticed() as closing:
                app.state.resources = Resources(
                    settings=given, database=database, objects=objects, sender=sender, feed=feed,
                    stream_threads=anyio.CapacityLimiter(STREAM_THREADS), store_threads=anyio.CapacityLimiter(STORE_THREADS),
                    part_slots=anyio.CapacityLimiter(PARTS_AT_ONCE), file_slots=anyio.CapacityLimiter(FILES_AT_ONCE),
                    probes=health.probes(database, celery, objects), closing=closing,
                )
                counters.registry.register(gauges)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(feed.run)
                    yield
                    tasks.cancel_scope.cancel()
                counters.registry.unregister(gauges)
        finally:
            sender.close()
            celery.close()
            database.dispose()

    app = FastAPI(
        title=openapi.TITLE, description=openapi.DESCRIPTION, version=health.service_version(), openapi_tags=openapi.TAGS,
        generate_unique_id_function=openapi.operation_id, lifespan=lifespan, redoc_url=None, redirect_slashes=False,
    )
    for part in (jobs, history, artifacts, uploads, datasets, methods, fleet, health, monitoring):
        app.include_router(part.router, dependencies=[Depends(known_query)])
    app.include_router(home.router)
    app.state.monitoring = counters
    errors.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit, max_body_bytes=given.max_body_bytes)
    app.add_middleware(AllowedHosts, hosts=given.allowed_hosts)
    app.add_middleware(RequestContext, monitoring=counters)  # added last, so it is the outermost
    for route in app.routes:  # FastAPI builds the routes of each part when a first path is matched: now, not under load
        route.matches({"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []})
    return app
