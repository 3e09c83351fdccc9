"""What is removed from a host's cache of data sets, in which order, and what never is. Other workers are real processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.settings import Settings
from core.specs.report import DATASET_FILES
from worker.child import Child
from worker.dataset_cache import LEFTOVER_SECONDS, DatasetCache
from worker.inputs import UnwantedError

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = """
import os, signal, sys
from pathlib import Path
import worker.dataset_cache as module
from core.shared_files import appearing_dataset
from core.settings import Settings

def cache(bound=0):
    return module.DatasetCache(Settings(home=Path(sys.argv[1]), dataset_cache_bytes=bound))

def ready():
    print("ready", flush=True)
    sys.stdin.readline()

"""
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runs statements in a process of their own, until they are ready or the process has ended."""
    started = []

    def run(statements: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SETTINGS + statements, str(tmp_path)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def cache_of(home: Path, bound_bytes: int = 0) -> DatasetCache:
    return DatasetCache(Settings(home=home, dataset_cache_bytes=bound_bytes))


def write(path: Path, size_bytes: int, used: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size_bytes))
    os.utime(path, (used, used))
    return path


def add(home: Path, key: str, size_bytes: int, used: float) -> Path:
    """A set that was last used at a time; its manifest has 10 bytes."""
    folder = home / "cache" / "datasets" / key
    for name in DATASET_FILES:
        write(folder / name, 0, time.time())
    write(folder / "train_images.npy", size_bytes - 10, time.time())
    write(folder / "manifest.json", 10, used)
    return folder


def names(home: Path) -> list[str]:
    """What lies in the cache, with the fits."""
    folder = home / "cache" / "datasets"
    paths = [*folder.iterdir(), *folder.glob("*/*.safetensors"), *folder.glob("*/.zca*")]
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.name != ".locks")


def use(home: Path, key: str) -> None:
    with cache_of(home).held(key, lambda: False):
        pass


class TestBound:
    def test_an_empty_host_has_room(self, tmp_path: Path) -> None:
        cache_of(tmp_path).make_room()
        cache_of(tmp_path).remove_leftovers()

    def test_nothing_goes_below_it(self, tmp_path: Path) -> None:
        add(tmp_path, "a", 100, 1)
        write(add(tmp_path, "b", 100, 2) / "zca-1.safetensors", 50, 1)
        cache_of(tmp_path, 250).make_room()
        cache_of(tmp_path, 260).make_room(10)
        assert names(tmp_path) == ["a", "b", "b/zca-1.safetensors"]

    def test_what_was_not_used_for_longest_goes_first_and_no_more_than_needed(self, tmp_path: Path) -> None:
        for key, used in (("a", 3), ("b", 1), ("c", 4), ("d", 2)):
            add(tmp_path, key, 100, used)
        cache_of(tmp_path, 300).make_room()
        assert names(tmp_path) == ["a", "c", "d"]
        cache_of(tmp_path, 300).make_room(101)
        assert names(tmp_path) == ["c"]

    def test_using_a_set_marks_it(self, tmp_path: Path) -> None:
        for key, used in (("a", 1), ("b", 2), ("c", 3)):
            add(tmp_path, key, 100, used)
        use(tmp_path, "a")
        cache_of(tmp_path, 100).make_room()
        assert names(tmp_path) == ["a"]

    def test_it_was_used_until_its_attempt_ended(self, tmp_path: Path) -> None:
        manifest = add(tmp_path, "a", 100, 1) / "manifest.json"
        with cache_of(tmp_path).held("a", lambda: False):
            assert manifest.stat().st_mtime > 1
            os.utime(manifest, (1, 1))
        assert manifest.stat().st_mtime > 1

    def test_fits_go_before_sets(self, tmp_path: Path) -> None:
        a, b = add(tmp_path, "a", 100, 1), add(tmp_path, "b", 100, 2)
        write(a / "zca-1.safetensors", 50, 20)
        write(b / "zca-2.safetensors", 50, 10)
        cache_of(tmp_path, 250).make_room()
        assert names(tmp_path) == ["a", "a/zca-1.safetensors", "b"]
        cache_of(tmp_path, 200).make_room()
        assert names(tmp_path) == ["a", "b"]
        cache_of(tmp_path, 199).make_room()
        assert names(tmp_path) == ["b"]

    def test_a_full_disk_is_a_bound_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sizes of what would be removed are what the disk gains."""
        sets = [add(tmp_path, key, 100, used) for used, key in enumerate("abc", 1)]
        monkeypatch.setattr(DatasetCache, "_free_bytes", lambda _: 30 + 100 * sum(not folder.exists() for folder in sets))
        cache = cache_of(tmp_path, 10_000)
        cache.make_room(30)
        assert names(tmp_path) == ["a", "b", "c"]
        cache.make_room(131)
        assert names(tmp_path) == ["c"]
        with capture_logs() as logs:
            cache.make_room(1000)
        assert names(tmp_path) == []
        assert [line["over_bytes"] for line in logs if line["log_level"] == "warning"] == [670]

    def test_what_the_disk_has_is_asked_of_the_disk(self, tmp_path: Path) -> None:
        free, asked = shutil.disk_usage(tmp_path).free, cache_of(tmp_path / "new")._free_bytes()
        assert abs(asked - free) < 1 << 30

    def test_a_set_that_does_not_fit_is_brought_all_the_same(self, tmp_path: Path) -> None:
        add(tmp_path, "a", 100, 1)
        cache = cache_of(tmp_path, 500)
        with cache.held("large", lambda: False) as held, capture_logs() as logs:
            cache.make_room(1000)
            assert names(tmp_path) == []
            add(tmp_path, "large", 1000, 2)
            cache.make_room()
            assert held.is_there
        assert [(line["event"], line["over_bytes"]) for line in logs if line["log_level"] == "warning"] == [
            ("dataset_cache_beyond_bound", 500), ("dataset_cache_beyond_bound", 500)
        ]
        cache.make_room(10)
        assert names(tmp_path) == []


class TestUse:
    def test_what_another_process_uses_stays_until_it_ends(self, tmp_path: Path, start: Start) -> None:
        for key, used in (("a", 1), ("b", 2)):
            add(tmp_path, key, 100, used)
        other = start("with cache().held('a', lambda: False): ready()")
        add(tmp_path, "a", 100, 1)  # not by its age
        with capture_logs() as logs:
            cache_of(tmp_path, 0).make_room()
        assert names(tmp_path) == ["a"]
        assert [line["over_bytes"] for line in logs if line["event"] == "dataset_cache_beyond_bound"] == [100]
        other.kill()
        other.wait()
        cache_of(tmp_path, 0).make_room()
        assert names(tmp_path) == []

    def test_a_child_keeps_what_its_worker_held(self, tmp_path: Path) -> None:
        """As when the worker is killed first, or its child hangs in the kernel."""
        add(tmp_path, "a", 100, 1)
        (tmp_path / "sleeper.py").write_text("import time\nwhile True: time.sleep(60)\n")
        program = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
        with cache_of(tmp_path).held("a", lambda: False) as held:
            child = Child("sleeper", [], program, tmp_path / "log", locks=(held.descriptor,))
        cache_of(tmp_path, 0).make_room()
        assert names(tmp_path) == ["a"]
        child.close()
        cache_of(tmp_path, 0).make_room()
        assert names(tmp_path) == []

    def test_a_fetch_that_goes_on_by_itself_holds_it(self, tmp_path: Path) -> None:
        add(tmp_path, "a", 100, 1)
        release = threading.Event()
        with cache_of(tmp_path).held("a", lambda: False) as held:
            fetching = threading.Thread(target=held.during(lambda: release.wait() and None), daemon=True)
            fetching.start()
        cache_of(tmp_path, 0).make_room()
        assert names(tmp_path) == ["a"]
        release.set()
        fetching.join()
        cache_of(tmp_path, 0).make_room()
        assert names(tmp_path) == []

    def test_a_fit_that_is_read_stays_and_the_others_of_a_set_in_use_go(self, tmp_path: Path) -> None:
        folder = add(tmp_path, "a", 100, 1)
        for name, used in (("zca-1", 1), ("zca-2", 2)):
            write(folder / f"{name}.safetensors", 50, used)
        with cache_of(tmp_path).held("a", lambda: False), (folder / "zca-1.safetensors").open("rb") as reader:
            fcntl.flock(reader, fcntl.LOCK_SH)
            cache_of(tmp_path, 0).make_room()
        assert names(tmp_path) == ["a", "a/zca-1.safetensors"]

    def test_a_set_that_is_being_removed_is_waited_for(self, tmp_path: Path) -> None:
        use(tmp_path, "a")
        looks = iter([False, True])
        with (tmp_path / "cache" / "datasets" / ".locks" / "a").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UnwantedError), cache_of(tmp_path).held("a", lambda: next(looks)):
                pass
            threading.Timer(0.3, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
            use(tmp_path, "a")


class TestLeftovers:
    def test_what_a_killed_process_has_half_written_goes_at_once(self, tmp_path: Path, start: Start) -> None:
        """Below the bound, too; what others write stays."""
        statements = """
with cache().held({key!r}, lambda: False) as held, appearing_dataset(held.folder) as temporary:
    (temporary / "train_images.npy").write_bytes(bytes(100))
    {end}
"""
        start(statements.format(key="dead", end="os.kill(os.getpid(), signal.SIGKILL)")).wait()
        alive = start(statements.format(key="alive", end='ready(); (temporary / "manifest.json").write_text("{}")'))
        assert [name.split(".")[1] for name in names(tmp_path)] == ["alive", "dead"]
        cache_of(tmp_path, 1000).remove_leftovers()
        assert [name.split(".")[1] for name in names(tmp_path)] == ["alive"]
        alive.communicate("\n")
        assert names(tmp_path) == ["alive"]

    @pytest.mark.parametrize("name", [".zca-1.safetensors." + "0" * 32, ".tmpNVgFK0"])
    def test_a_half_written_fit_goes_when_nobody_uses_its_set(self, tmp_path: Path, start: Start, name: str) -> None:
        temporary = write(add(tmp_path, "a", 100, 1) / name, 50, time.time())
        other = start("with cache().held('a', lambda: False): ready()")
        cache_of(tmp_path, 1000).remove_leftovers()
        assert temporary.exists()
        cache_of(tmp_path, 0).make_room()
        assert temporary.exists()
        other.communicate("\n")
        cache_of(tmp_path, 1000).remove_leftovers()
        assert not temporary.exists()
        assert names(tmp_path) == ["a"]

    def test_where_the_set_is_always_in_use_age_decides(self, tmp_path: Path) -> None:
        folder, now = add(tmp_path, "a", 100, 1), time.time()
        parent = folder.parent
        fresh, old = (parent / f".a.{digit * 32}" / "train_images.npy" for digit in "01")
        fit = write(folder / f".zca-1.safetensors.{'2' * 32}", 50, now - 2 * LEFTOVER_SECONDS)
        write(fresh, 100, now)
        write(old, 100, now - 2 * LEFTOVER_SECONDS)
        for path in (fresh, old):
            os.utime(path.parent, (now - 2 * LEFTOVER_SECONDS,) * 2)  # a file that grows does not change it
        with cache_of(tmp_path).held("a", lambda: False):
            cache_of(tmp_path).remove_leftovers()
        assert (fresh.exists(), old.parent.exists(), fit.exists()) == (True, False, False)

    def test_a_half_removed_set_is_not_taken_for_a_whole_one(self, tmp_path: Path, start: Start) -> None:
        add(tmp_path, "a", 100, 1)
        killed = start("""
def half(folder):
    (folder / "train_images.npy").unlink()
    os.kill(os.getpid(), signal.SIGKILL)

module.remove_tree = half
cache().make_room()
""")
        assert killed.wait() == -signal.SIGKILL
        (left,) = names(tmp_path)
        assert left.startswith(".")
        with cache_of(tmp_path).held("a", lambda: False) as held:
            assert not held.is_there
        cache_of(tmp_path, 1000).remove_leftovers()
        assert names(tmp_path) == []

    def test_a_lock_of_those_who_read_the_originals_is_no_leftover(self, tmp_path: Path) -> None:
        lock = write(tmp_path / "cache" / "datasets" / ".digits.lock", 0, 1)
        cache_of(tmp_path, 0).remove_leftovers()
        cache_of(tmp_path, 0).make_room()
        assert lock.exists()


def test_two_workers_that_make_room_at_once_remove_no_more_than_one_would(tmp_path: Path, start: Start) -> None:
    for number in range(100):
        add(tmp_path, f"set-{number:03d}", 100, number)
    two = [start("ready(); cache(50 * 100).make_room()") for _ in range(2)]
    for process in two:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait() for process in two] == [0, 0]
    left = names(tmp_path)
    # One looks for another while the other has locked the oldest, and not put it away yet: then each removes one.
    assert 48 <= len(left) <= 50
    assert left == [f"set-{number:03d}" for number in range(100 - len(left), 100)]
    folder = tmp_path / "cache" / "datasets"
    assert all(len(list((folder / name).iterdir())) == len(DATASET_FILES) for name in left)
