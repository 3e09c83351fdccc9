"""Reading uploads into data sets: `python -m tests.benchmarks.ingest` writes `results/ingest.json`.

Every upload is read by a real child, `python -m core.ingest.run`, in the environment and behind the wall against the network
that a worker gives it, on at most two cores. Wall time, CPU time and peak memory are those of the child from its start to its
end. Three uploads become data sets; then every upload that the unit tests know to be refused must be, with the same code.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.specs.ingest import UPLOAD_FILE, Format, IngestSpec, IngestSummary
from core.specs.report import ErrorLine, JobFile, ResultLine, parse_line
from core.store.objects import sha256_of
from tests.benchmarks.refusals import Refusal, every_refusal
from tests.fixtures.machine import describe, load_average
from tests.unit.core.ingest.files import encoded
from worker import sandbox

RESULTS = Path(__file__).parent / "results" / "ingest.json"
MIB = 2**20
CORES = 2
NUM_CLASSES = 10
LAUNCHER = """
import json, os, sys, time
began = time.monotonic()
pid = os.fork()
if not pid:
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, used = os.wait4(pid, 0)
seconds, cpu_seconds = time.monotonic() - began, used.ru_utime + used.ru_stime
with os.fdopen(int(sys.argv[1]), "w") as told:
    json.dump([os.waitstatus_to_exitcode(status), seconds, cpu_seconds, used.ru_maxrss], told)
"""
"""A small process between this one and a child: the kernel counts the memory of whoever forks as the child's, at first."""


class Ended(NamedTuple):
    """How a child ended."""

    exit_code: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    code: str
    """Of the first problem; empty where there is a data set."""
    summary: IngestSummary | None


def read(folder: Path, file_format: Format, write: Callable[[Path], object], **conversion: Any) -> Ended:
    """Write an upload into a new job directory and have a child read it."""
    folder.mkdir()
    upload = folder / UPLOAD_FILE
    write(upload)
    spec = IngestSpec.model_validate({
        "dataset_id": "ds_1", "title": "Mine", "upload_id": "up_1", "filename": "mine", "size_bytes": upload.stat().st_size,
        "sha256": sha256_of(upload), "format": file_format, "conversion": conversion,
    })
    job = JobFile.model_validate({"job_id": "job_1", "attempt": 1, "spec": spec.model_dump(mode="json"), "threads": CORES})
    (folder / "job.json").write_text(job.model_dump_json())
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", LAUNCHER, str(writing),
         *sandbox.without_network(), sys.executable, "-m", sandbox.MODULE, str(folder)],
        env=sandbox.environment(folder, threads=CORES), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, pass_fds=[writing], start_new_session=True,
    )
    os.close(writing)
    assert child.stdout is not None
    assert child.stdin is not None
    with child.stdin, child.stdout, os.fdopen(reading) as told:
        lines = list(map(parse_line, child.stdout))
        exit_code, seconds, cpu_seconds, peak_kib = json.load(told)
        child.wait()
    shutil.rmtree(folder)
    errors = [line for line in lines if isinstance(line, ErrorLine)]
    summaries = [IngestSummary.model_validate(line.summary) for line in lines if isinstance(line, ResultLine)]
    first = next(iter((errors[0].detail.get("problems") or [{"code": errors[0].code}]) if errors else []), {"code": ""})
    return Ended(exit_code, seconds, cpu_seconds, peak_kib / 1024, first["code"], summaries[0] if summaries else None)


class Pictures:
    """Cuttings of one large picture with the spectrum of photographs (amplitude falls with frequency), none twice."""

    def __init__(self, side: int = 2048) -> None:
        self._rng = np.random.default_rng(0)
        frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
        planes = []
        for _ in range(3):
            noise = self._rng.standard_normal(frequency.shape) + 1j * self._rng.standard_normal(frequency.shape)
            plane = np.fft.irfft2(noise / frequency, s=(side, side))
            planes.append(127 + 50 * plane / plane.std())
        self._canvas = np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8)

    def cut(self, height: int, width: int) -> NDArray[np.uint8]:
        """(H, W, C) uint8."""
        top = self._rng.integers(len(self._canvas) - height)
        left = self._rng.integers(len(self._canvas) - width)
        return self._canvas[top : top + height, left : left + width]


def folder_of(path: Path, names: Iterator[tuple[str, bytes]]) -> None:
    """A zip of images that are stored as they are, as most programs pack them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in names:
            archive.writestr(name, content)


def photographs(pictures: Pictures, count: int) -> Iterator[tuple[str, bytes]]:
    """JPEG files of 375 x 500 in folders."""
    for i in range(count):
        yield f"{i % NUM_CLASSES}/{i}.jpg", encoded(pictures.cut(375, 500), "JPEG", quality=90)


def digits(pictures: Pictures, count: int) -> Iterator[tuple[str, bytes]]:
    """Grey PNG files of 28 x 28 in folders."""
    for i in range(count):
        yield f"{i % NUM_CLASSES}/{i}.png", encoded(Image.fromarray(pictures.cut(28, 28)[:, :, 0]), "PNG")


def stack(pictures: Pictures, path: Path, count: int) -> None:
    """One compressed npz file."""
    images = np.stack([pictures.cut(28, 28)[:, :, 0] for _ in range(count)])
    with path.open("wb") as file:
        np.savez_compressed(file, images=images, labels=np.arange(count) % NUM_CLASSES)


def throughput(folder: Path, scale: float) -> list[dict[str, Any]]:
    """The three uploads that become data sets."""
    pictures, made = Pictures(), []
    counts = [max(2 * NUM_CLASSES, round(scale * count)) for count in (3_000, 20_000, 60_000)]
    sizes: list[int] = []

    def noted(write: Callable[[Path], object]) -> Callable[[Path], object]:
        def both(path: Path) -> None:
            write(path)
            sizes.append(path.stat().st_size)

        return both

    kinds: list[tuple[str, Format, Callable[[Path], object], dict[str, Any]]] = [
        ("JPEG, 375 x 500 to 64 x 64, in a zip", "imagefolder_zip",
         lambda path: folder_of(path, photographs(pictures, counts[0])), {"size": 64}),
        ("grey PNG, 28 x 28, in a zip", "imagefolder_zip", lambda path: folder_of(path, digits(pictures, counts[1])), {}),
        ("one npz, 28 x 28", "npz", lambda path: stack(pictures, path, counts[2]), {}),
    ]
    for (what, file_format, write, conversion), count in zip(kinds, counts, strict=True):
        ended = read(folder / "job", file_format, noted(write), **conversion)
        assert ended.summary is not None, ended
        info = ended.summary.info
        assert sum(info.train_per_class) + sum(info.test_per_class) == count
        made.append({
            "what": what, "images": count, "bytes": sizes[-1], "seconds": round(ended.seconds, 1),
            "cpu_seconds": round(ended.cpu_seconds, 1), "images_per_second": round(count / ended.seconds),
            "peak_mib": round(ended.peak_mib), "num_duplicates": ended.summary.num_duplicates,
        })
    return made


def refused(folder: Path, refusal: Refusal) -> dict[str, Any]:
    """One upload that must be refused."""
    ended = read(folder / "job", refusal.format, lambda path: path.write_bytes(refusal.make()))
    return {
        "name": refusal.name, "format": refusal.format, "code": ended.code, "as_expected": ended.code == refusal.code,
        "seconds": round(ended.seconds, 2), "cpu_seconds": round(ended.cpu_seconds, 2), "peak_mib": round(ended.peak_mib),
    }


def summed(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """What matters of them."""
    figures: dict[str, Any] = {"uploads": len(cases), "not_as_expected": [c["name"] for c in cases if not c["as_expected"]]}
    for field in ("seconds", "cpu_seconds", "peak_mib"):
        most = max(cases, key=lambda case: case[field])
        median = round(statistics.median(case[field] for case in cases), 2)
        figures[field] = {"median": median, "max": most[field], "max_of": most["name"]}
    return figures


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of images")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    folder, load = Path(tempfile.mkdtemp(prefix="dl-")), load_average()
    try:
        read_well = throughput(folder, options.scale)
        cases = [refused(folder, refusal) for refusal in every_refusal()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = {
        "what": "children that read uploads, each from its start to its end; refusals of uploads that are made to be refused",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{describe()}; {CORES} of them", "load_average_before": load, "load_average_after": load_average(),
        "network": " ".join(sandbox.without_network()) or "not taken away",
        "read": read_well, "refused": summed(cases),
    }
    text = json.dumps(results, indent=1)
    rows = ",\n  ".join(json.dumps(case) for case in cases)
    options.output.write_text(f'{text[:-2]},\n "cases": [\n  {rows}\n ]\n}}\n')
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
