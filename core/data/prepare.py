"""Convert one named data set to its canonical form: `python -m core.data.prepare NAME --data-root R --out FOLDER`.

The bytes are checked against shapes, counts and (where it has one) digest of the catalogue before anything is written. A folder
that already holds the set is left as it is, and two processes may write the same folder at once. Standard output says every two
seconds that the work goes on. Exit code 0; or 64 (unknown name), 65 (missing or other bytes), 70 (no room to write it) with one
`error` line.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from core.catalogue import dataset_info
from core.child import ChildHooks, Lines, failure_of, hold_life_line
from core.data import canonical
from core.data.sources import READERS
from core.errors import DatasetUnreadableError, DistillError
from core.shared_files import has_dataset
from core.specs.report import ErrorLine, ExitCode

READING_SECONDS = 6 * 3600.0
"""So long a slow line, or another process that reads the same set, is borne. A download that brings nothing for
`DOWNLOAD_TIMEOUT_SECONDS` ends itself; a disk that hangs is noticed after this time only, or at the job's own limit."""


def prepare(name: str, data_root: Path, folder: Path) -> None:
    """Write the canonical form of `name` to `folder`, unless it is there.

    Raises:
        UnknownDatasetError: the catalogue does not know the name.
        DatasetUnreadableError: the bytes are missing, damaged, or not those of the catalogue.
    """
    info = dataset_info(name)
    if has_dataset(folder):
        canonical.require_digest(info, canonical.read(folder)[1])
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (folder.parent / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes on one host, one downloads and the other finds the files
            splits = READERS[name](data_root)
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise DatasetUnreadableError(f"data set {name!r} cannot be read under {data_root}: {error}") from error
    canonical.require_counts(info, splits)
    canonical.require_digest(info, canonical.digest_of(splits))
    canonical.write(splits, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m core.data.prepare", description="Convert a named data set.")
    parser.add_argument("name", help="name in the catalogue, for example fashion-mnist")
    parser.add_argument("--data-root", type=Path, required=True, help="torchvision-style root of named sets")
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold the canonical form")
    options = parser.parse_args(arguments)
    lines = Lines()
    hooks = ChildHooks(lines)
    hooks.phase("preparing", 0)
    try:
        with hooks.busy(f"reading {options.name}", READING_SECONDS):
            prepare(options.name, options.data_root, options.out)
    except (DistillError, OSError) as error:
        failure = failure_of(error)
        lines.write(ErrorLine(code=failure.code, message=failure.message))
        return int(failure.exit_code)
    return int(ExitCode.OK)


if __name__ == "__main__":
    hold_life_line()
    sys.exit(main())
