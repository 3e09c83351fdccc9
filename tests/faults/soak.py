"""A long run under random faults: `python -m tests.faults.soak [--out results.json]`.

Jobs (nine probes to one small distillation) go through several workers while workers are killed and the broker is emptied at
times that a seed decides. Afterwards every job has one whole result, no child process is left, and after a sweep no object is
in the store that no row names. The results file says how much of what was done, and how long a killed job waited to run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.jobs.models import Attempt, Event, Job
from core.jobs.states import State
from tests.faults.stand import LEASE_SECONDS, SLACK_SECONDS, Node, Stand, standing
from tests.fixtures import machine
from tests.fixtures.servers import s3_process
from tests.fixtures.service import QUICK


@dataclass(frozen=True)
class Plan:
    """What is run and what is done to it."""

    jobs: int = 500
    workers: int = 4
    seed: int = 0
    kill_every_seconds: float = 10.0
    """Mean time between two kills."""
    wipe_every_seconds: float = 15.0
    """Mean time between two wipes of the broker."""
    patience_seconds: float = 3600.0


@dataclass
class Outcome:
    """What came of it; the file holds these fields."""

    jobs: int
    probes: int
    distillations: int
    kills: int = 0
    kills_of_busy_workers: int = 0
    wipes: int = 0
    lost: int = 0
    """Accepted jobs without a success."""
    doubled: int = 0
    """Jobs whose success was written more than once, or that hold a file twice."""
    orphan_processes: int = 0
    orphan_objects: int = 0
    seconds: float = 0.0
    requeue_seconds_median: float | None = None
    """From a kill to the job that was hit being queued again."""
    requeue_seconds_max: float | None = None
    restart_seconds_median: float | None = None
    """From a kill to its next attempt: the job stands behind all that were queued before."""
    restart_seconds_max: float | None = None
    attempts: dict[int, int] = field(default_factory=dict)
    """How many jobs needed so many attempts."""


class Soak:
    """One run."""

    def __init__(self, stand: Stand, plan: Plan) -> None:
        self._stand = stand
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._hit: list[tuple[str, int, float]] = []
        """Job, attempt, and when its worker was killed, by the database's clock."""

    def run(self) -> Outcome:
        """Submit, disturb until every job is over, and count."""
        plan, stand = self._plan, self._stand
        begun = time.monotonic()
        nodes = [stand.host() for _ in range(plan.workers)]
        for node in nodes:
            node.start("worker", "--queues", "cpu")
        jobs = [self._submit(number) for number in range(plan.jobs)]
        distillations = sum(job["kind"] == "distillation" for job in jobs)
        outcome = Outcome(jobs=plan.jobs, probes=plan.jobs - distillations, distillations=distillations)
        self._disturb(nodes, outcome, begun + plan.patience_seconds)
        outcome.seconds = round(time.monotonic() - begun, 1)
        self._count(nodes, [job["id"] for job in jobs], outcome)
        return outcome

    def _submit(self, number: int) -> dict[str, Any]:
        if number % 10 == 9:
            return self._stand.submit(**QUICK, seed=number, max_attempts=10)
        steps = self._random.randint(1, 30)
        return self._stand.probe(steps=steps, seconds_per_step=0.05, seed=number, max_attempts=10)

    def _disturb(self, nodes: Sequence[Node], outcome: Outcome, until: float) -> None:
        now = time.monotonic()
        kill_at = now + self._wait(self._plan.kill_every_seconds)
        wipe_at = now + self._wait(self._plan.wipe_every_seconds)
        while self._open() and time.monotonic() < until:
            now = time.monotonic()
            if now >= kill_at:
                self._kill(self._random.choice(nodes), outcome)
                kill_at = now + self._wait(self._plan.kill_every_seconds)
            if now >= wipe_at:
                with self._stand.broker.client() as client:
                    client.flushall()
                outcome.wipes += 1
                wipe_at = now + self._wait(self._plan.wipe_every_seconds)
            time.sleep(0.1)

    def _wait(self, mean_seconds: float) -> float:
        return self._random.expovariate(1.0 / mean_seconds)

    def _kill(self, node: Node, outcome: Outcome) -> None:
        row = self._stand.row_of(node)
        node.kill()
        outcome.kills += 1
        if row is not None:
            held = sa.select(Job.id, Job.attempt, sa.extract("epoch", sa.func.clock_timestamp())).where(
                Job.boot_id == row["boot_id"], Job.state == State.RUNNING
            )
            with self._stand.database.read() as session:
                for job_id, attempt, at in session.execute(held):
                    outcome.kills_of_busy_workers += 1
                    self._hit.append((job_id, attempt, float(at)))
        node.start("worker", "--queues", "cpu")

    def _open(self) -> int:
        over = [state for state in State if state.terminal]
        with self._stand.database.read() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(Job).where(Job.state.not_in(over))) or 0

    def _count(self, nodes: Sequence[Node], job_ids: Sequence[str], outcome: Outcome) -> None:
        stand = self._stand
        with stand.database.read() as session:
            rows = session.execute(sa.select(Job.id, Job.state, Job.attempt)).all()
            states, tries = {row.id: row.state for row in rows}, {row.id: row.attempt for row in rows}
            successes: dict[str, int] = {}
            for job_id, data in session.execute(sa.select(Event.job_id, Event.data).where(Event.type == "job.state")):
                successes[job_id] = successes.get(job_id, 0) + (data["state"] == "succeeded")
            starts = {
                (job_id, number): started.timestamp()
                for job_id, number, started in session.execute(sa.select(Attempt.job_id, Attempt.number, Attempt.started_at))
            }
            ends = {
                (job_id, number): finished.timestamp()
                for job_id, number, finished in session.execute(sa.select(Attempt.job_id, Attempt.number, Attempt.finished_at))
                if finished is not None
            }
        outcome.lost = sum(states.get(job_id) != State.SUCCEEDED for job_id in job_ids)
        outcome.doubled = sum(successes.get(job_id, 0) > 1 for job_id in job_ids)
        for job_id in job_ids:
            if states.get(job_id) == State.SUCCEEDED:
                stand.succeeded(job_id)  # every byte, every step, one event
        waits = [starts[job_id, number + 1] - at for job_id, number, at in self._hit if (job_id, number + 1) in starts]
        if waits:
            outcome.restart_seconds_median = round(statistics.median(waits), 2)
            outcome.restart_seconds_max = round(max(waits), 2)
        lost = [ends[job_id, number] - at for job_id, number, at in self._hit if (job_id, number) in ends]
        if lost:
            outcome.requeue_seconds_median = round(statistics.median(lost), 2)
            outcome.requeue_seconds_max = round(max(lost), 2)
        for job_id in job_ids:
            outcome.attempts[tries[job_id]] = outcome.attempts.get(tries[job_id], 0) + 1
        for node in nodes:
            node.signal(signal.SIGTERM)
        for node in nodes:
            node.wait(30 + SLACK_SECONDS)
        outcome.orphan_processes = sum(len(node.children()) for node in nodes)
        with contextlib.suppress(AssertionError):  # what is left is counted
            stand.sweep()
        outcome.orphan_objects = len(stand.strays())


def describe(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What the results file holds."""
    return {"plan": asdict(plan), "hardware": machine.describe(), "lease_seconds": LEASE_SECONDS, "outcome": asdict(outcome)}


def main(arguments: list[str] | None = None) -> int:
    """Run on servers of its own; exit code 0 when nothing was lost, doubled or left."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=Plan.jobs)
    parser.add_argument("--workers", type=int, default=Plan.workers)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--out", type=Path, help="results file")
    options = parser.parse_args(arguments)
    plan = Plan(jobs=options.jobs, workers=options.workers, seed=options.seed)
    with tempfile.TemporaryDirectory(prefix="df-soak-") as folder, contextlib.contextmanager(s3_process)() as s3, \
            standing(Path(folder), s3) as stand:
        stand.prepare()
        outcome = Soak(stand, plan).run()
    text = json.dumps(describe(plan, outcome), indent=1) + "\n"
    sys.stdout.write(text)
    if options.out is not None:
        options.out.write_text(text)
    return 0 if sound(outcome) else 1


def sound(outcome: Outcome) -> bool:
    """Whether nothing was lost, doubled or left."""
    return not (outcome.lost or outcome.doubled or outcome.orphan_processes or outcome.orphan_objects)


if __name__ == "__main__":
    sys.exit(main())
