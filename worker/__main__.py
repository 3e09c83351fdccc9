"""`python -m worker`: one worker process, which serves one job at a time from the queues it is given.

With `--gpus` it is instead the parent of one such process for each GPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from types import FrameType

import structlog
from celery import Celery

from core import logging
from core.jobs.database import Database
from core.jobs.queue import QUEUES, Sender, celery_app
from core.jobs.workers import Device
from core.settings import Settings, get_settings
from core.store.objects import open_store
from worker.app import drain_on_shutdown, make_app
from worker.devices import DeviceError, chosen, first_for
from worker.fleet import Fleet
from worker.host import Host
from worker.supervisor import Supervisor

log = structlog.get_logger(__name__)

CONSUMER_RETRY_SECONDS = 5.0
"""Between two tries to take messages from a broker on which Celery has given up."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; a running job is then checkpointed and handed back."""
    settings = get_settings()
    parser = argparse.ArgumentParser(prog="distill worker", description=__doc__)
    known = ", ".join(QUEUES)
    parser.add_argument("--queues", help=f"comma separated, from: {known} (default: {settings.queues}; with --gpus: gpu)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--device", default="", help="this worker's GPU, UUID or index (default: the first, for the queue gpu)")
    which.add_argument("--gpus", default="", help="one worker for each GPU: `all`, or UUIDs or indices, comma separated")
    parser.add_argument("--with-parent", action="store_true", help="drain when standard input ends")
    options = parser.parse_args(arguments)
    given = settings.queues if options.queues is None and not options.gpus else options.queues or "gpu"
    queues = [name.strip() for name in given.split(",") if name.strip()]
    unknown = sorted(set(queues) - set(QUEUES))
    if unknown or not queues:
        parser.error(f"unknown queue {', '.join(unknown) or '(none)'}; known: {known}")
    if "REMAP_SIGTERM" in os.environ:
        parser.error("REMAP_SIGTERM is set: with it a worker would not hear of a shutdown in time; unset it")
    logging.configure()
    try:
        if options.gpus:
            return Fleet(chosen(options.gpus), ",".join(queues), settings).run()
        gpus = chosen(options.device) if options.device else first_for(queues)
    except DeviceError as error:
        parser.error(str(error))
    if options.with_parent:
        threading.Thread(target=_drain_with_parent, name="parent", daemon=True).start()
    return _serve(settings, queues, gpus)


def _serve(settings: Settings, queues: list[str], gpus: list[Device]) -> int:
    database = Database(settings.database)
    host = Host(settings, ",".join(queues), gpus)
    sender = Sender(celery_app(settings), database)
    supervisor = Supervisor(database, open_store(settings), sender, settings, host)
    handlers: list[object] = []
    drain_on_shutdown(host.draining, handlers)
    signal.signal(signal.SIGTERM, _leave)  # until Celery takes the signal over
    try:
        host.start_heartbeat(database)
        log.info(
            "worker_started", boot_id=host.boot_id, queues=queues, gpus=[gpu["uuid"] for gpu in gpus], threads=host.threads,
            code_revision=host.code_revision,
        )
        _consume(make_app(settings, supervisor), queues, host)
    finally:
        sender.close()
        host.stop(database)
        database.dispose()
    log.info("worker_stopped")
    return 0


def _consume(app: Celery, queues: list[str], host: Host) -> None:
    """Take messages until a shutdown. Celery gives up on what its transport does not expect, such as a broker out of memory."""
    while True:
        consumer = app.Worker(
            queues=queues, pool="threads", concurrency=1, hostname=f"{host.boot_id}@{socket.gethostname()}", loglevel="INFO",
            without_gossip=True, without_mingle=True, quiet=True, optimization="fair",
        )
        consumer.start()
        if not consumer.exitcode or host.draining.is_set():
            return
        log.error("consumer_failed", exit_code=consumer.exitcode, again_seconds=CONSUMER_RETRY_SECONDS)
        if host.draining.wait(CONSUMER_RETRY_SECONDS):
            return


def _leave(_number: int, _frame: FrameType | None) -> None:
    """A shutdown before the first job: nothing is to be handed back."""
    raise SystemExit(0)


def _drain_with_parent() -> None:
    # os.read, because a thread blocked in sys.stdin's buffered reader aborts the interpreter at exit.
    while os.read(0, 4096):
        pass
    log.warning("parent_ended")
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
