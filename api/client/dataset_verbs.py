"""The verbs of `distill datasets`: what can be distilled, and adding to it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from api.client import display
from api.client.connection import Json
from api.client.errors import UsageError
from api.client.http import DistillClient
from api.client.packing import Package, packed
from api.client.rows import dataset_facts, dataset_row
from api.client.session import Session

app = typer.Typer(
    name="datasets", add_completion=False, rich_markup_mode=None, help="List the data sets, and make one of your own files."
)

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="Name of a built-in set, or id of one of yours.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@app.callback(invoke_without_command=True)
def datasets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the data sets that a job can name: yours, newest first, then the built-in ones."""
    if context.invoked_subcommand is not None:
        return
    with Session.client() as client:
        found = client.datasets()
    columns = ("data set", "title", "state", "shape", "classes", "training images", "verified")
    display.print_listing(Session.out(), found, columns, dataset_row, as_json=as_json)


@app.command()
def show(dataset: DatasetName, as_json: AsJson = False) -> None:
    """Show one data set: its classes and counts, what was done to its images, or why its files were refused."""
    out = Session.out()
    with Session.client() as client:
        found = client.dataset(dataset)
    if as_json:
        display.print_json(out, found)
        return
    for name, value in dataset_facts(found):
        if value:
            out.print(f"{name:<12} {value}")


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of class folders, or an archive or array file.")],
    name: Annotated[str, typer.Option(help="What to call it; default: the name of the file or folder.")] = "",
    file_format: Annotated[
        str, typer.Option("--format", help="What it holds, for example imagefolder_zip; default: looked at and guessed.")
    ] = "",
    size: Annotated[int | None, typer.Option(min=8, max=224, help="Height and width of the images in pixels.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Keep the whole image, with bars, instead of its centre.")] = False,
    colour: Annotated[str, typer.Option(help="auto, grey or rgb; default: auto, which is grey where every image is.")] = "",
    max_corrupt: Annotated[int | None, typer.Option(min=0, help="So many unreadable images are left out.")] = None,
    no_mirror: Annotated[
        bool, typer.Option("--no-mirror", help="A mirrored image shows another class, as with letters: never flip.")
    ] = False,
    test_fraction: Annotated[
        float | None, typer.Option(help="Part of every class to test with where no split is named; default: 0.2.")
    ] = None,
    split_seed: Annotated[int | None, typer.Option(min=0, help="Decides which images these are.")] = None,
    image_column: Annotated[str, typer.Option(help="Column of a parquet file with the image; default: image.")] = "",
    label_column: Annotated[str, typer.Option(help="Column or key with the class; default: label.")] = "",
    file_column: Annotated[str, typer.Option(help="Column of labels.csv that names the image; default: file.")] = "",
    parallel: Annotated[int, typer.Option(min=1, max=16, help="Parts that are sent at the same time.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Upload files and make a data set of them. An upload that was cut continues when the command is repeated.

    Example: distill datasets upload ./shoes --name shoes
    """
    title = name or path.resolve().name
    given: dict[str, Any] = {
        "size": size, "resize": "fit" if fit else None, "colour": colour or None, "max_corrupt": max_corrupt,
        "mirrored": False if no_mirror else None, "test_fraction": test_fraction, "split_seed": split_seed,
        "image_column": image_column or None, "label_column": label_column or None, "file_column": file_column or None,
    }
    conversion = {key: value for key, value in given.items() if value is not None}
    out = Session.out()
    with Session.client() as client:
        check = partial(client.validate_dataset, name=title, conversion=conversion)  # a refusal is not to cost an upload
        with packed(path, file_format, check) as package:
            with display.transfers(out, quiet=as_json) as bar:
                uploaded = _sent(client, package, bar, parallel)
            found = client.register_dataset(uploaded["id"], name=title, file_format=package.format, conversion=conversion)
        try:
            if not as_json:
                reading = "is read as soon as a worker is free; Ctrl-C only stops waiting"
                out.print(f"uploaded; {found['id']} {reading if found['state'] == 'validating' else 'is there already'}")
            client.wait(found["links"]["job"].rpartition("/")[2])
        except KeyboardInterrupt:
            Session.err().print(f"\nstopped waiting; see what became of it with: distill datasets show {found['id']}")
            raise typer.Exit(130) from None
        found = client.dataset(found["id"])
    _print_made(found, as_json=as_json)


def _sent(client: DistillClient, package: Package, bar: Callable[[str], Callable[[int, int], None]], parallel: int) -> Json:
    try:
        return client.upload(
            package.path, filename=package.filename, on_hashing=bar("reading"), on_progress=bar("uploading"), parallel=parallel
        )
    except KeyboardInterrupt:
        Session.err().print("\nstopped; the same command goes on where it was (`distill uploads` lists what was begun)")
        raise typer.Exit(130) from None


def _print_made(found: Json, *, as_json: bool) -> None:
    out, err = Session.out(), Session.err()
    if as_json:
        display.print_json(out, found)
    elif found["state"] == "ready":
        for name, value in dataset_facts(found):
            if value:
                out.print(f"{name:<12} {value}")
        ipc = min(10, *found["train_per_class"])
        out.print(f"distil it with: distill submit --dataset {found['id']} --ipc {ipc} --recipe dm --scale small --watch")
    else:
        what = {"rejected": "the files were refused", "cancelled": "reading the files was cancelled"}
        err.print(f"error: {what.get(found['state'], 'the files could not be read')}")
        for problem in found["problems"]:
            err.print(f"  {problem['member'] + ': ' if problem.get('member') else ''}{problem['message']} ({problem['code']})")
        if any("max_corrupt" in problem["message"] for problem in found["problems"]):
            err.print("leave such images out with: --max-corrupt NUMBER")
    raise typer.Exit(0 if found["state"] == "ready" else 1)


@app.command()
def inspect(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of one of your data sets.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the images.")],
    split: Annotated[str, typer.Option(help="train or test; default: both.")] = "",
    class_name: Annotated[str, typer.Option("--class", help="Only of this class.")] = "",
    number: Annotated[int, typer.Option("-n", min=1, max=64, help="At most so many images.")] = 20,
) -> None:
    """Write samples of a data set as PNG files: SPLIT-LABEL-NUMBER.png, with the label as a number."""
    with Session.client() as client:
        found = client.samples(dataset, split=split, class_name=class_name, count=number)
    if not found:
        raise UsageError("there is no such sample")
    output.mkdir(parents=True, exist_ok=True)
    for number_, sample in enumerate(found):
        path = output / f"{sample['split']}-{int(sample['label']):04d}-{number_:02d}.png"
        path.write_bytes(base64.b64decode(sample["png"]))
        Session.out().print(f"{path}  {sample['class_name']}")


@app.command()
def delete(dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of one of your data sets.")]) -> None:
    """Delete a data set that no unfinished job reads. Jobs that have distilled it stay."""
    with Session.client() as client:
        client.delete_dataset(dataset)
    Session.out().print(f"{dataset} is deleted")
