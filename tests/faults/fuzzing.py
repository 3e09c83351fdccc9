"""A process that reads damaged uploads one after another: `python -m tests.faults.fuzzing FOLDER FIRST COUNT`.

It is confined as the child that reads uploads is, and says how each of them ended, as a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

from core.errors import DatasetRejectedError
from core.ingest.run import confine
from core.specs.ingest import IngestLimits
from tests.unit.core.ingest.corpus import fuzzed
from tests.unit.core.ingest.files import left_in
from tests.unit.core.ingest.readers import converted

LIMITS = IngestLimits(max_memory_bytes=3 << 30, max_canonical_bytes=64 << 20, max_cpu_seconds=600)


def main(folder: Path, first: int, count: int) -> None:
    """Read so many uploads; any error that is not a refusal ends the process."""
    confine(LIMITS)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", module="PIL")  # as core.ingest.run does
    for number in range(first, first + count):
        format, content = fuzzed(number)
        begun = time.process_time()
        try:
            converted(folder, content, format, LIMITS, threads=1 + number % 2, max_corrupt=number % 3)
            end = "read"
        except DatasetRejectedError as error:
            end = error.problems[0].code
        stray = sorted(set(left_in(folder)) - {"upload", "images", "images.test"})
        sys.stdout.write(json.dumps([number, format, end, time.process_time() - begun, stray]) + "\n")
        sys.stdout.flush()
        for name in left_in(folder):
            (folder / name).unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
