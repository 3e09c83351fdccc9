"""`python -m worker`: one worker process, which serves one job at a time from the queues it is given."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys

import structlog

from core import logging
from core.jobs.database import Database
from core.jobs.queue import QUEUES, Sender, celery_app
from core.settings import get_settings
from core.store.objects import open_store
from worker.app import drain_on_shutdown, make_app
from worker.host import Host
from worker.supervisor import Supervisor

log = structlog.get_logger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; a running job is then checkpointed and handed back."""
    settings = get_settings()
    parser = argparse.ArgumentParser(prog="distill worker", description=__doc__)
    parser.add_argument("--queues", default=settings.queues, help=f"comma separated, from: {', '.join(QUEUES)}")
    parser.add_argument("--device", default="", help="GPU for CUDA_VISIBLE_DEVICES, best by UUID (default: the first)")
    options = parser.parse_args(arguments)
    queues = [name.strip() for name in options.queues.split(",") if name.strip()]
    unknown = sorted(set(queues) - set(QUEUES))
    if unknown or not queues:
        parser.error(f"unknown queue {', '.join(unknown) or '(none)'}; known: {', '.join(QUEUES)}")
    if "REMAP_SIGTERM" in os.environ:
        parser.error("REMAP_SIGTERM is set: with it a worker would not hear of a shutdown in time; unset it")
    logging.configure()
    database = Database(settings.database)
    host = Host(settings, ",".join(queues), options.device or _first_gpu())
    sender = Sender(celery_app(settings), database)
    supervisor = Supervisor(database, open_store(settings), sender, settings, host)
    handlers: list[object] = []
    drain_on_shutdown(supervisor, handlers)
    host.start_heartbeat(database)
    log.info("worker_started", boot_id=host.boot_id, queues=queues, threads=host.threads, code_revision=host.code_revision)
    app = make_app(settings, supervisor)
    try:
        app.Worker(
            queues=queues, pool="threads", concurrency=1, hostname=f"{host.boot_id}@{socket.gethostname()}", loglevel="INFO",
            without_gossip=True, without_mingle=True, quiet=True, optimization="fair",
        ).start()
    finally:
        sender.close()
        host.stop(database)
        database.dispose()
    log.info("worker_stopped")
    return 0


def _first_gpu() -> str:
    """The first device index where a driver is installed; torch itself is never asked in this process."""
    return "0" if shutil.which("nvidia-smi") else ""


if __name__ == "__main__":
    sys.exit(main())
