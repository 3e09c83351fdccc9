"""A job of kind `experts`: train a pool of networks on the real set and write it as one artifact.

A network that is finished survives a restart; one that was being trained starts anew, with the same draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.attempt import Attempt
from core.data.real_set import RealSet
from core.distillation.resume import KEEP
from core.errors import InvalidInputError, SpecError
from core.experts import Pool, load_first, save_pool, train_pool
from core.machine import device_name, peak_memory_bytes, versions
from core.progress import Stopped
from core.report.manifest import FORMAT, dataset_facts, file_facts
from core.report.numbers import write_json
from core.shared_files import flush
from core.specs.experts import PoolSpec
from core.specs.job import ExpertsSpec
from core.specs.report import ArtifactLine, ResultLine
from core.specs.requirements import pool_key
from core.specs.trajectories import pool_bytes, room_message

NETWORKS = "experts.safetensors"
MANIFEST = "manifest.json"
BINARY = "application/octet-stream"


def train_experts(attempt: Attempt, spec: ExpertsSpec) -> None:
    """Train what an earlier attempt has not finished, then report.

    Raises:
        Stopped: SIGTERM came; the finished networks were written.
        JobFailure: the job cannot finish.
        SpecError: the trajectories would be larger than this installation allows.
    """
    needed, limit = pool_bytes(spec.pool, attempt.info), attempt.file.max_trajectory_bytes
    if needed > limit:
        raise SpecError.at("/pool", room_message(needed, limit), "trajectories_too_large")
    data = attempt.real_set(spec)
    if warning := attempt.unverified(data):
        attempt.hooks.warning("dataset_unverified", warning)
    first = _finished_before(attempt, spec, data)
    keeper = _Keeper(attempt, spec)
    started = time.monotonic()
    try:
        pool = train_pool(spec.pool, data, hooks=attempt.hooks, first=first, on_network=keeper.take)
    except Stopped:
        keeper.save()
        raise
    _report(attempt, spec, data, pool, 0 if first is None else len(first.params), time.monotonic() - started)


def _finished_before(attempt: Attempt, spec: ExpertsSpec, data: RealSet) -> Pool | None:
    if attempt.checkpoint is None:
        return None
    try:
        return load_first(attempt.checkpoint, spec.pool, data)
    except InvalidInputError as error:  # another version of the training wrote it
        attempt.hooks.warning("checkpoint_unusable", f"all networks are trained anew: {error.message}")
        return None


class _Keeper:
    """Writes the finished networks, not too often while training goes on."""

    def __init__(self, attempt: Attempt, spec: ExpertsSpec) -> None:
        self._attempt = attempt
        self._pool = spec.pool
        self._so_far: Callable[[], Pool] | None = None
        self._saved = time.monotonic()

    def take(self, so_far: Callable[[], Pool]) -> None:
        """A network is finished."""
        self._so_far = so_far
        if time.monotonic() - self._saved >= self._attempt.file.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Write what is not written yet."""
        if self._so_far is None:
            return
        pool, self._so_far, self._saved = self._so_far(), None, time.monotonic()
        count = len(pool.params)
        folder = self._attempt.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        path = folder / f"networks-{count:04d}.safetensors"
        _write(pool, self._pool.model_copy(update={"num_networks": count}), path)
        self._attempt.announce_checkpoint(count, path)
        for old in sorted(folder.glob("networks-*.safetensors"))[:-KEEP]:  # each holds all networks before it
            old.unlink()


def _report(attempt: Attempt, spec: ExpertsSpec, data: RealSet, pool: Pool, resumed_from: int, seconds: float) -> None:
    attempt.hooks.phase("reporting", 0)
    out = attempt.folder / "out"
    out.mkdir(exist_ok=True)
    with attempt.hooks.busy("writing artifacts"):
        _write(pool, spec.pool, out / NETWORKS)
        write_json(out / MANIFEST, _manifest(attempt, spec, data, out / NETWORKS))
    accuracies = pool.accuracy.tolist()
    for index, accuracy in enumerate(accuracies):
        attempt.hooks.metric("training/accuracy", index, accuracy)
    attempt.lines.write(ArtifactLine(kind="experts", name=NETWORKS, file=f"{out.name}/{NETWORKS}", media_type=BINARY))
    attempt.lines.write(
        ArtifactLine(kind="manifest", name=MANIFEST, file=f"{out.name}/{MANIFEST}", media_type="application/json")
    )
    summary = {
        "network": pool.net.name, "num_networks": len(accuracies), "accuracies": accuracies,
        "seconds": {"training": seconds}, "peak_memory_bytes": peak_memory_bytes(data.device),
        "device": device_name(data.device), "resumed_from_step": resumed_from,
    }
    attempt.lines.write(ResultLine(summary=summary))


def _manifest(attempt: Attempt, spec: ExpertsSpec, data: RealSet, networks: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "job_id": attempt.file.job_id,
        "attempt": attempt.file.attempt,
        "code_revision": attempt.file.code_revision,
        "versions": versions(),
        "device": device_name(data.device),
        "spec": spec.model_dump(mode="json"),
        "science_digest": spec.science_digest(),
        "content_key": pool_key(spec.pool, spec.dataset, data.info.identity, seed=spec.seed),
        "dataset": dataset_facts(data.info, data.digest),
        "files": file_facts([(networks, BINARY)]),
    }


def _write(pool: Pool, spec: PoolSpec, path: Path) -> None:
    """A file that appears under its name only when all of it is on the disk."""
    temporary = path.with_suffix(".partial")
    save_pool(pool, spec, temporary)
    flush(temporary)
    temporary.replace(path)
