"""What a person sees: progress bars, tables and the line of an error. Plain lines where the output is no terminal."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from api.client.connection import Json
from api.client.errors import ClientError
from api.client.following import TERMINAL_STATES
from api.client.http import DistillClient

SCORE_NAMES = {
    "distilled": "distilled set",
    "distilled_8bit": "distilled set, as 8-bit images",
    "random": "random real images, same budget",
}
_LINE_SECONDS = 10.0
"""Shortest time between two progress lines where the output is no terminal."""

_IDLE_SECONDS = 1.0


def console(*, stderr: bool = False) -> Console:
    """A console that never interprets what a server sent as markup, and never wraps where it is not a terminal."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_json(out: Console, value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON, for scripts."""
    out.file.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    out.file.flush()


def print_state(out: Console, found: Json, *, as_json: bool, more: str = "") -> None:
    """What has become of a job or worker, as JSON or as a sentence."""
    if as_json:
        print_json(out, found)
    else:
        out.print(f"{found['id']} is {found['state']}{more}")


def print_text(out: Console, text: str) -> None:
    """Text of unknown origin: as it is for a file or a pipe, without what controls a terminal on one."""
    if out.is_terminal:
        out.file.write("".join(each for each in text if each.isprintable() or each in "\n\t"))
    else:
        typer.echo(text.encode(), nl=False)


def print_error(error: ClientError, err: Console) -> None:
    """One line, and one for each field that was refused."""
    err.print(f"error: {error.message}", style="red" if err.is_terminal else None)
    for pointer, message in error.problems:
        if error.message == f"{pointer}: {message}":
            continue
        if message != error.message:
            err.print(f"  {pointer or '/'}: {message}")
        elif pointer:
            err.print(f"  at {pointer}")


def print_table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """A table on a terminal; tab-separated lines with a header elsewhere, so that nothing is cut off."""
    if not out.is_terminal:
        for row in (columns, *rows):  # past rich, which would expand the tabs
            out.file.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table, soft_wrap=False)


def print_listing(
    out: Console, found: Sequence[Json], columns: Sequence[str], row: Callable[[Json], Sequence[str]], *, as_json: bool,
    empty: str = "",
) -> None:
    """What was found, as JSON or as a table; on a terminal `empty`, where given, stands for a table without rows."""
    if as_json:
        print_json(out, found)
    elif empty and not found and out.is_terminal:
        out.print(empty)
    else:
        print_table(out, columns, [row(item) for item in found])


def scores(job: Json) -> list[Json]:
    """The accuracies in a job's result, or an empty list."""
    summary = (job.get("result") or {}).get("summary") or {}
    found = summary.get("scores") or []
    if isinstance(found, dict):
        found = [{"name": name, **score} for name, score in found.items()]
    return [score for score in found if isinstance(score, dict)]


def print_scores(job: Json, out: Console) -> None:
    """The accuracy table: the distilled set beside random selection at the same budget."""
    rows = []
    for score in scores(job):
        name = str(score.get("name"))
        n, sets = score.get("n", 0), score.get("num_sets", 1)
        trained = f"{n} network{'s' if n != 1 else ''}" + (f", {sets} sets" if sets != 1 else "")
        accuracy = f"{100 * score['mean']:.1f} %" + (f" +/- {100 * score['std']:.1f}" if n > 1 else "")
        rows.append((SCORE_NAMES.get(name, name), accuracy, trained, str(score.get("network", ""))))
    if rows:
        print_table(out, ("trained on", "test accuracy", "n", "network"), rows)


def duration(seconds: float | None) -> str:
    """Seconds as a person writes them: `0:07`, `12:30`, `3:04:05`."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def local_time(stamp: str | None) -> str:
    """An RFC 3339 time as the clock on this wall shows it."""
    if not stamp:
        return ""
    try:
        return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return stamp


def rate(seconds_per_step: float | None) -> str:
    """Speed in the unit that gives a number above one."""
    if not seconds_per_step or seconds_per_step <= 0:
        return ""
    return f"{1 / seconds_per_step:.1f}/s" if seconds_per_step < 1 else f"{seconds_per_step:.1f} s each"


@contextlib.contextmanager
def transfers(out: Console, *, quiet: bool = False) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Show how many bytes have gone: bars on a terminal, a line now and then elsewhere, nothing when quiet.

    Yields what makes, of the name of a bar, something that is to be told the bytes done and the bytes in all.
    """
    bars = Progress(
        TextColumn("{task.description:<12}"), BarColumn(bar_width=36), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(), console=out, disable=quiet or not out.is_terminal,
    )

    def bar(what: str) -> Callable[[int, int], None]:
        task: TaskID | None = None
        said = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal task, said
            if task is None:
                task = bars.add_task(what, total=total)
            bars.update(task, completed=done, total=total)
            if not out.is_terminal and not quiet and (done >= total or time.monotonic() - said >= _LINE_SECONDS):
                said = time.monotonic()
                out.print(f"{what} {done}/{total} bytes")

        return show

    with bars:
        yield bar


class JobView:
    """Shows one job's phases as bars on a terminal, as lines elsewhere."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._bars: dict[str, TaskID] = {}
        self._state = ""
        self._order: list[str] = []
        self._seen = (0, -1, -1)
        self._phase_began = (0.0, 0)
        self._next_line = 0.0
        self.progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=36),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[note]}"),
            console=out,
            disable=not out.is_terminal,
        )

    def job(self, job: Json) -> None:
        """Show the state and the progress of a job object."""
        attempt = int(job.get("attempt") or 0)
        self.state(str(job.get("state", "")), attempt=attempt, waiting_for=job.get("waiting_for") or ())
        if isinstance(job.get("progress"), dict) and job.get("state") == "running":
            self.step(job["progress"], attempt=attempt)

    def event(self, event: Json) -> None:
        """Show one event."""
        raw = event.get("data")
        data: Json = raw if isinstance(raw, dict) else {}
        message, attempt = str(event.get("message") or ""), int(event.get("attempt") or 0)
        match event.get("type"):
            case "job.state":
                self.state(str(data.get("state", "")), attempt=attempt, waiting_for=data.get("waiting_for") or ())
            case "job.progress":
                inner = data.get("progress")
                self.step(inner if isinstance(inner, dict) else data, attempt=attempt)
            case "attempt.ended" if event.get("level") in {"warning", "error"}:
                self.say(f"attempt {event.get('attempt')} ended: {message}")
            case "warning":
                self.say(f"warning: {message}")
            case _ if event.get("level") in {"warning", "error"}:
                self.say(f"{event['level']}: {message}")

    def state(self, state: str, *, attempt: int, waiting_for: Sequence[str] = ()) -> None:
        """Say a state once when it is entered."""
        if not state or state == self._state:
            return
        self._state = state
        if state not in TERMINAL_STATES:
            others = ", ".join(waiting_for) or "the jobs it depends on"
            texts = {"queued": "queued: waiting for a worker", "waiting": f"waiting for {others}"}
            running = "running" if attempt <= 1 else f"running, attempt {attempt}"
            self.say(running if state == "running" else texts.get(state, state))

    def step(self, progress: Json, *, attempt: int) -> None:
        """Show how far a phase is, unless something later was shown: events and the job itself come by separate ways."""
        phase = str(progress.get("phase") or "")
        step, total = int(progress.get("step") or 0), int(progress.get("total_steps") or 0)
        if not phase or total <= 0:
            return
        if phase not in self._order:
            self._order.append(phase)
        shown, now = self._seen, (attempt, self._order.index(phase), step)
        if now <= shown:
            return
        self._seen = now
        if now[:2] != shown[:2]:
            self._phase_began = (time.monotonic(), step)
        pace = progress.get("seconds_per_step") or self._own_pace(step)
        left = progress.get("eta_seconds")
        if left is None and pace:
            left = pace * (total - step)
        speed = rate(pace)
        time_left = "" if left is None else f"{duration(left)} left"
        note = "" if step >= total else "  ".join(part for part in (time_left, str(progress.get("message") or "")) if part)
        if self._out.is_terminal:
            if phase not in self._bars:
                for bar in self._bars.values():  # a phase that another one follows is complete
                    self.progress.update(bar, completed=self.progress.tasks[self.progress.task_ids.index(bar)].total, note="")
                self._bars[phase] = self.progress.add_task(phase, total=total, speed="", note="")
            self.progress.update(self._bars[phase], completed=min(step, total), total=total, speed=speed, note=note)
            return
        if now[:2] != shown[:2] or step >= total or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self.say(" ".join(part for part in (f"{phase} {step}/{total}", speed, note) if part))

    def _own_pace(self, step: int) -> float | None:
        """Seconds per step as seen from here, once enough was seen: not every phase measures itself."""
        began, first = self._phase_began
        seconds, steps = time.monotonic() - began, step - first
        return seconds / steps if steps > 0 and seconds > 2.0 else None

    def say(self, text: str) -> None:
        """A line of its own, above the bars."""
        self._out.print(text)


def follow(client: DistillClient, job_id: str, out: Console, *, on_event: Callable[[Json], None] | None = None) -> Json:
    """Show a job until it is terminal, and return it.

    With `on_event` nothing is shown: each event goes there instead.

    Raises:
        ClientError: no such job, or the service stayed away.
    """
    job = client.job(job_id)
    if job["state"] in TERMINAL_STATES and on_event is None:
        return job
    view = JobView(out)
    received: queue.SimpleQueue[Json | ClientError | None] = queue.SimpleQueue()
    trouble: list[str] = []
    left = threading.Event()

    def pump() -> None:
        try:
            for event in client.stream(job_id, on_trouble=trouble.append):
                received.put(event)
            received.put(None)
        except ClientError as error:
            received.put(error)
        except RuntimeError:  # the client was closed by who watches no longer
            if not left.is_set():
                raise

    # Events arrive in a thread; progress that makes no event is read from the job itself each second.
    threading.Thread(target=pump, name=f"events-{job_id}", daemon=True).start()
    with view.progress, contextlib.ExitStack() as stack:
        stack.callback(left.set)
        interrupted, next_look = False, 0.0
        while True:
            try:
                item = received.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                if on_event is None and trouble and not interrupted:
                    interrupted = True
                    view.say(f"{trouble[-1]}; trying again")
            else:
                if item is None:
                    break
                if isinstance(item, ClientError):
                    raise item
                interrupted = False
                trouble.clear()
                (on_event or view.event)(item)
                if item.get("type") == "job.progress":
                    next_look = time.monotonic() + _IDLE_SECONDS
            if on_event is None and time.monotonic() >= next_look:
                next_look = time.monotonic() + _IDLE_SECONDS
                _look(client, job_id, view)
    return client.job(job_id)


def _look(client: DistillClient, job_id: str, view: JobView) -> None:
    try:
        view.job(client.job(job_id))
    except ClientError as error:
        if not error.retryable:
            raise


def print_outcome(job: Json, out: Console, err: Console) -> int:
    """Say how a terminal job ended; returns the exit code: 0 for success."""
    took = duration((job.get("durations") or {}).get("running"))
    if job["state"] == "succeeded":
        out.print(f"{job['id']} succeeded" + (f" after {took}" if took else ""))
        print_scores(job, out)
        return 0
    if job["state"] == "cancelled":
        err.print(f"{job['id']} was cancelled")
        return 1
    error = job.get("error") or {}
    why = error.get("message") or "no reason was recorded"
    err.print(f"{job['id']} {job['state']}: {why} ({error.get('code', 'unknown')})")
    return 1
