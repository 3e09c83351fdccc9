"""One attempt of one job: fetch, run the child, commit or give up.

The attempt owns the lease (renewed by `keeper`), a job directory that the child reads and writes, and the child itself.
Bytes first, row second: artifacts are durable in the store before the one transaction that names them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from core.catalogue import DatasetInfo, dataset_info
from core.errors import DatabaseUnavailableError, DistillError, InfrastructureError
from core.jobs import dependencies, leases, recovery, sweeping
from core.jobs.database import Database
from core.jobs.leases import Claim, LostLeaseError, StoredFile
from core.jobs.models import Artifact, Job
from core.jobs.states import State
from core.settings import Settings
from core.specs.job import ExpertsSpec, ProbeSpec, parse_job_spec
from core.specs.report import ArtifactLine, ExitCode, JobFile
from core.specs.requirements import required_experts
from core.store.keys import artifact_key
from core.store.objects import Objects, remove_tree, sha256_of
from worker.child import Child, environment
from worker.collector import Collector
from worker.decide import Action, Conclusion, Limits, Stop, Verdict, View, conclude, decide
from worker.host import Host
from worker.inputs import fetch_checkpoint, fetch_pools
from worker.keeper import Keeper

log = structlog.get_logger(__name__)
T = TypeVar("T")

LOOP_SECONDS = 0.1
JOB_MODULES = {"core.run", "core.probe"}
"""Children that end with artifacts and a summary."""
COMMIT_PATIENCE_SECONDS = 3600.0
"""How long results wait on the local disk for a store or a database that is away; the lease is renewed meanwhile."""


class Attempt:
    """The life of one claim."""

    def __init__(
        self, database: Database, store: Objects, settings: Settings, host: Host, claim: Claim, draining: threading.Event
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._host = host
        self._claim = claim
        self._draining = draining
        self.spec = parse_job_spec(claim.spec)
        self._folder = host.job_dir(claim.lease.job_id, claim.lease.attempt)
        self._started = time.monotonic()
        self._stop: Stop | None = None
        self._needed: dict[str, ExpertsSpec] = {}
        self._keeper = Keeper(database, claim.lease, settings)
        self._collector = Collector(database, store, claim.lease, self._folder)
        self.retry_delay = 0.0

    def run(self) -> State | None:
        """Run to the end; the job's state afterwards, None when the lease was lost."""
        try:
            conclusion = self._conclusion()
            state = self._settle(conclusion)
            if state is not None and state.terminal:
                self._drop_checkpoints()
            return state
        except LostLeaseError:
            log.warning("attempt_discarded")
            return None
        finally:
            self._keeper.close()
            self._collector.close()
            remove_tree(self._folder)

    # ------------------------------------------------------------------ running

    def _conclusion(self) -> Conclusion:
        try:
            if isinstance(self.spec, ProbeSpec):
                self._write_job_file(dataset_dir="")
                return self._watch("core.probe", [str(self._folder)])
            info = dataset_info(self.spec.dataset.name)
            self._needed = required_experts(self.spec, info.identity)
            if self._needed and not self._fetch_experts():
                return Conclusion(Verdict.WAIT)
            folder = self._host.dataset_dir(f"{info.name}-{info.identity[:16]}")
            prepared = self._prepare_dataset(info, folder)
            if prepared.verdict is not Verdict.COMMIT:
                return prepared
            self._write_job_file(dataset_dir=str(folder))
            return self._watch("core.run", [str(self._folder)])
        except DatabaseUnavailableError:
            raise
        except InfrastructureError as error:
            if self._keeper.state is State.CANCELLING:
                return Conclusion(Verdict.CANCELLED)
            log.warning("inputs_unavailable", code=error.code, error=error.message)
            self.retry_delay = self._settings.retry_backoff_seconds
            return Conclusion(Verdict.GIVE_BACK, error.code, error.message)
        except DistillError as error:
            return Conclusion(Verdict.FAIL, error.code, error.message, error.retryable)
        except OSError as error:
            return Conclusion(Verdict.FAIL, "internal", f"the job directory cannot be used: {error.strerror}")

    def _fetch_experts(self) -> bool:
        """Bring the pools of networks that the job needs here; False when one has to be trained first."""
        pools = self._patiently(self._find_experts)
        return pools.keys() == self._needed.keys() and fetch_pools(self._database, self._store, pools, self._folder)

    def _find_experts(self) -> dict[str, Artifact]:
        with self._database.read() as session:
            return dependencies.finished_pools(session, self._claim.tenant_id, self._needed)

    def _prepare_dataset(self, info: DatasetInfo, folder: Path) -> Conclusion:
        """Make sure that the canonical form of the data set is on this host."""
        if (folder / "manifest.json").is_file():
            return Conclusion(Verdict.COMMIT)
        return self._watch(
            "core.data.prepare", [info.name, "--data-root", str(self._settings.data_dir), "--out", str(folder)]
        )

    def _write_job_file(self, dataset_dir: str) -> None:
        job = JobFile(
            job_id=self._claim.lease.job_id, attempt=self._claim.lease.attempt, spec=self._claim.spec,
            dataset_dir=dataset_dir,
            checkpoint=fetch_checkpoint(self._store, self._claim.checkpoint, self._folder),
            threads=self._host.threads, checkpoint_seconds=self._settings.checkpoint_seconds,
            max_trajectory_bytes=self._settings.max_trajectory_bytes,
            code_revision=self._host.code_revision,
        )
        (self._folder / "job.json").write_text(job.model_dump_json())

    def _watch(self, module: str, arguments: list[str]) -> Conclusion:
        """Run a child to its end, doing what `decide` says on the way."""
        resources = self.spec.resources
        env = environment(
            threads=self._host.threads, cache=self._settings.cache_dir,
            devices=self._host.devices if resources.gpus else "", deterministic=resources.deterministic,
        )
        limits = Limits(
            timeout=self.spec.timeout_seconds, stall=self._settings.stall_seconds,
            cancel_grace=self._settings.cancel_grace_seconds, drain=self._settings.drain_seconds,
        )
        child = Child(module, arguments, env, self._folder / "child.log")
        asked, flushed = 0.0, 0.0
        try:
            while (code := child.poll()) is None:
                view = View(
                    now=time.monotonic(), state=self._keeper.state, draining=self._draining.is_set(), started=self._started,
                    heard=child.heard, stop=self._stop, asked=asked,
                )
                action, stop = decide(view, limits)
                if stop is not self._stop:
                    log.info("stopping_child", reason=stop)
                    self._stop, asked = stop, view.now
                if action is Action.TERMINATE:
                    child.terminate()
                elif action is Action.KILL:
                    child.kill()
                self._take_lines(child)
                if view.now - flushed >= self._settings.report_seconds:
                    flushed = view.now
                    self._flush()
                time.sleep(LOOP_SECONDS)
            self._take_lines(child)
        finally:
            child.close()
        self._collector.wait_for_checkpoint()
        self._flush()
        if module in JOB_MODULES and code == 0 and not (self._collector.summary and self._collector.artifacts):
            code = int(ExitCode.INTERNAL)  # it says that all went well, but not what it made
        if code not in (0, 75):
            log.warning("child_ended", exit_code=code, log_tail=child.log_tail())
        return conclude(code, self._stop, self._keeper.state, self._collector.error)

    def _take_lines(self, child: Child) -> None:
        for line in child.lines():
            self._collector.take(line)

    def _flush(self) -> None:
        try:
            self._collector.flush()
        except LostLeaseError:
            self._keeper.state = None

    # ------------------------------------------------------------------ settling

    def _settle(self, conclusion: Conclusion) -> State | None:
        """Write the end of the attempt, patiently: the lease is renewed while a server is away."""
        if conclusion.verdict is not Verdict.DISCARD:
            self._patiently(self._collector.flush_or_raise)
        match conclusion.verdict:
            case Verdict.DISCARD:
                raise LostLeaseError
            case Verdict.CANCELLED:
                return self._patiently(self._write_cancelled)
            case Verdict.GIVE_BACK:
                return self._patiently(lambda: self._write_given_back(conclusion))
            case Verdict.WAIT:
                return self._patiently(self._write_waiting)
            case Verdict.FAIL:
                return self._patiently(lambda: self._write_failure(conclusion))
            case Verdict.COMMIT:
                return self._commit()

    def _commit(self) -> State | None:
        try:
            files = [self._patiently(partial(self._upload, line)) for line in self._collector.artifacts]
            return self._patiently(lambda: self._write_success(files))
        except InfrastructureError as error:
            failed = Conclusion(Verdict.FAIL, error.code, error.message, error.retryable)
            return self._patiently(lambda: self._write_failure(failed))

    def _upload(self, line: ArtifactLine) -> StoredFile:
        if self._keeper.state is None:
            raise LostLeaseError
        path = self._folder / line.file
        key = artifact_key(self._claim.lease.job_id, self._claim.lease.attempt, line.name)
        self._store.put(key, path)
        return StoredFile(line.kind, line.name, line.media_type, path.stat().st_size, sha256_of(path), key)

    def _write_success(self, files: list[StoredFile]) -> State:
        lease = self._claim.lease
        result: dict[str, Any] = {"summary": self._collector.summary, "warnings": self._collector.warnings}
        try:
            with self._database.write() as session:
                leases.succeed(session, lease, result, files, self._collector.remaining_metrics())
        except LostLeaseError:
            return self._after_lost_commit()
        return State.SUCCEEDED

    def _after_lost_commit(self) -> State:
        """A commit that changed no row: already committed by us (the answer was lost), cancelled, or not ours any more."""
        lease = self._claim.lease
        with self._database.write() as session:
            row = session.get(Job, lease.job_id)
            if row is not None and row.attempt == lease.attempt and row.boot_id == lease.boot_id:
                if row.state == State.SUCCEEDED:
                    return State.SUCCEEDED
                if row.state == State.CANCELLING:
                    leases.cancelled(session, lease)
                    return State.CANCELLED
        raise LostLeaseError

    def _write_cancelled(self) -> State:
        with self._database.write() as session:
            leases.cancelled(session, self._claim.lease)
        return State.CANCELLED

    def _write_given_back(self, conclusion: Conclusion) -> State:
        message = conclusion.message or "the worker is shutting down; the job goes on elsewhere"
        with self._database.write() as session:
            return leases.give_back(session, self._claim.lease, message, after_seconds=self.retry_delay)

    def _write_waiting(self) -> State:
        try:
            with self._database.write() as session:
                return leases.wait(session, self._claim.lease, self._needed)
        except LostLeaseError:
            return self._after_lost_commit()

    def _write_failure(self, conclusion: Conclusion) -> State:
        lease = self._claim.lease
        detail = self._collector.error.detail if self._collector.error is not None else {}
        error = {
            "code": conclusion.code, "message": conclusion.message, "retryable": conclusion.retryable,
            "attempt": lease.attempt, "detail": detail,
        }
        with self._database.write() as session:
            job = session.get(Job, lease.job_id)
            failures = job.failures if job is not None else 0
            self.retry_delay = recovery.backoff(self._settings.retry_backoff_seconds, failures)
            return leases.fail(
                session, lease, error, retry_after_seconds=self.retry_delay if conclusion.retryable else None
            )

    def _drop_checkpoints(self) -> None:
        """Best effort: rows first, so that none ever names bytes that are gone."""
        try:
            with self._database.write() as session:
                obsolete = sweeping.drop_checkpoints(session, self._claim.lease.job_id)
            self._store.delete(*obsolete)
        except InfrastructureError as error:
            log.warning("checkpoints_not_deleted", error=error.message)

    def _patiently(self, action: Callable[[], T]) -> T:
        for again in Retrying(
            retry=retry_if_exception_type(InfrastructureError), wait=wait_exponential(multiplier=0.5, max=5.0),
            stop=stop_after_delay(COMMIT_PATIENCE_SECONDS), reraise=True,
        ):
            with again:
                return action()
        raise AssertionError("unreachable: the last try raises")
