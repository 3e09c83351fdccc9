"""A worker whose device failed takes no job until a self-test of the device passes.

It stays inside the task that met the failure: a worker takes one message at a time, so none comes here meanwhile, and the job,
which is queued again, goes to another worker.
"""

from __future__ import annotations

import threading
import time

import structlog

from core.jobs.database import Database
from core.settings import Settings
from worker.child import Child, environment
from worker.host import Host

log = structlog.get_logger(__name__)


def stay(database: Database, settings: Settings, host: Host, reason: str, draining: threading.Event) -> None:
    """Return once the device has passed the self-test, or the worker has to go."""
    log.error("quarantined", reason=reason)
    with host.quarantined(database, reason):
        while not draining.is_set():
            try:
                passed = passes(settings, host, draining)
            except OSError as error:
                log.warning("self_test_not_started", error=str(error))
                passed = False
            if passed:
                log.info("quarantine_lifted")
                return
            draining.wait(settings.self_test_seconds)


def passes(settings: Settings, host: Host, draining: threading.Event) -> bool:
    """Run the self-test in a child of its own, which sees what a job's child would see."""
    env = environment(
        threads=host.threads, cache=settings.cache_dir, devices=host.visible_devices, deterministic=False
    )
    child = Child("core.self_test", [], env, host.self_test_log())
    until = time.monotonic() + settings.self_test_limit_seconds
    try:
        while (code := child.poll()) is None and time.monotonic() < until and not draining.is_set():
            time.sleep(0.1)
    finally:
        child.close()
    if code != 0:
        log.warning("self_test_failed", exit_code=code, log_tail=child.log_tail())
    return code == 0
