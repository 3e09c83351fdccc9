"""What a child reads: its checkpoint and pools of networks, a registered data set, or the files that one is made of.

These may have gigabytes: they are fetched in a thread, so that a cancel, a drain or a lost lease need not wait.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import structlog

from core.errors import ArtifactCorruptError, InvalidInputError
from core.jobs import dependencies
from core.jobs.database import Database
from core.jobs.models import Artifact, Checkpoint
from core.shared_files import appearing_dataset
from core.specs.ingest import IngestSpec
from core.specs.report import CHECKPOINT_FILE, EXPERTS_DIR
from core.store.objects import Objects
from core.uploads.models import UploadPart

log = structlog.get_logger(__name__)
T = TypeVar("T")

POLL_SECONDS = 0.1
COPY_BYTES = 1 << 20


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


def fetch_dataset(store: Objects, artifacts: Sequence[Artifact], folder: Path) -> None:
    """Fetch the canonical form of a registered data set so that `folder` appears complete or not at all.

    Raises:
        ArtifactCorruptError: bytes are lost.
        StoreUnavailableError: the store cannot be reached.
    """
    with appearing_dataset(folder) as temporary:
        for artifact in artifacts:
            store.fetch(artifact.key, temporary / artifact.name, size_bytes=artifact.size_bytes, sha256=artifact.sha256)


def fetch_upload(store: Objects, spec: IngestSpec, parts: Sequence[UploadPart], target: Path) -> None:
    """Put the parts of an upload together. That the whole has the digest that was promised is for the child to find out.

    Raises:
        InvalidInputError: the upload has gone, or parts of it are lost.
        StoreUnavailableError: the store cannot be reached.
    """
    if sum(part.size_bytes for part in parts) != spec.size_bytes:
        raise InvalidInputError(f"the upload {spec.upload_id} is not there any more")
    piece = target.with_name(f"{target.name}.part")
    with target.open("wb") as whole:
        for part in parts:
            try:
                store.fetch(part.key, piece, size_bytes=part.size_bytes, sha256=part.sha256)
            except ArtifactCorruptError as error:
                raise InvalidInputError(f"part {part.number} of the upload is lost: {error.message}") from error
            with piece.open("rb") as source:
                shutil.copyfileobj(source, whole, COPY_BYTES)
            piece.unlink()
