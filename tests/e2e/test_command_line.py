"""The `distill` command on one machine: up, submit, watch, download, a killed launcher, and the demo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.client.installation import birth
from tests.fixtures.service import FAST, ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MAIN = [sys.executable, "-c", "from api.client.cli import main; main()"]
SMALL = [
    "--dataset", "digits", "--ipc", "1", "--recipe", "dm", "--scale", "small", "--set", "evaluation.num_eval=2",
    "--set", "evaluation.num_epochs=100", "--set", "evaluation.random_draws=2",
]


class Machine:
    """A home, and the commands that run in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISTILL_")}
        self.env = kept | FAST | {"DISTILL_HOME": str(home), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        self.launchers: list[subprocess.Popen[str]] = []

    def distill(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAIN, *arguments], env=self.env, cwd=self.home.parent, capture_output=True, text=True, check=False, timeout=400
        )

    def up(self) -> subprocess.Popen[str]:
        """Start a service and wait until it says that it is ready."""
        process = subprocess.Popen(
            [*MAIN, "up", "--port", "0"], env=self.env, cwd=self.home.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )
        self.launchers.append(process)
        assert process.stdout is not None
        said = ""
        while "Ctrl-C stops" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        found = re.search(r"ready at (http://\S+)", said)
        assert found is not None
        self.env["DISTILL_URL"] = found[1]
        return process

    def parts(self) -> dict[str, int]:
        """Process id of each part."""
        return {part["name"]: part["pid"] for part in json.loads((self.home / "run" / "parts.json").read_text())}

    def job(self, job_id: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.distill("show", job_id, "--json").stdout)
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "home")
    yield machine
    for process in machine.launchers:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)


def test_up_submit_watch_download_and_stop(machine: Machine, tmp_path: Path) -> None:
    launcher = machine.up()
    parts = machine.parts()
    assert set(parts) == {"broker", "api", "worker", "reconciler"}

    watched = machine.distill("submit", *SMALL, "--watch")
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert re.search(r"^distilling 300/300", watched.stdout, re.MULTILINE)
    assert re.search(r"^distilled set\t\d\d\.\d % \+/- \d+\.\d\t2 networks\t", watched.stdout, re.MULTILINE)

    listed = json.loads(machine.distill("list", "--json").stdout)
    downloaded = machine.distill("download", listed[0]["id"], "-o", "result")
    assert downloaded.returncode == 0, downloaded.stderr
    assert {"result/report.html", "result/preview.png", "result/images"} <= set(downloaded.stdout.split())
    assert len(list((tmp_path / "result" / "images").rglob("*.png"))) == 10

    keep_house(machine, listed[0]["id"])

    refused = machine.distill("submit", *SMALL, "--ipc", "9999")
    assert refused.returncode == 1
    assert "/ipc" in refused.stderr
    second = machine.distill("up", "--port", "0")
    assert second.returncode == 1
    assert f"pid {launcher.pid}" in second.stderr

    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 0
    assert not any(birth(pid) for pid in parts.values())


def keep_house(machine: Machine, job_id: str) -> None:
    """The verbs of an operator: what the worker wrote, who works, what waits; and the job goes."""
    log = machine.distill("logs", job_id)
    assert (log.returncode, log.stderr) == (0, "")
    assert len(machine.distill("logs", job_id, "--tail", "1").stdout.splitlines()) == min(1, len(log.stdout.splitlines()))
    assert machine.distill("logs", job_id, "--attempt", "9").returncode == 1
    assert json.loads(machine.distill("list", "--kind", "probe", "--json").stdout) == []
    queues = {line.split("\t")[0]: line.split("\t")[1:] for line in machine.distill("queues").stdout.splitlines()}
    assert queues["queue"] == ["waiting", "not due yet", "oldest waits", "running", "workers"]
    assert queues["cpu"] == ["0", "0", "", "0", "1"]

    (worker,) = json.loads(machine.distill("workers", "--json").stdout)
    assert worker["id"] in machine.distill("workers").stdout
    drained = machine.distill("drain", worker["id"])
    assert drained.returncode == 0, drained.stderr
    until(lambda: [w["state"] for w in json.loads(machine.distill("workers", "--json").stdout)][1:] == ["stopped"])

    assert "\tstopped\t" in machine.distill("workers").stdout

    repeated = machine.distill("retry", job_id, "--set", "method.num_iterations=100000").stdout.strip()
    assert machine.distill("delete", repeated).returncode == 1
    assert f"repeats    {job_id}" in machine.distill("show", repeated).stdout
    machine.distill("cancel", repeated)
    until(lambda: machine.job(repeated)["state"] == "cancelled")
    for each in (job_id, repeated):
        assert machine.distill("delete", each).stdout.strip() == f"{each} is deleted"
    assert json.loads(machine.distill("list", "--json").stdout) == []


def test_a_job_survives_the_launcher_being_killed(machine: Machine) -> None:
    launcher = machine.up()
    parts = machine.parts()
    job_id = machine.distill("submit", *SMALL, "--iterations", "1500").stdout.strip()
    until(lambda: machine.job(job_id)["state"] == "running")
    launcher.kill()
    launcher.communicate()
    machine.up()
    assert not any(birth(pid) for pid in parts.values())
    watched = machine.distill("watch", job_id)
    assert watched.returncode == 0, watched.stdout + watched.stderr


def test_a_part_that_is_killed_comes_back(machine: Machine) -> None:
    machine.up()
    for name in ("broker", "api", "worker", "reconciler"):
        os.kill(machine.parts()[name], signal.SIGKILL)
    until(lambda: machine.distill("list").returncode == 0)  # the client's patience may be shorter than a busy machine's start
    watched = machine.distill("submit", *SMALL, "--iterations", "1", "--watch")
    assert watched.returncode == 0, watched.stdout + watched.stderr


def test_the_demo(machine: Machine, tmp_path: Path) -> None:
    del machine.env["DISTILL_HOME"]
    done = machine.distill("demo", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = [float(number) for number in re.findall(r"\t(\d+\.\d) % \+/-", done.stdout)]
    assert len(accuracies) == 3
    assert accuracies[0] > accuracies[2] + 8  # distilled beats random by 19 +- 3 points on average
    assert (tmp_path / "out" / "digits-ipc1" / "report.html").stat().st_size > 1000
    assert not (tmp_path / "out" / "home" / "run" / "parts.json").exists()
