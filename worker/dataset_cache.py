"""The canonical data sets on a host, which its workers share: who uses one, and what goes when they take too much room.

    datasets/KEY/           a set: its manifest, its arrays, and whitening fits, `*.safetensors`
    datasets/.KEY.<hex>/    a set that is being written; what is hidden inside a set is a fit that is being written
    datasets/.<hex>/        a set that is being removed
    datasets/.locks/KEY     locked, shared, by whoever uses or writes what belongs to the set; never removed

A child inherits the lock of its worker, so that it holds also when the worker is killed first. A fit that is read is locked
itself: of a set that is always in use, fits must be able to go. When something was used its modification time tells: of a set
that of the manifest.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import structlog

from core.settings import Settings
from core.shared_files import has_dataset, hold
from core.specs.report import DATASET_MANIFEST
from core.store.objects import remove_tree
from worker.inputs import POLL_SECONDS, UnwantedError

log = structlog.get_logger(__name__)

LOCKS = ".locks"
FIT = ".safetensors"
LEFTOVER_SECONDS = 24 * 3600.0
"""What nobody has written to for so long was left behind, also where somebody else uses the set: no fetch pauses so long,
and no machine that sleeps for a night is taken for one."""
_WRITTEN = re.compile(r"\.(.+)\.[0-9a-f]{32}")
_REMOVED = re.compile(r"\.[0-9a-f]{32}")


@dataclass(frozen=True)
class Held:
    """A set that is not removed while the descriptor, or a copy of it, is open; it need not be there yet."""

    folder: Path
    descriptor: int

    @property
    def is_there(self) -> bool:
        """Whether the set is complete."""
        return has_dataset(self.folder)

    def mark(self) -> None:
        """Note that the set is used now."""
        with suppress(OSError):
            os.utime(self.folder / DATASET_MANIFEST)

    def during(self, action: Callable[[], None]) -> Callable[[], None]:
        """An action that holds the set by itself, for where it may go on when nobody waits for it any more."""
        descriptor = os.dup(self.descriptor)

        def run() -> None:
            try:
                action()
            finally:
                os.close(descriptor)

        return run


class _Item(NamedTuple):
    """A fit, or a set."""

    used: float
    path: Path


class DatasetCache:
    """The folder, for one worker process."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.cache_dir / "datasets"
        self._bound_bytes = settings.dataset_cache_bytes

    @contextmanager
    def held(self, key: str, unwanted: Callable[[], bool]) -> Iterator[Held]:
        """Keep a set from being removed inside the block. To be entered before it is looked whether it is there.

        Raises:
            UnwantedError: the set is just being removed, and nobody waits for it any more.
        """
        lock = self._lock(key)
        while True:
            try:
                held = Held(self._folder / key, hold(lock))
                break
            except BlockingIOError:
                if unwanted():
                    raise UnwantedError from None
                time.sleep(POLL_SECONDS)
        try:
            held.mark()
            yield held
            held.mark()
        finally:
            os.close(held.descriptor)

    def remove_leftovers(self) -> None:
        """Remove what processes that were killed have half written or half removed. Better asked before a set is held."""
        for path, _ in _inside(self._folder):
            if _REMOVED.fullmatch(path.name):
                remove_tree(path)
            elif written := _WRITTEN.fullmatch(path.name):
                self._remove_leftover(path, written[1])
            elif not path.name.startswith("."):
                for inside, _ in _inside(path):
                    if inside.name.startswith("."):
                        self._remove_leftover(inside, path.name)

    def make_room(self, needed_bytes: int = 0) -> None:
        """Make room for what is about to be written, within the bound and on the disk: fits go first, then sets, by last use.

        What is in use stays, also when there is too little room then.
        """
        tried: set[Path] = set()
        while True:
            total, items = self._measured()  # each time anew: another worker may make room, too
            over = max(total + needed_bytes - self._bound_bytes, needed_bytes - self._free_bytes())
            if over <= 0:
                return
            path = next((item.path for item in items if item.path not in tried), None)
            if path is None:
                log.warning("dataset_cache_beyond_bound", over_bytes=over, bound_bytes=self._bound_bytes)
                return
            tried.add(path)
            if self._remove_unheld(path, path if path.suffix == FIT else self._lock(path.name)):
                log.info("dataset_cache_evicted", name=path.name)

    def _free_bytes(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._folder).free

    def _lock(self, key: str) -> Path:
        lock = self._folder / LOCKS / key
        if not lock.exists():
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
        return lock

    def _measured(self) -> tuple[int, list[_Item]]:
        """Bytes of everything; and what may go, in the order in which it goes."""
        total = 0
        fits: list[_Item] = []
        sets: list[_Item] = []
        for path, _ in _inside(self._folder):
            if _REMOVED.fullmatch(path.name):
                continue  # somebody is at it
            within = _inside(path)
            total += sum(stat.st_size for _, stat in within)
            if path.name.startswith(".") or not path.is_dir():
                continue
            shown = [(each, stat.st_mtime) for each, stat in within if not each.name.startswith(".")]
            fits += [_Item(used, each) for each, used in shown if each.suffix == FIT]
            sets.append(_Item(next((used for each, used in shown if each.name == DATASET_MANIFEST), 0.0), path))
        return total, sorted(fits) + sorted(sets)

    def _remove_leftover(self, path: Path, key: str) -> None:
        written = max((stat.st_mtime for _, stat in _inside(path)), default=0.0)
        with suppress(FileNotFoundError):  # its writer has just finished
            written = max(written, path.stat().st_mtime)
            old = time.time() - written > LEFTOVER_SECONDS
            if self._remove_unheld(path, None if old else self._lock(key)):
                log.info("dataset_cache_leftover_removed", name=path.name)

    def _remove_unheld(self, path: Path, lock: Path | None) -> bool:
        """Remove a file or folder, unless its lock is held; whether it was removed."""
        try:
            descriptor = None if lock is None else hold(lock, alone=True)
            try:
                away = self._put_away(path)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
        except (BlockingIOError, FileNotFoundError):  # in use, or removed by another worker
            return False
        except OSError as error:
            log.warning("dataset_cache_not_removed", name=path.name, error=str(error))
            return False
        remove_tree(away)
        return True

    def _put_away(self, path: Path) -> Path:
        """Unlink a file; rename a folder, so that one that is half removed is never taken for a whole one."""
        if path.is_dir():
            return path.rename(self._folder / f".{uuid4().hex}")
        path.unlink()
        return path


def _inside(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """What lies in a folder at this moment; nothing where it is a file, or gone."""
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                found.append((path, path.stat()))
    return found
