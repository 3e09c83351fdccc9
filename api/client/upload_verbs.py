"""The verbs of `distill uploads`: what was begun and not finished, and giving it up."""

from __future__ import annotations

from typing import Annotated

import typer

from api.client import display
from api.client.rows import upload_row
from api.client.session import Session

app = typer.Typer(
    name="uploads", add_completion=False, rich_markup_mode=None, help="List the uploads that are open, and give one up."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@app.callback(invoke_without_command=True)
def uploads(
    context: typer.Context,
    complete: Annotated[
        bool, typer.Option("--complete", help="Also complete ones whose bytes are still kept.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the uploads that are open, newest first: a service takes so many at a time and no more.

    `distill datasets upload` with the same files goes on with one.
    """
    if context.invoked_subcommand is not None:
        return
    with Session.client() as client:
        found = client.uploads(states=["open", "complete"] if complete else ["open"])
    kept = [each for each in found if not each["ended_at"]]
    columns = ("upload", "state", "file", "received", "expires")
    display.print_listing(Session.out(), kept, columns, upload_row, as_json=as_json, empty="no uploads are open")


@app.command()
def cancel(
    upload: Annotated[str, typer.Argument(metavar="UPLOAD", help="Id of the upload, as `uploads` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Give an upload up. What was sent of it is deleted."""
    with Session.client() as client:
        display.print_state(Session.out(), client.cancel_upload(upload), as_json=as_json)
