"""One machine whose launcher, or a part of it, is killed."""

from __future__ import annotations

import os
import signal

import pytest

from api.client.installation import birth
from tests.fixtures.one_machine import SMALL, Machine, machine, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
__all__ = ["machine"]


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
