"""The process that reads a user's files: no network, no secrets, no more memory, time and files than it needs.

The network is taken away by `unshare --net` (util-linux), in a user namespace of its own, from which the worker cannot be
looked into, or else as root; where the kernel or the container permits neither, a worker says so when it starts and reads files
all the same, with the other walls alone: an environment of a few words, and the limits that the child sets itself before it
opens anything (`core.ingest.run`). What such a process says is not believed either: it may name its own files, and no others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.specs.ingest import SAMPLES_FILE, IngestSpec, IngestSummary
from core.specs.report import DATASET_FILES, ArtifactLine, CheckpointLine, Line, MetricLine, UnitsLine
from worker.child import SOURCE_ROOT

MODULE = "core.ingest.run"
UNSHARE = (("unshare", "--user", "--map-current-user", "--net"), ("unshare", "--net"))
TRY_SECONDS = 10.0
MADE = frozenset({
    ("samples", SAMPLES_FILE, f"out/{SAMPLES_FILE}"), ("preview", "samples.png", "out/samples.png"),
    *(("dataset", name, f"out/dataset/{name}") for name in DATASET_FILES),
})
"""Kind, name and place of every file that it makes."""
MAX_SAMPLES_BYTES = 32 << 20
"""The API reads this file as a whole."""


@cache
def without_network() -> tuple[str, ...]:
    """The command in front of a program that takes the network away from it; empty where none works here."""
    for command in UNSHARE:
        if shutil.which(command[0]) is None:
            continue
        try:
            tried = subprocess.run([*command, "true"], capture_output=True, timeout=TRY_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            continue
        if tried.returncode == 0:
            return command
    return ()


def environment(folder: Path, *, threads: int) -> dict[str, str]:
    """The whole environment of such a process; temporary files go to its job directory."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {
        "HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(SOURCE_ROOT), "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads),
        "MALLOC_ARENA_MAX": "2",  # each arena reserves address space, which is limited
    }


def may_say(line: Line) -> bool:
    """Whether a line is one that such a process has a reason to write."""
    return not isinstance(line, (CheckpointLine, MetricLine, UnitsLine))


def doubts(folder: Path, spec: IngestSpec, artifacts: Sequence[ArtifactLine], summary: dict[str, Any]) -> str:
    """Why what it has made is not taken over; empty where it is. To be asked when the process and its group are gone."""
    named = [(line.kind, line.name, line.file) for line in artifacts]
    if set(named) != MADE or len(named) != len(MADE):
        return "it names other files than those of a data set"
    root = folder.resolve()
    for _, _, file in named:
        path = root / file
        if path.resolve() != path or not path.is_file():
            return f"{file} is not a plain file"
    if (root / "out" / SAMPLES_FILE).stat().st_size > MAX_SAMPLES_BYTES:
        return f"{SAMPLES_FILE} is too large"
    try:
        info = IngestSummary.model_validate(summary).info
    except ValidationError:
        return "its summary is not one"
    if (info.name, info.title) != (spec.dataset_id, spec.title):
        return "its summary is that of another data set"
    return ""
