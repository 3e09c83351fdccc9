"""Inputs that are fetched while somebody wants them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from worker.host import Host
from worker.inputs import UnwantedError, unless_unwanted

pytestmark = pytest.mark.unit


def test_what_is_fetched_and_what_goes_wrong_reach_the_caller() -> None:
    assert unless_unwanted(lambda: "name", lambda: True) == "name"

    def fails() -> str:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        unless_unwanted(fails, lambda: False)


def test_a_fetch_that_hangs_is_left_when_it_is_not_wanted_any_more() -> None:
    release, looks = threading.Event(), iter([False, False, True])
    with pytest.raises(UnwantedError):
        unless_unwanted(release.wait, lambda: next(looks))
    release.set()


def test_a_fetch_that_goes_on_does_not_keep_its_folder(tmp_path: Path) -> None:
    """It writes one file after another, as the parts of an upload come, until the folder is gone."""
    for number in range(5):
        folder = tmp_path / f"job-{number}"
        folder.mkdir()
        (folder / "upload").write_bytes(bytes(64 << 20))  # takes a moment to remove
        begun, gone = threading.Event(), threading.Event()

        def fetch(folder: Path = folder, begun: threading.Event = begun, gone: threading.Event = gone) -> None:
            try:
                while True:
                    (folder / ".part").write_bytes(bytes(1000))
                    (folder / ".part").replace(folder / "part")
                    (folder / "part").unlink()
                    begun.set()
            except FileNotFoundError:
                gone.set()

        threading.Thread(target=fetch, daemon=True).start()
        assert begun.wait(10)
        Host.discard(folder)
        assert gone.wait(10)
        assert list(tmp_path.iterdir()) == []
    Host.discard(tmp_path / "job-0")
