"""The `distill` command line: the client verbs talk HTTP only; `up` runs the whole service on this machine."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from api.client import display
from api.client.archive import download_job
from api.client.demo import DEMO_DATASET, run_demo
from api.client.http import ClientError, DistillClient, Json
from api.client.launcher import LauncherError, up

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


class UsageError(Exception):
    """What was typed cannot be meant; the exit code is 2."""


class _Session:
    """What the options before the verb decide."""

    url = ""

    @staticmethod
    def client() -> DistillClient:
        return DistillClient(_Session.url)

    @staticmethod
    def out() -> Console:
        return display.console()

    @staticmethod
    def err() -> Console:
        return display.console(stderr=True)


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
    _Session.url = url


@app.command()
def submit(
    spec: Annotated[
        str, typer.Argument(metavar="FILE", help="Job specification as JSON; `-` reads standard input. Options override it.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="Name of a data set (`distill datasets`).")] = "",
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
        bool, typer.Option("--validate-only", help="Print the resolved specification; create nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job: from a file, from options, or both.

    Example: distill submit --dataset digits --ipc 1 --recipe dm --iterations 300 --watch
    """
    request = _read_spec(spec) if spec else {}
    given: list[tuple[str, Any]] = [
        ("dataset.name", dataset or None), ("ipc", ipc), ("recipe", recipe or None), ("scale", scale or None), ("seed", seed),
        ("method.num_iterations", iterations), ("priority", priority or None), ("resources.gpus", gpus),
    ]
    for path, value in [pair for pair in given if pair[1] is not None] + [_assignment(text) for text in assign or []]:
        _put(request, path, value)
    for text in tag or []:
        key, found, value = text.partition("=")
        if not found:
            raise UsageError(f"--tag {text!r}: write KEY=VALUE")
        request["tags"] = {**request.get("tags", {}), key: value}
    if not request:
        raise UsageError("nothing to submit: name a FILE, or at least --dataset, --ipc and --recipe")
    out = _Session.out()
    with _Session.client() as client:
        if validate_only:
            display.print_json(out, client.validate(request))
            return
        job = client.submit(request, idempotency_key=idempotency_key)
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
    with _Session.client() as client:
        _watch(client, job, as_json=as_json)


def _watch(client: DistillClient, job_id: str, *, as_json: bool) -> NoReturn:
    out, err = _Session.out(), _Session.err()
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
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    out = _Session.out()
    with _Session.client() as client:
        found = list(client.jobs(states=state or (), limit=limit))
    if as_json:
        display.print_json(out, found)
    elif found or not out.is_terminal:
        columns = ("job", "state", "recipe", "data set", "ipc", "done", "created")
        display.print_table(out, columns, [_job_row(job) for job in found])
    else:
        out.print("no jobs yet; submit one with: distill submit --dataset digits --ipc 1 --recipe dm --iterations 300")


@app.command()
def show(
    job: JobId,
    spec: Annotated[bool, typer.Option("--spec", help="Print the fully resolved specification as JSON, nothing else.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one job: state, progress, result or error."""
    out = _Session.out()
    with _Session.client() as client:
        found = client.job(job)
        files = client.artifacts(job) if found["state"] == "succeeded" and not (spec or as_json) else []
    if spec or as_json:
        display.print_json(out, found["spec"] if spec else found)
        return
    for name, value in _facts(found):
        if value:
            out.print(f"{name:<10} {value}")
    display.print_scores(found, out)
    if files:
        display.print_table(out, ("file", "kind", "bytes"), [(f["name"], f["kind"], str(f["size_bytes"])) for f in files])


@app.command()
def cancel(job: JobId, as_json: AsJson = False) -> None:
    """Cancel a job. One that runs is stopped by its worker within seconds."""
    with _Session.client() as client:
        found = client.cancel(job)
    if as_json:
        display.print_json(_Session.out(), found)
    else:
        _Session.out().print(f"{found['id']} is {found['state']}")


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
    with _Session.client() as client:
        paths = download_job(client, job, folder, kind=kind)
    if as_json:
        display.print_json(_Session.out(), [str(path) for path in paths])
        return
    for path in paths:
        _Session.out().print(str(path))


@app.command()
def methods(name: Annotated[str, typer.Argument(help="Show this one in full.")] = "", as_json: AsJson = False) -> None:
    """List the published methods that a job can name as its recipe."""
    out = _Session.out()
    with _Session.client() as client:
        if name:
            display.print_json(out, client.method(name))
            return
        found = client.methods()
    if as_json:
        display.print_json(out, found)
    else:
        rows = [(str(m["name"]), str(m.get("title", "")), str(m.get("paper", ""))) for m in found]
        display.print_table(out, ("recipe", "title", "paper"), rows)


@app.command()
def datasets(name: Annotated[str, typer.Argument(help="Show this one in full.")] = "", as_json: AsJson = False) -> None:
    """List the data sets that a job can name."""
    out = _Session.out()
    with _Session.client() as client:
        if name:
            display.print_json(out, client.dataset(name))
            return
        found = client.datasets()
    if as_json:
        display.print_json(out, found)
    else:
        display.print_table(out, ("data set", "title", "shape", "classes", "training images"), [_dataset_row(d) for d in found])


@app.command("up")
def up_command(
    port: Annotated[int, typer.Option(help="Port of the API; 0 takes any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="A loopback address: without keys it serves this machine only.")] = "127.0.0.1",
    home: Annotated[Path | None, typer.Option(help="Folder for everything; default: DISTILL_HOME, else ~/.distill.")] = None,
) -> None:
    """Run the whole service on this machine.

    Broker, API, worker and reconciler run as child processes in one folder until Ctrl-C; a part that dies is started again.
    """
    out = _Session.out()
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
    raise typer.Exit(run_demo(dataset=dataset, ipc=ipc, output=output, out=_Session.out(), err=_Session.err()))


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


def _read_spec(source: str) -> Json:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=refuse)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{'standard input' if source == '-' else source} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{source} holds no JSON object")
    return value


def _assignment(text: str) -> tuple[str, Any]:
    path, found, raw = text.partition("=")
    if not found or not all(path.split(".")):
        raise UsageError(f"--set {text!r}: write PATH=VALUE, for example method.network.width=32")
    try:
        return path, json.loads(raw)
    except ValueError:
        return path, raw


def _put(tree: Json, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{path}: {key!r} holds a value, not an object")
    tree[last] = value


def _job_row(job: Json) -> tuple[str, ...]:
    fraction = (job.get("progress") or {}).get("fraction")
    done = f"{100 * fraction:.0f} %" if fraction is not None and job["state"] == "running" else ""
    dataset = job.get("dataset")
    name = dataset.get("name", "") if isinstance(dataset, dict) else dataset
    created = display.local_time(job.get("created_at"))
    return (job["id"], job["state"], str(job.get("recipe") or "-"), str(name or ""), str(job.get("ipc", "")), done, created)


def _facts(job: Json) -> list[tuple[str, str]]:
    _, _, recipe, dataset, ipc, _, created = _job_row(job)
    progress, durations = job.get("progress") or {}, job.get("durations") or {}
    step = f"{progress.get('phase')} {progress.get('step')}/{progress.get('total_steps')}" if progress else ""
    left = display.duration(progress.get("eta_seconds"))
    reason, error = job.get("state_reason") or {}, job.get("error") or {}
    return [
        ("job", job["id"]),
        ("state", job["state"] + (f" ({reason['message']})" if reason.get("message") else "")),
        ("job spec", f"{recipe} on {dataset}, {ipc} per class, seed {job.get('seed', 0)}"),
        ("progress", (step + (f", {left} left" if left else "")) if job["state"] == "running" else ""),
        ("attempt", f"{job.get('attempt')} ({job.get('failures', 0)} of at most {job.get('max_attempts')} ended badly)"),
        ("created", created),
        ("queued for", display.duration(durations.get("queued"))),
        ("ran for", display.duration(durations.get("running"))),
        ("tags", ", ".join(f"{key}={value}" for key, value in (job.get("tags") or {}).items())),
        ("error", f"{error.get('message')} ({error.get('code')})" if error else ""),
    ]


def _dataset_row(dataset: Json) -> tuple[str, ...]:
    shape = dataset.get("shape") or [dataset.get(key, "?") for key in ("channels", "height", "width")]
    classes, train = dataset.get("classes", ()), dataset.get("train_per_class")
    return (
        str(dataset["name"]), str(dataset.get("title", "")), "x".join(str(side) for side in shape),
        str(len(classes) if isinstance(classes, list) else classes),
        f"{sum(train):,}" if isinstance(train, list) else str(dataset.get("num_train", "")),
    )


def main() -> None:
    """Entry point: expected errors become one line and an exit code, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    err = _Session.err()
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
