"""Ten thousand damaged uploads of all formats in confined processes: each is read or refused, soon, and none leaves a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.core.ingest.corpus import FORMATS

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
NUM_PROCESSES, PER_PROCESS = 20, 500
MAX_SECONDS = 10.0
"""CPU time for one upload."""


def test_every_damaged_upload_is_read_or_refused(tmp_path: Path) -> None:
    ends: Counter[tuple[str, bool]] = Counter()
    codes: Counter[str] = Counter()
    for process in range(NUM_PROCESSES):
        folder = tmp_path / str(process)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.fuzzing", str(folder), str(process * PER_PROCESS), str(PER_PROCESS)],
            cwd=ROOT, env={"PATH": os.environ["PATH"], "HOME": str(folder), "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, f"after {lines[-1:]}: {done.stderr[-3000:]}"
        assert [number for number, *_ in lines] == list(range(process * PER_PROCESS, (process + 1) * PER_PROCESS))
        for number, format, end, seconds, stray in lines:
            assert not stray, f"upload {number} ({format}) left {stray}"
            assert seconds < MAX_SECONDS, f"upload {number} ({format}) took {seconds:.1f} s"
            ends[format, end == "read"] += 1
            codes[end] += 1
    assert set(ends) == {(format, read) for format in FORMATS for read in (True, False)}
    assert codes["read"] > NUM_PROCESSES * PER_PROCESS / 10
    assert len(codes) > 20
