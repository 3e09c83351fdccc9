"""The verbs of `distill` for whoever keeps a service running: who works, what waits, and letting a worker go."""

from __future__ import annotations

from typing import Annotated

import typer

from api.client import display
from api.client.rows import queue_row, worker_row
from api.client.session import Session

app = typer.Typer(add_completion=False, rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@app.command()
def workers(as_json: AsJson = False) -> None:
    """List the workers, what they serve and what they do."""
    with Session.client() as client:
        found = client.workers()
    display.print_listing(
        Session.out(), found, ("worker", "state", "host", "queues", "GPUs", "job", "last heard"), worker_row, as_json=as_json,
        empty="no worker has ever started; start one with: distill worker",
    )


@app.command()
def queues(as_json: AsJson = False) -> None:
    """List the queues: how many jobs wait, for how long, how many run, and how many workers serve them."""
    with Session.client() as client:
        found = client.queues()
    columns = ("queue", "waiting", "not due yet", "oldest waits", "running", "workers")
    display.print_listing(Session.out(), found, columns, queue_row, as_json=as_json)


@app.command()
def drain(
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Id of the worker, as `workers` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Let a worker save its job, hand it back and take no more, for example before its machine is switched off."""
    with Session.client() as client:
        found = client.drain(worker)
    display.print_state(Session.out(), found, as_json=as_json, more="; it hears of this with its next heartbeat")
