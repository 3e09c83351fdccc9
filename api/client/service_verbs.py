"""The verbs of `distill` that run a service on this machine, or a part of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from api.client import display
from api.client.demo import DEMO_DATASET, run_demo
from api.client.launcher import up

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("up")
def up_command(
    port: Annotated[int, typer.Option(help="Port of the API; 0 takes any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="A loopback address: without keys it serves this machine only.")] = "127.0.0.1",
    home: Annotated[Path | None, typer.Option(help="Folder for everything; default: DISTILL_HOME, else ~/.distill.")] = None,
) -> None:
    """Run the whole service on this machine.

    Broker, API, worker and reconciler run as child processes in one folder until Ctrl-C; a part that dies is started again.
    """
    out = display.console()
    up(port=port, host=host, home=home, say=out.print)


@app.command()
def demo(
    dataset: Annotated[str, typer.Option(help="Name of a data set.")] = DEMO_DATASET,
    ipc: Annotated[int, typer.Option(min=1, help="Synthetic images per class.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo-output"),
) -> None:
    """Run one job from start to finish.

    Starts a service of its own, distils a data set on the CPU, downloads the result and stops the service again.
    """
    raise typer.Exit(run_demo(dataset=dataset, ipc=ipc, output=output, out=display.console(), err=display.console(stderr=True)))


_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASS_ON)
def worker(context: typer.Context) -> None:
    """Run a worker of an existing service."""
    _become("worker", context.args)


@app.command(context_settings=_PASS_ON)
def migrate(context: typer.Context) -> None:
    """Bring the database up to date."""
    _become("migrations", context.args)


def _become(module: str, arguments: Sequence[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
