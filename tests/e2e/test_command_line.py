"""The `distill` command on one machine: up, submit, watch, download, and the demo."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from api.client.installation import birth
from tests.fixtures.one_machine import SMALL, Machine, machine, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
__all__ = ["machine"]


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


def test_the_demo(machine: Machine, tmp_path: Path) -> None:
    del machine.env["DISTILL_HOME"]
    done = machine.distill("demo", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = [float(number) for number in re.findall(r"\t(\d+\.\d) % \+/-", done.stdout)]
    assert len(accuracies) == 3
    assert accuracies[0] > accuracies[2] + 8  # distilled beats random by 19 +- 3 points on average
    assert (tmp_path / "out" / "digits-ipc1" / "report.html").stat().st_size > 1000
    assert not (tmp_path / "out" / "home" / "run" / "parts.json").exists()
