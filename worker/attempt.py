"""One attempt of one job: fetch, run the child, commit or give up.

The attempt owns the lease (renewed by `keeper`), a job directory that the child reads and writes, and the child itself.
Bytes first, row second: artifacts are durable in the store before the one transaction that names them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import structlog

from core.catalogue import DatasetInfo
from core.errors import DatabaseUnavailableError, DeviceFaultError, DistillError, InfrastructureError, StoreUnavailableError
from core.jobs import totals
from core.jobs.database import Database
from core.jobs.leases import Claim, LostLeaseError
from core.jobs.states import State
from core.settings import Settings
from core.specs.dataset import DatasetSpec
from core.specs.ingest import UPLOAD_FILE, IngestSpec
from core.specs.job import DistillationSpec, EvaluationJobSpec, NeededSpec, ProbeSpec, parse_job_spec
from core.specs.report import ExitCode, JobFile
from core.specs.requirements import evaluation_jobs, required_experts
from core.store.objects import Objects
from worker import sandbox
from worker.child import Child, environment
from worker.collector import Collector
from worker.dataset_cache import DatasetCache, Held
from worker.decide import Action, Conclusion, Limits, Stop, Verdict, View, conclude, decide
from worker.host import Host
from worker.inputs import UnwantedError, unless_unwanted
from worker.keeper import Keeper
from worker.memory import oom_kills
from worker.settlement import Settlement
from worker.supply import Supply

log = structlog.get_logger(__name__)

LOOP_SECONDS = 0.1
CHILD_LOG = "child.log"
JOB_MODULES = {"core.run", "core.probe", sandbox.MODULE}
"""Children that end with artifacts and a summary."""
_REJECTED = {Verdict.DISCARD: "renew", Verdict.COMMIT: "commit"}
"""What an attempt was about when it found itself fenced off."""


class Attempt:
    """The life of one claim."""

    def __init__(
        self, database: Database, store: Objects, settings: Settings, host: Host, claim: Claim, draining: threading.Event
    ) -> None:
        self._database = database
        self._settings = settings
        self._host = host
        self._claim = claim
        self._draining = draining
        self.spec = parse_job_spec(claim.spec)
        self._folder = host.job_dir(claim.lease.job_id, claim.lease.attempt)
        self._started = time.monotonic()
        self._stop: Stop | None = None
        self._needed: Mapping[str, NeededSpec] = {}
        self._keeper = Keeper(database, claim.lease, settings)
        self._collector = Collector(database, store, claim.lease, self._folder)
        self._settlement = Settlement(
            database, store, settings, claim, self._folder, self._keeper, self._collector, draining
        )
        self._cache = DatasetCache(settings)
        self._supply = Supply(database, store, settings, claim, self._folder, self._settlement, self._is_unwanted)
        self.device_fault = ""
        """Why this worker should not take another job before its device is tested; empty when nothing speaks against it."""
        self.survivor: Child | None = None
        """A child that SIGKILL did not end: it hangs in the kernel, and whoever touches its files may hang there, too."""

    @property
    def retry_delay(self) -> float:
        """Seconds until a job that was queued again is due."""
        return self._settlement.retry_delay

    def run(self) -> State | None:
        """Run to the end; the job's state afterwards, None when the lease was lost."""
        conclusion = Conclusion(Verdict.DISCARD)
        try:
            conclusion = self._conclusion()
            if conclusion.code == DeviceFaultError.code:
                self.device_fault = conclusion.message
            if conclusion.verdict is not Verdict.DISCARD and self.survivor is None:
                self._settlement.keep_log(self._folder / CHILD_LOG)
            return self._settlement.settle(conclusion, self._needed)
        except LostLeaseError:
            log.warning("attempt_discarded")
            self._count_rejection(_REJECTED.get(conclusion.verdict, "settle"))
            return None
        finally:
            self._settlement.close()
            self._keeper.close()
            self._collector.close()
            if self.survivor is None:
                self._host.discard(self._folder)

    def _count_rejection(self, op: str) -> None:
        try:
            with self._database.write() as session:
                totals.count_fence_rejection(session, op)
        except DatabaseUnavailableError as error:
            log.warning("rejection_not_counted", op=op, error=error.message)

    # ------------------------------------------------------------------ running

    def _conclusion(self) -> Conclusion:
        try:
            self._folder.mkdir(parents=True)
            if isinstance(self.spec, ProbeSpec):
                self._write_job_file()
                return self._watch("core.probe", [str(self._folder)])
            if isinstance(self.spec, IngestSpec):
                return self._read_upload(self.spec)
            return self._run_on(self.spec.dataset)
        except DatabaseUnavailableError:
            raise
        except UnwantedError:
            if self._keeper.state is None:
                return Conclusion(Verdict.DISCARD)
            return Conclusion(Verdict.CANCELLED if self._keeper.state is State.CANCELLING else Verdict.GIVE_BACK)
        except InfrastructureError as error:
            if self._keeper.state is State.CANCELLING:
                return Conclusion(Verdict.CANCELLED)
            log.warning("inputs_unavailable", code=error.code, error=error.message)
            return Conclusion(Verdict.GIVE_BACK, error.code, error.message)
        except DistillError as error:
            return Conclusion(Verdict.FAIL, error.code, error.message, error.retryable)
        except OSError as error:
            return Conclusion(Verdict.FAIL, "internal", f"the disk of the worker cannot be used: {error.strerror}")

    def _delegated(self) -> Conclusion:
        """The child leaves units of its evaluation to other jobs, which read the set in the checkpoint it has written."""
        left = self._collector.left
        assert isinstance(self.spec, DistillationSpec)
        assert left is not None
        if not self._collector.checkpoint_stored:
            text = "the finished set could not be stored for the jobs that evaluate it"
            return Conclusion(Verdict.GIVE_BACK, StoreUnavailableError.code, text)
        self._needed = evaluation_jobs(
            self._claim.lease.job_id, self.spec, left.units, left.set_digest, self._settings.evaluation_units
        )
        return Conclusion(Verdict.WAIT)

    def _is_unwanted(self) -> bool:
        return self._keeper.state is not State.RUNNING or self._draining.is_set()

    def _run_on(self, dataset: DatasetSpec) -> Conclusion:
        """Run a child that reads a data set, which stays on this host until the child ends."""
        info = self._supply.info(dataset)
        self._needed = required_experts(self.spec, info.identity)
        if self._needed and not self._supply.experts(self._needed):
            return Conclusion(Verdict.WAIT)
        unless_unwanted(self._cache.remove_leftovers, self._is_unwanted)
        with self._cache.held(f"{info.name}-{info.identity[:16]}", self._is_unwanted) as held:
            prepared = self._prepare_dataset(dataset, info, held)
            if prepared.verdict is not Verdict.COMMIT:
                return prepared
            self._write_job_file(dataset_dir=str(held.folder), info=info)
            conclusion = self._watch("core.run", [str(self._folder)], held)
        return self._delegated() if conclusion.verdict is Verdict.WAIT else conclusion

    def _prepare_dataset(self, dataset: DatasetSpec, info: DatasetInfo, held: Held) -> Conclusion:
        """Make sure that the canonical form of the data set is on this host."""
        if not held.is_there and not dataset.name:
            self._supply.dataset(dataset, held, self._cache)
            return Conclusion(Verdict.COMMIT)
        needed_bytes = 0 if held.is_there else info.canonical_bytes
        unless_unwanted(lambda: self._cache.make_room(needed_bytes), self._is_unwanted)
        if held.is_there:
            return Conclusion(Verdict.COMMIT)
        arguments = [info.name, "--data-root", str(self._settings.data_dir), "--out", str(held.folder)]
        return self._watch("core.data.prepare", arguments, held)

    def _read_upload(self, spec: IngestSpec) -> Conclusion:
        """Let a locked-down child make a data set of a user's files."""
        self._supply.upload(spec, self._folder / UPLOAD_FILE)
        self._write_job_file()
        conclusion = self._watch(sandbox.MODULE, [str(self._folder)])
        if conclusion.verdict is not Verdict.COMMIT:
            return conclusion
        why = sandbox.doubts(self._folder, spec, self._collector.artifacts, self._collector.summary)
        if why:
            return Conclusion(Verdict.FAIL, "internal", f"the process that read the files is not believed: {why}")
        return conclusion

    def _write_job_file(self, *, dataset_dir: str = "", info: DatasetInfo | None = None) -> None:
        checkpoint, evaluated = self._supply.progress(of_parent=isinstance(self.spec, EvaluationJobSpec))
        job = JobFile(
            job_id=self._claim.lease.job_id, attempt=self._claim.lease.attempt, spec=self._claim.spec,
            dataset_dir=dataset_dir, dataset=info, limits=self._settings.ingest_limits,
            checkpoint=checkpoint, units_per_job=self._settings.evaluation_units, evaluated=evaluated,
            threads=self._host.threads, checkpoint_seconds=self._settings.checkpoint_seconds,
            max_trajectory_bytes=self._settings.max_trajectory_bytes,
            code_revision=self._host.code_revision,
        )
        (self._folder / "job.json").write_text(job.model_dump_json())

    def _watch(self, module: str, arguments: list[str], held: Held | None = None) -> Conclusion:
        """Run a child to its end, doing what `decide` says on the way; what is `held` it holds, too."""
        resources = self.spec.resources
        if module == sandbox.MODULE:
            env, within = sandbox.environment(self._folder, threads=self._host.threads), sandbox.without_network()
        else:
            env, within = environment(
                threads=self._host.threads, cache=self._settings.cache_dir,
                devices=self._host.visible_devices if resources.gpus else "", deterministic=resources.deterministic,
            ), ()
        limits = Limits(
            timeout=self.spec.timeout_seconds, stall=self._settings.stall_seconds,
            cancel_grace=self._settings.cancel_grace_seconds, drain=self._settings.drain_seconds,
            unkillable=self._settings.unkillable_seconds,
        )
        locks = () if held is None else (held.descriptor,)
        child = Child(module, arguments, env, self._folder / CHILD_LOG, within=within, locks=locks)
        asked, flushed = 0.0, 0.0
        kills_before = oom_kills()
        try:
            while child.poll() is None:
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
                elif action is Action.ABANDON:
                    break
                self._take_lines(child)
                if view.now - flushed >= self._settings.report_seconds:
                    flushed = view.now
                    self._flush()
                time.sleep(LOOP_SECONDS)
            self._take_lines(child)
        finally:
            child.close()
            if child.poll() is None:
                log.error("child_abandoned", pid=child.pid)
                self.survivor, self.device_fault = child, f"process {child.pid} outlived SIGKILL"
        code = child.poll()
        until = time.monotonic() + limits.drain
        self._collector.wait_for_checkpoint(lambda: self._keeper.state is not State.RUNNING or time.monotonic() >= until)
        self._flush()
        if module in JOB_MODULES and code == 0 and not (self._collector.summary and self._collector.artifacts):
            code = int(ExitCode.INTERNAL)  # it says that all went well, but not what it made
        if code not in (ExitCode.OK, ExitCode.STOPPED, ExitCode.WAITING, None):
            log.warning("child_ended", exit_code=code, log_tail=child.log_tail())
        return conclude(
            code, self._stop, self._keeper.state, self._collector.error, short_of_memory=oom_kills() > kills_before
        )

    def _take_lines(self, child: Child) -> None:
        for line in child.lines():
            if isinstance(self.spec, IngestSpec) and not sandbox.may_say(line):
                log.warning("line_refused", type=line.type)
                continue
            self._collector.take(line)

    def _flush(self) -> None:
        try:
            self._collector.flush()
        except LostLeaseError:
            self._keeper.state = None
