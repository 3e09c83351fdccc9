"""The child that reads an upload: `python -m core.ingest.run JOBDIR`. No torch.

It reads `JOBDIR/upload`, which is hostile, under limits of its own, and writes below `JOBDIR/out` alone; whatever it needs on
the way lies in a folder that is removed at its end.
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from core.child import ChildHooks, Failure, Lines, read_job, serve
from core.child import failure_of as plain_failure_of
from core.data.canonical import MANIFEST, write
from core.data.named.raw import RawSplits
from core.errors import DatasetRejectedError, SpecError
from core.ingest.build import reader_of
from core.ingest.convert import Converted, assemble, decode_all
from core.ingest.samples import Refused
from core.ingest.statistics import statistics
from core.ingest.summary import summary_of
from core.ingest.verdict import problems_of, rejected
from core.ingest.views import write_grid, write_samples
from core.progress import Hooks, Stopped
from core.specs.ingest import SAMPLES_FILE, UPLOAD_FILE, IngestLimits, IngestSpec, IngestSummary
from core.specs.report import ArtifactLine, ExitCode, JobFile, ResultLine

DATASET_DIR = "dataset"
"""Folder below `JOBDIR/out` of the canonical form."""
GRID_FILE = "samples.png"

_CHUNK = 1 << 20
_MAX_FILES = 64
_MIN_FILE_BYTES = 256 << 20
_HEADER_BYTES = 1 << 20
_LAST_SECONDS = 60
"""CPU time from the signal that says that the limit is reached to the one that kills."""
_MAPS = 3
"""Maps of the finished arrays are at most so many times as large as these."""


def run(folder: Path, lines: Lines, hooks: ChildHooks) -> None:
    """Turn the upload into canonical arrays, samples for people and a summary.

    Raises:
        SpecError: `job.json` is missing, or is not of such a job.
        DatasetRejectedError: the files break a rule.
        Stopped: SIGTERM came.
    """
    file, spec = read_job(folder)
    if not isinstance(spec, IngestSpec):
        raise SpecError(f"core.ingest.run reads uploads, not jobs of kind {spec.kind!r}")
    limits = file.limits
    confine(limits)
    warnings.filterwarnings("ignore", module="PIL")  # of metadata that is not used
    hooks.phase("preparing", 0)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".ingest-") as name:
            workplace = Path(name)
            with _in_time(limits):
                converted = _converted(folder / UPLOAD_FILE, spec, file, workplace / "images", hooks)
                hooks.phase("reporting", 0)
                with hooks.busy("writing the data set"):
                    summary = _write(spec, converted, workplace / "out", hooks)
            _hand_over(workplace / "out", folder, lines)
    except Refused as refusal:
        raise rejected([refusal.problem], limits) from refusal
    lines.write(ResultLine(summary=summary.model_dump(mode="json")))


def failure_of(error: BaseException) -> Failure:
    """As every child's; of files that were refused, every problem that is told."""
    if isinstance(error, DatasetRejectedError):
        problems = [problem.model_dump() for problem in problems_of(error)]
        return Failure(error.code, error.message, ExitCode.BAD_DATA, {"problems": problems})
    return plain_failure_of(error)


def confine(limits: IngestLimits) -> None:
    """Bound what this process can take, before it reads a byte of the upload."""
    _limit(resource.RLIMIT_CORE, 0, 0)
    _limit(resource.RLIMIT_NOFILE, _MAX_FILES, _MAX_FILES)
    largest = max(limits.max_canonical_bytes, _MIN_FILE_BYTES) + _HEADER_BYTES
    _limit(resource.RLIMIT_FSIZE, largest, largest)
    _limit(resource.RLIMIT_CPU, limits.max_cpu_seconds, limits.max_cpu_seconds + _LAST_SECONDS)
    # Maps of the finished arrays count as memory as well: the hard limit leaves room for them.
    _limit(resource.RLIMIT_AS, limits.max_memory_bytes, limits.max_memory_bytes + _MAPS * limits.max_canonical_bytes)


@contextmanager
def _in_time(limits: IngestLimits) -> Iterator[None]:
    """Refuse the files when the limit on CPU time is reached, and clean up in peace in the seconds that are left."""

    def out_of_time(_number: int, _frame: FrameType | None) -> None:
        raise Refused("too_slow", f"the files take more than {limits.max_cpu_seconds} seconds of CPU time to read")

    signal.signal(signal.SIGXCPU, out_of_time)  # comes again each second, in case that a library takes the error for its own
    try:
        yield
    finally:
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, or leave it where it is lower."""
    at_most = resource.getrlimit(kind)[1]
    if at_most != resource.RLIM_INFINITY:
        soft, hard = min(soft, at_most), min(hard, at_most)
    resource.setrlimit(kind, (soft, hard))


def _make_room_for_maps() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _converted(upload: Path, spec: IngestSpec, file: JobFile, raw: Path, hooks: ChildHooks) -> Converted:
    with hooks.busy("comparing the checksum"):
        _require_whole(upload, spec, hooks)
    reader = reader_of(spec, upload, file.limits)
    decoded = decode_all(reader, spec.conversion, file.limits, raw, hooks, file.threads)
    _make_room_for_maps()  # from here on nothing of the upload is read
    with hooks.busy("splitting"):
        return assemble(decoded, spec.conversion, raw, hooks)


def _require_whole(upload: Path, spec: IngestSpec, hooks: Hooks) -> None:
    """Pass where the file is the one that the client uploaded; of one that lay in a store nobody stated anything.

    Raises:
        Refused: its size or checksum is another.
    """
    if not spec.upload_id:
        return
    size = upload.stat().st_size
    if size != spec.size_bytes:
        raise Refused("size_mismatch", f"the upload has {size} bytes, the client stated {spec.size_bytes}")
    sha = hashlib.sha256()
    with upload.open("rb") as source:
        while chunk := source.read(_CHUNK):
            if hooks.should_stop():
                raise Stopped
            sha.update(chunk)
    if sha.hexdigest() != spec.sha256.lower():
        raise Refused("digest_mismatch", f"the upload has the SHA-256 {sha.hexdigest()}, the client stated {spec.sha256}")


def _write(spec: IngestSpec, converted: Converted, out: Path, hooks: Hooks) -> IngestSummary:
    """Everything that the job hands over, in the folder `out`."""
    out.mkdir()
    counted = statistics(converted.splits, hooks)
    digest = write(converted.splits, out / DATASET_DIR)
    write_samples(converted.splits, len(converted.classes), out / SAMPLES_FILE)
    write_grid(converted.splits, converted.classes, out / GRID_FILE)
    return summary_of(spec, converted, counted, digest)


def _hand_over(made: Path, folder: Path, lines: Lines) -> None:
    """Move the finished files below `JOBDIR/out` and name them."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    for path in sorted(made.iterdir()):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)  # of an attempt that was killed
        path.rename(target)

    def say(kind: str, file: Path, media_type: str) -> None:
        lines.write(ArtifactLine(kind=kind, name=file.name, file=file.relative_to(folder).as_posix(), media_type=media_type))

    say("dataset", out / DATASET_DIR / MANIFEST, "application/json")
    for field in RawSplits._fields:
        say("dataset", out / DATASET_DIR / f"{field}.npy", "application/octet-stream")
    say("samples", out / SAMPLES_FILE, "application/json")
    say("preview", out / GRID_FILE, "image/png")


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], run, failure_of))
