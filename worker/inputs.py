"""What a child reads beside the real set: its checkpoint and its pools of networks, fetched into the job directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog

from core.errors import ArtifactCorruptError
from core.jobs import dependencies
from core.jobs.database import Database
from core.jobs.models import Artifact, Checkpoint
from core.specs.report import CHECKPOINT_FILE, EXPERTS_DIR
from core.store.objects import Objects

log = structlog.get_logger(__name__)


def fetch_checkpoint(store: Objects, checkpoint: Checkpoint | None, folder: Path) -> str:
    """Fetch the checkpoint to continue from; its name in the job directory, empty when there is none that can be used.

    Raises:
        StoreUnavailableError: the store cannot be reached.
    """
    if checkpoint is None:
        return ""
    target = folder / CHECKPOINT_FILE
    try:
        store.fetch(checkpoint.key, target, size_bytes=checkpoint.size_bytes, sha256=checkpoint.sha256)
    except ArtifactCorruptError as error:
        log.warning("checkpoint_unusable", error=error.message)
        return ""
    return target.name


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
