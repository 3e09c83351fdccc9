"""Files that processes of a host share: they appear complete and on the disk, or not at all; a lock tells that one is in use.

The kernel frees a lock with the last process that has it, so that what nobody holds, nobody uses. Locks are advisory: they bind
whoever removes things. No file that serves as a lock may be replaced while it is one; `hold` notices one that was.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from core.specs.report import DATASET_FILES


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hold(path: Path, *, alone: bool = False) -> int:
    """Lock a file that is there, without waiting; the lock lasts until the descriptor and its copies are closed.

    Args:
        path: the file.
        alone: nobody else may hold it.

    Raises:
        FileNotFoundError: it is not there, or was removed at this moment.
        BlockingIOError: others hold it.
    """
    descriptor = os.open(path, os.O_RDWR if alone else os.O_RDONLY)  # NFS locks for one alone what is open for writing
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(f"{path} was replaced")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def has_dataset(folder: Path) -> bool:
    """Whether a folder holds a whole canonical set."""
    return all((folder / name).is_file() for name in DATASET_FILES)


@contextmanager
def appearing_dataset(folder: Path) -> Iterator[Path]:
    """A folder to write a canonical set to, which takes the name `folder` when the block ends without an error.

    Of two processes at once the first wins and the other's copy is removed. One that is killed leaves `.NAME.<hex>`. A folder
    of this name that lacks files is replaced.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            flush(path)
        flush(temporary)
        try:
            temporary.rename(folder)  # fails where the target is there and not empty
        except OSError:
            if not folder.is_dir():
                raise
            if not has_dataset(folder):
                damaged = folder.rename(folder.with_name(f".{uuid4().hex}"))
                temporary.rename(folder)
                shutil.rmtree(damaged, ignore_errors=True)
        flush(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
