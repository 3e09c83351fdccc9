"""What a child reads beside the real set: its checkpoint and its pools of networks, fetched into the job directory.

Pools of trajectories have gigabytes: they are fetched in a thread, so that a cancel, a drain or a lost lease need not wait.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import structlog

from core.errors import ArtifactCorruptError
from core.jobs import dependencies
from core.jobs.database import Database
from core.jobs.models import Artifact, Checkpoint
from core.specs.report import CHECKPOINT_FILE, EXPERTS_DIR
from core.store.objects import Objects

log = structlog.get_logger(__name__)
T = TypeVar("T")

POLL_SECONDS = 0.1


class UnwantedError(Exception):
    """Nobody waits for the input any more. Not a `DistillError`: it never leaves the worker."""


def unless_unwanted(fetch: Callable[[], T], unwanted: Callable[[], bool]) -> T:
    """What `fetch` gives, from a thread of its own.

    Raises:
        UnwantedError: it is not wanted any more; the thread goes on by itself and ends with the process at the latest.
    """
    made: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            made.put((fetch(), None))
        except Exception as error:
            made.put((None, error))  # raised again where it is waited for

    threading.Thread(target=run, name="fetch-inputs", daemon=True).start()
    while True:
        try:
            value, error = made.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if unwanted():
                raise UnwantedError from None
            continue
        if error is not None:
            raise error
        return cast(T, value)


def fetch_checkpoint(store: Objects, checkpoints: Sequence[Checkpoint], folder: Path) -> str:
    """Fetch the first of some checkpoints that can be used; its name in the job directory, empty when there is none.

    Raises:
        StoreUnavailableError: the store cannot be reached.
    """
    target = folder / CHECKPOINT_FILE
    for checkpoint in checkpoints:
        try:
            store.fetch(checkpoint.key, target, size_bytes=checkpoint.size_bytes, sha256=checkpoint.sha256)
        except ArtifactCorruptError as error:
            log.warning("checkpoint_unusable", error=error.message)
        else:
            return target.name
    return ""


def fetch_pools(database: Database, store: Objects, pools: Mapping[str, Artifact], folder: Path) -> bool:
    """Fetch trained networks, each as `<content key>.safetensors`.

    Returns:
        Whether all are there. One whose bytes are lost is forgotten, so that it is trained anew.

    Raises:
        StoreUnavailableError: the store cannot be reached.
        DatabaseUnavailableError: bytes are lost, and that could not be noted.
    """
    inside = folder / EXPERTS_DIR
    inside.mkdir(exist_ok=True)
    for key, artifact in pools.items():
        target = inside / f"{key}.safetensors"
        try:
            store.fetch(artifact.key, target, size_bytes=artifact.size_bytes, sha256=artifact.sha256)
        except ArtifactCorruptError as error:
            log.warning("pool_unusable", job_id=artifact.job_id, error=error.message)
            with database.write() as session:
                dependencies.forget(session, artifact.job_id)
            return False
    return True
