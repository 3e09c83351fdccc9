"""A worker whose device failed takes no job until a self-test of the device passes.

While a process lives that SIGKILL did not end, be it a job's or a test's, no test is begun.

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


def stay(
    database: Database, settings: Settings, host: Host, reason: str, draining: threading.Event, survivor: Child | None = None
) -> None:
    """Return once the device has passed the self-test, or the worker has to go.

    Args:
        database: where the worker's row is.
        settings: intervals.
        host: this worker.
        reason: shown to operators.
        draining: set when the worker has to go.
        survivor: a process that outlived SIGKILL, if that is what happened.
    """
    log.error("quarantined", reason=reason)
    with host.quarantined(database, reason):
        while not draining.is_set():
            if survivor is None or survivor.poll() is not None:
                try:
                    test = self_test(settings, host, draining)
                    survivor = test if test.poll() is None else None
                    if test.poll() == 0:
                        log.info("quarantine_lifted")
                        return
                except OSError as error:
                    log.warning("self_test_not_started", error=str(error))
            draining.wait(settings.self_test_seconds)


def self_test(settings: Settings, host: Host, draining: threading.Event) -> Child:
    """Run the self-test in a child of its own, which sees what a job's child would see; that child, ended if it can be."""
    env = environment(
        threads=host.threads, cache=settings.cache_dir, devices=host.visible_devices, deterministic=False
    )
    child = Child("core.self_test", [], env, host.self_test_log())
    until = time.monotonic() + settings.self_test_limit_seconds
    try:
        while child.poll() is None and time.monotonic() < until and not draining.is_set():
            time.sleep(0.1)
    finally:
        child.close()
    if (code := child.poll()) != 0:
        log.warning("self_test_failed", exit_code=code, log_tail=child.log_tail())
    return child
