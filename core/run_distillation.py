"""A job of kind `distillation`: distil, evaluate, write the artifacts; and one of kind `evaluation`, which does a part of it.

An evaluation of many units is given away: the finished set lies in the checkpoint, other jobs train the networks, and the job
that made the set goes on with what they found out.
"""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import Any

from core.attempt import Attempt
from core.data.preprocessing import Whitening
from core.data.real_set import RealSet
from core.distillation import resume
from core.distillation.distil import Distilled, distil
from core.distillation.engine import Engine
from core.errors import InvalidInputError
from core.evaluation.evaluate import ACCURACY_SERIES, LOSS_SERIES, evaluate, units
from core.evaluation.held_out import HeldOut
from core.experts import FromFiles
from core.machine import device_name, peak_memory_bytes, versions
from core.progress import DelegatedError, Record, Stopped
from core.report.numbers import write_json
from core.report.outcome import Outcome, Score, Whitened
from core.specs.defaults import warning_of
from core.specs.job import DistillationSpec
from core.specs.report import EXPERTS_DIR, ArtifactLine, EvaluatedUnits, ResultLine
from core.specs.storage import images_per_class

UNITS = "units.json"


class Distillation:
    """One attempt of a distillation."""

    def __init__(self, attempt: Attempt, spec: DistillationSpec) -> None:
        self.attempt = attempt
        self.spec = spec
        self.record = Record()
        self.resumed_from = 0

    def run(self) -> None:
        """Distil, evaluate, report.

        Raises:
            Stopped: SIGTERM came; a checkpoint was written.
            DelegatedError: the evaluation is for other jobs; a checkpoint was written.
            JobFailure: the job cannot finish.
        """
        spec, attempt, hooks = self.spec, self.attempt, self.attempt.hooks
        data = attempt.real_set(spec)
        checkpoint = self._checkpoint_to_resume()
        if checkpoint is not None:
            self.record, self.resumed_from = checkpoint.record, checkpoint.step
        if warning := attempt.unverified(data):
            self.record.warn(hooks, "dataset_unverified", warning)
        if warning := warning_of(spec.recipe, data.info, spec.ipc) if spec.recipe else "":
            self.record.warn(hooks, "defaults_far", warning)
        hooks.phase("distilling", spec.method.num_networks or spec.method.max_iterations)
        experts = FromFiles(attempt.folder / EXPERTS_DIR, spec, data)
        num_images = images_per_class(spec.method.parameterization, spec.ipc, data.info).epoch * data.num_classes
        watch = HeldOut(
            spec.evaluation, data, num_images=num_images, num_iterations=spec.method.max_iterations, seed=spec.seed
        )
        save_seconds = attempt.file.checkpoint_seconds
        distilled = distil(
            spec, data, experts, hooks=hooks, resume=checkpoint, record=self.record, save=self._save,
            save_seconds=save_seconds,
            watch=lambda engine, completed: watch(
                completed, engine.decoded, self.record, hooks, learned_rate=engine.learned_rate,
                variants=engine.parts.parameterization.num_variants,
            ),
        )
        self._take_evaluated(digest_of(distilled))
        self._save(distilled.engine)
        left = tuple(unit.key for unit in units(spec.evaluation) if unit.key not in self.record.units)
        if 0 < attempt.file.units_per_job < len(left):
            raise DelegatedError(left, digest_of(distilled))
        self._report(distilled, self._evaluate(distilled, data, experts), data)

    def evaluate_only(self, only: tuple[str, ...], set_digest: str) -> None:
        """Evaluate some units of the set that another job has finished, and write what was found out.

        Raises:
            Stopped: SIGTERM came; a checkpoint with the finished units was written.
            InvalidInputError: the set is not there, or is another one.
        """
        checkpoint = self._checkpoint_to_resume()
        if checkpoint is None:
            raise InvalidInputError("the set that is to be evaluated has gone: the job that made it is over")
        data = self.attempt.real_set(self.spec)
        self.record = checkpoint.record
        # What its maker evaluated besides stays its own: only these units' curves and times are told.
        self.record.units = {key: value for key, value in self.record.units.items() if key in only}
        experts = FromFiles(self.attempt.folder / EXPERTS_DIR, self.spec, data)
        distilled = distil(self.spec, data, experts, hooks=self.attempt.hooks, resume=checkpoint, record=self.record)
        if digest_of(distilled) != set_digest:
            raise InvalidInputError("the checkpoint holds another set than the one that is to be evaluated")
        self._evaluate(distilled, data, experts, only)
        found = EvaluatedUnits(
            set_digest=set_digest, units={key: self.record.units[key] for key in only},
            seconds=self.record.seconds["evaluating"],
            series={name: self.record.series[name] for name in (LOSS_SERIES, ACCURACY_SERIES) if name in self.record.series},
        )
        out = self.attempt.folder / "out"
        out.mkdir(exist_ok=True)
        write_json(out / UNITS, found.model_dump(mode="json"))
        self.attempt.lines.write(
            ArtifactLine(kind="evaluation", name=UNITS, file=f"{out.name}/{UNITS}", media_type="application/json")
        )
        self.attempt.lines.write(ResultLine(summary=found.model_dump(mode="json")))

    def _take_evaluated(self, set_digest: str) -> None:
        """What other jobs have evaluated of this set counts as finished."""
        for found in self.attempt.file.evaluated:
            if found.set_digest != set_digest or found.units.keys() <= self.record.units.keys():
                continue  # of a set that was lost and made anew, or taken before the checkpoint
            self.record.units |= found.units
            self.record.series |= found.series
            self.record.seconds["evaluating"] = self.record.seconds.get("evaluating", 0.0) + found.seconds

    def _evaluate(
        self, distilled: Distilled, data: RealSet, experts: FromFiles, only: tuple[str, ...] | None = None
    ) -> list[Score]:
        spec, save = self.spec, partial(self._save, distilled.engine)
        try:
            return evaluate(
                spec.evaluation, data, distilled.images, distilled.labels, ipc=spec.ipc, seed=spec.seed, experts=experts,
                parameterization=distilled.engine.parts.parameterization, learned_rate=distilled.learned_rate,
                record=self.record, hooks=self.attempt.hooks, save=save,
                save_seconds=self.attempt.file.checkpoint_seconds, only=only,
            )
        except Stopped:
            save()
            raise

    def _checkpoint_to_resume(self) -> resume.Checkpoint | None:
        path, revision = self.attempt.checkpoint, self.attempt.file.code_revision
        if path is None:
            return None
        found = resume.load(path, science_digest=self.spec.science_digest())
        if found.code_revision != revision:
            found.record.warn(
                self.attempt.hooks, "code_changed",
                f"continued at iteration {found.step} by revision {revision}, begun by {found.code_revision}",
            )
        return found

    def _save(self, engine: Engine) -> None:
        file = self.attempt.file
        checkpoint = resume.Checkpoint(
            engine.completed, self.spec.science_digest(), file.code_revision, engine.state(), self.record
        )
        self.attempt.announce_checkpoint(engine.completed, resume.save(checkpoint, self.attempt.folder / "checkpoints"))

    def _report(self, distilled: Distilled, scores: list[Score], data: RealSet) -> None:
        from core.report.build import write_artifacts  # plotting libraries load only for those who finish

        attempt, record = self.attempt, self.record
        attempt.hooks.phase("reporting", 0)
        started = time.monotonic()
        outcome = Outcome(
            job_id=attempt.file.job_id,
            attempt=attempt.file.attempt,
            spec=self.spec,
            info=data.info,
            images=distilled.images.cpu().numpy(),
            labels=distilled.classes.cpu().numpy(),
            soft_labels=distilled.labels.cpu().numpy() if distilled.labels.is_floating_point() else None,
            whitened=whitening_of(distilled, data),
            learned_rate=distilled.learned_rate,
            initial_images=distilled.initial.cpu().numpy(),
            storage=distilled.storage,
            factors={name: tensor.cpu().numpy() for name, tensor in distilled.factors.items()},
            variants=distilled.engine.parts.parameterization.num_variants,
            scores=scores,
            series=record.series,
            seconds=record.seconds,
            seconds_per_iteration=record.timed_seconds / record.timed_iterations if record.timed_iterations else 0.0,
            peak_memory_bytes=peak_memory_bytes(data.device),
            device=device_name(data.device),
            dataset_digest=data.digest,
            code_revision=attempt.file.code_revision,
            versions=versions(),
            warnings=tuple(record.warnings.values()),
            first_step=record.first_step,
            resumed_from_step=self.resumed_from,
        )
        with attempt.hooks.busy("writing artifacts"):
            artifacts = write_artifacts(outcome, attempt.folder / "out")
        for artifact in artifacts:
            attempt.lines.write(artifact)
        record.seconds["reporting"] = time.monotonic() - started
        attempt.lines.write(ResultLine(summary=summary_of(outcome)))


def digest_of(distilled: Distilled) -> str:
    """SHA-256 of a set's images and labels."""
    hashed = hashlib.sha256()
    for tensor in (distilled.images, distilled.labels):
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def whitening_of(distilled: Distilled, data: RealSet) -> Whitened | None:
    """What a whitened set needs beside its images; None for a standardised one."""
    if not isinstance(data.space, Whitening):
        return None
    arrays = (data.space.mean, data.space.matrix, data.to_8bit(distilled.images), data.to_8bit(distilled.initial))
    return Whitened(*(array.cpu().numpy() for array in arrays))


def summary_of(outcome: Outcome) -> dict[str, Any]:
    """What a list of jobs shows of a finished one."""
    return {
        "scores": [
            {
                "name": s.name, "mean": s.mean, "std": s.std if s.n > 1 else None, "n": s.n, "num_sets": s.num_sets,
                "network": s.network,
            }
            for s in outcome.scores
        ],
        "storage": dict(outcome.storage),
        "num_images": len(outcome.labels),
        "learned_rate": outcome.learned_rate,
        "seconds": dict(outcome.seconds),
        "seconds_per_iteration": outcome.seconds_per_iteration,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "first_step": dict(outcome.first_step),
        "device": outcome.device,
        "resumed_from_step": outcome.resumed_from_step,
    }
