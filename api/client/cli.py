"""The `distill` command line: the client verbs talk HTTP only; `up` runs the whole service on this machine."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from api.client import dataset_verbs, display, fleet_verbs, service_verbs, upload_verbs
from api.client.archive import download_job
from api.client.connection import Json
from api.client.errors import ClientError, LauncherError, UsageError
from api.client.http import DistillClient
from api.client.job_request import job_request, retry_request
from api.client.rows import job_facts, job_row, method_row
from api.client.session import Session

app = typer.Typer(
    name="distill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turn a training set into a tiny synthetic one. Start a service with `distill up`, then `distill submit`.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as `submit` and `list` show it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"distill {importlib.metadata.version('distill-service')}")
        raise typer.Exit


@app.callback()
def _options(
    url: Annotated[str, typer.Option(help="Where the service is; default: DISTILL_URL, else http://127.0.0.1:8000.")] = "",
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    Session.url = url


@app.command()
def submit(
    spec: Annotated[
        str, typer.Argument(metavar="FILE", help="Job specification as JSON; `-` reads standard input. Options override it.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="Name or id of a data set (`distill datasets`).")] = "",
    ipc: Annotated[int | None, typer.Option(help="Synthetic images per class.")] = None,
    recipe: Annotated[str, typer.Option(help="Published method to follow (`distill methods`).")] = "",
    scale: Annotated[str, typer.Option(help="`paper`, or `small` for at most minutes on two CPU cores.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Updates of the synthetic set: method.num_iterations.")] = None,
    priority: Annotated[str, typer.Option(help="high, normal or low.")] = "",
    gpus: Annotated[int | None, typer.Option(help="GPUs to use; 0 runs on the CPU.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Tag of the job; repeatable.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Any field, e.g. method.network.width=32; JSON or text; repeatable."
        ),
    ] = None,
    idempotency_key: Annotated[str, typer.Option(help="Submitting again with the same key makes no second job.")] = "",
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Print the resolved specification and an estimate; create nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job: from a file, from options, or both.

    Example: distill submit --dataset digits --ipc 1 --recipe dm --iterations 300 --watch
    """
    named = "dataset.id" if dataset.startswith("ds_") else "dataset.name"
    given = {
        named: dataset or None, "ipc": ipc, "recipe": recipe or None, "scale": scale or None, "seed": seed,
        "method.num_iterations": iterations, "priority": priority or None, "resources.gpus": gpus,
    }
    request = job_request(spec, given, assignments=assign or (), tags=tag or ())
    with Session.client() as client:
        if validate_only:
            display.print_json(Session.out(), client.validate(request))
            return
        job = client.submit(request, idempotency_key=idempotency_key)
        _show_submitted(client, job, watch=watch, as_json=as_json)


def _show_submitted(client: DistillClient, job: Json, *, watch: bool, as_json: bool) -> None:
    out = Session.out()
    if watch:
        if not as_json:
            out.print(f"submitted {job['id']}")
        _watch(client, job["id"], as_json=as_json)
    elif as_json:
        display.print_json(out, job)
    else:
        out.print(job["id"] if not out.is_terminal else f"submitted {job['id']}\nfollow it with: distill watch {job['id']}")


@app.command()
def watch(
    job: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per event, then the job.")] = False,
) -> None:
    """Follow a job until it ends. Exit code: 0 succeeded, 1 failed or cancelled, 130 after Ctrl-C (the job goes on)."""
    with Session.client() as client:
        _watch(client, job, as_json=as_json)


def _watch(client: DistillClient, job_id: str, *, as_json: bool) -> NoReturn:
    out, err = Session.out(), Session.err()
    try:
        if as_json:
            job = display.follow(client, job_id, out, on_event=lambda event: display.print_json(out, event, indent=None))
            display.print_json(out, job, indent=None)
            raise typer.Exit(0 if job["state"] == "succeeded" else 1)
        job = display.follow(client, job_id, out)
    except KeyboardInterrupt:
        err.print(f"\nstopped watching; {job_id} goes on")
        err.print(f"  distill watch {job_id}   watches it again\n  distill cancel {job_id}  stops it")
        raise typer.Exit(130) from None
    code = display.print_outcome(job, out, err)
    if code == 0 and out.is_terminal:
        out.print(f"download it with: distill download {job_id}")
    raise typer.Exit(code)


@app.command("list")
def list_jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; repeatable.")] = None,
    kind: Annotated[str, typer.Option(help="Only this kind: distillation, experts, evaluation, ingest or probe.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    out = Session.out()
    with Session.client() as client:
        found = list(client.jobs(states=state or (), kind=kind, limit=limit + 1))
    display.print_listing(
        out, found[:limit], ("job", "state", "recipe", "data set", "ipc", "done", "created"), job_row, as_json=as_json,
        empty="no jobs yet; submit one with: distill submit --dataset digits --ipc 1 --recipe dm --iterations 300",
    )
    if len(found) > limit and not as_json:
        Session.err().print(f"these are the newest {limit}; for more: --limit NUMBER")


@app.command()
def show(
    job: JobId,
    spec: Annotated[bool, typer.Option("--spec", help="Print the fully resolved specification as JSON, nothing else.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one job: state, progress, result or error."""
    out = Session.out()
    with Session.client() as client:
        found = client.job(job)
        files = client.artifacts(job) if found["state"] == "succeeded" and not (spec or as_json) else []
    if spec or as_json:
        display.print_json(out, found["spec"] if spec else found)
        return
    for name, value in job_facts(found):
        if value:
            out.print(f"{name:<10} {value}")
    display.print_scores(found, out)
    if files:
        display.print_table(out, ("file", "kind", "bytes"), [(f["name"], f["kind"], str(f["size_bytes"])) for f in files])


@app.command()
def logs(
    job: JobId,
    attempt: Annotated[int | None, typer.Option(min=1, help="Of this attempt; default: the newest that has ended.")] = None,
    tail: Annotated[int | None, typer.Option(min=1, max=10_000, help="Only so many lines from the end.")] = None,
) -> None:
    """Print what the process of an ended attempt wrote: its last mebibyte."""
    with Session.client() as client:
        text = client.attempt_log(job, attempt=attempt, tail=tail)
    display.print_text(Session.out(), text)


@app.command()
def delete(job: JobId) -> None:
    """Delete a job that is over, with everything it made and the jobs that evaluated its set."""
    with Session.client() as client:
        client.delete(job)
    Session.out().print(f"{job} is deleted")


@app.command()
def cancel(job: JobId, as_json: AsJson = False) -> None:
    """Cancel a job. One that runs is stopped by its worker within seconds."""
    with Session.client() as client:
        display.print_state(Session.out(), client.cancel(job), as_json=as_json)


@app.command()
def retry(
    job: JobId,
    seed: Annotated[int | None, typer.Option(help="Another seed.")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field, e.g. method.num_iterations=600; repeatable."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the new job until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job that is over once more, as a new job with the same specification or with changes to it."""
    changes = retry_request({"seed": seed}, assign or ())
    with Session.client() as client:
        _show_submitted(client, client.retry(job, changes), watch=watch, as_json=as_json)


@app.command()
def download(
    job: JobId,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder; default: the job's id.")] = None,
    kind: Annotated[str, typer.Option(help="Only files of this kind (`distill show` lists them).")] = "",
    as_json: AsJson = False,
) -> None:
    """Download the files of a job.

    Each is checked against its SHA-256, and `images.zip` is unpacked too. A download
    that was cut continues where it stopped when the command is repeated.
    """
    folder = output or Path(job)
    with Session.client() as client:
        paths = download_job(client, job, folder, kind=kind)
    if as_json:
        display.print_json(Session.out(), [str(path) for path in paths])
        return
    for path in paths:
        Session.out().print(str(path))


@app.command()
def methods(name: Annotated[str, typer.Argument(help="Show this one in full.")] = "", as_json: AsJson = False) -> None:
    """List the published methods that a job can name as its recipe."""
    out = Session.out()
    with Session.client() as client:
        if name:
            display.print_json(out, client.method(name))
            return
        found = client.methods()
    display.print_listing(out, found, ("recipe", "title", "paper"), method_row, as_json=as_json)


app.add_typer(dataset_verbs.app)
app.add_typer(upload_verbs.app)
app.add_typer(fleet_verbs.app)
app.add_typer(service_verbs.app)


def main() -> None:
    """Entry point: expected errors become one line and an exit code, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    err = Session.err()
    try:
        app()
    except UsageError as error:
        err.print(f"error: {error}")
        sys.exit(2)
    except ClientError as error:
        display.print_error(error, err)
        sys.exit(1)
    except LauncherError as error:
        err.print(f"error: {error}")
        sys.exit(1)
    except OSError as error:
        err.print(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        sys.exit(1)
