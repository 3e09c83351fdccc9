"""One attempt of one job inside its directory: what the child was told, and how it answers, whatever the kind of job.

It touches the job directory and the canonical data only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.catalogue import DatasetInfo
from core.child import ChildHooks, Lines
from core.data.real_set import RealSet
from core.errors import SpecError
from core.machine import choose_device
from core.specs.job import DistillationSpec, ExpertsSpec
from core.specs.report import CheckpointLine, JobFile


@dataclass(frozen=True)
class Attempt:
    """The job directory and the two ways to speak: lines, and hooks that make lines."""

    folder: Path
    file: JobFile
    lines: Lines
    hooks: ChildHooks

    @property
    def checkpoint(self) -> Path | None:
        """Where to continue; None for a new beginning."""
        return self.folder / self.file.checkpoint if self.file.checkpoint else None

    @property
    def info(self) -> DatasetInfo:
        """What is known of the job's data.

        Raises:
            SpecError: `job.json` says nothing of it.
        """
        if self.file.dataset is None:
            raise SpecError("job.json does not say what the data set is")
        return self.file.dataset

    def real_set(self, spec: DistillationSpec | ExpertsSpec) -> RealSet:
        """The job's data on its device; the phase `preparing`.

        Raises:
            DeviceUnavailableError: a GPU is asked for and there is none.
            DatasetUnreadableError: the canonical data is not what is known of it.
        """
        self.hooks.phase("preparing", 0)
        device = choose_device(spec.resources)
        with self.hooks.busy("loading data"):
            return RealSet.load(
                Path(self.file.dataset_dir), self.info, device=device, seed=spec.seed,
                held_out_fraction=spec.dataset.held_out_fraction, preprocessing=spec.preprocessing,
            )

    def unverified(self, data: RealSet) -> str:
        """What to warn of where the catalogue cannot tell whether the data is the real set; empty where it can."""
        if data.info.verified:
            return ""
        return f"{data.info.name} was read as found, with digest {data.digest}: the catalogue has none to compare it with"

    def announce_checkpoint(self, step: int, path: Path) -> None:
        """Say that a checkpoint was renamed into place."""
        self.lines.write(CheckpointLine(step=step, file=path.relative_to(self.folder).as_posix()))
