"""`distill datasets upload` and `distill uploads` against the real API: a refusal costs no upload, and what is open shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from api.client.errors import ClientError
from api.client.packing import packed
from core.jobs.database import now
from core.specs.ingest import ConversionSpec
from core.uploads.models import Upload
from tests.fixtures.uploads import begin, complete, octets, send
from tests.unit.client.installation import PART_BYTES, Installation
from tests.unit.client.test_cli import distill

pytestmark = pytest.mark.unit

Command = Callable[..., "subprocess.CompletedProcess[str]"]
CHECKED = ("POST", "/v1/datasets")


@pytest.fixture
def command(there: Installation) -> Command:
    """`distill` as a user of the installation runs it."""
    return lambda *arguments: distill(*arguments, DISTILL_URL=there.api.url, NO_COLOR="1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "animals" / name).mkdir(parents=True)
        (tmp_path / "animals" / name / "1.png").write_bytes(b"x")
    return tmp_path / "animals"


class TestChecking:
    @pytest.mark.parametrize(("options", "said"), [
        (("--colour", "purple"), "/conversion/colour"), (("--format", "rar"), "/format"), (("--name", "x" * 129), "/name"),
        (("--name", "a\nb"), "/name"), (("--max-corrupt", "1000001"), "/conversion/max_corrupt"),
        (("--test-fraction", "0.6"), "/conversion/test_fraction"), (("--split-seed", str(2**63)), "/conversion/split_seed"),
        *((("--" + name.replace("_", "-"), "x" * 129), f"/conversion/{name}") for name in (
            "file_column", "image_column", "label_column",
        )),
    ])
    @pytest.mark.parametrize("archived", [False, True])
    def test_what_is_refused_fails_before_a_byte_is_sent(
        self, there: Installation, command: Command, folder: Path, options: tuple[str, ...], said: str, archived: bool
    ) -> None:
        path = folder
        if archived:
            path = folder.with_suffix(".zip")
            with zipfile.ZipFile(path, "w") as archive:
                archive.write(folder / "cat" / "1.png", "cat/1.png")
        done = command("datasets", "upload", str(path), *options)
        assert (done.returncode, said in done.stderr, done.stdout) == (1, True, ""), done
        assert there.wire.requests == [CHECKED]
        assert there.api.http.get("/v1/uploads").json()["data"] == []

    def test_it_is_refused_before_a_folder_is_packed(
        self, there: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.client.packing._pack", lambda *_: pytest.fail("it was packed"))
        with there.client() as client, pytest.raises(ClientError, match="colour"):
            packed(folder, "", partial(client.validate_dataset, name="a", conversion={"colour": "purple"})).__enter__()

    def test_the_client_is_told_what_would_be_made(self, there: Installation) -> None:
        with there.client() as client:
            found = client.validate_dataset("npz", name="shoes", conversion={"size": 32})
        conversion = ConversionSpec(size=32).model_dump(mode="json")
        assert found == {"object": "dataset_validation", "name": "shoes", "format": "npz", "conversion": conversion}
        assert there.api.http.get("/v1/jobs").json()["data"] == []


def test_ctrl_c_only_stops_waiting(there: Installation, folder: Path) -> None:
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # as in the test of `watch`
    process = subprocess.Popen(
        [sys.executable, "-c", f"{heed}; from api.client.cli import main; main()", "datasets", "upload", str(folder)],
        env=os.environ | {"DISTILL_URL": there.api.url, "NO_COLOR": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "is read as soon as a worker is free" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    (dataset,) = there.api.http.get("/v1/datasets", params={"source": "upload"}).json()["data"]
    assert process.returncode == 130
    assert f"distill datasets show {dataset['id']}" in err
    assert "Traceback" not in err
    assert dataset["state"] == "validating"


class TestUploads:
    def test_those_that_are_open_show_how_far_they_are(self, there: Installation, command: Command) -> None:
        body = octets(2 * PART_BYTES + 5)
        first, second, whole = begin(there.api.http, body, filename="shoes.zip"), begin(there.api.http, b"x"), begin(
            there.api.http, b"y"
        )
        send(there.api.http, first, body, 2)
        send(there.api.http, whole, b"y")
        complete(there.api.http, whole)
        done = command("uploads")
        header, *rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert header == ["upload", "state", "file", "received", "expires"]
        assert [row[:4] for row in rows] == [
            [second["id"], "open", "pictures.zip", "0 of 1 bytes"],
            [first["id"], "open", "shoes.zip", "100,000 of 200,005 bytes"],
        ]
        assert all(row[4] for row in rows)
        shown = json.loads(command("uploads", "--complete", "--json").stdout)
        assert [each["id"] for each in shown] == [whole["id"], second["id"], first["id"]]
        with there.api.database.write() as session:
            assert session.get_one(Upload, whole["id"]).ended_at is None
            session.get_one(Upload, whole["id"]).ended_at = now(session)
        shown = json.loads(command("uploads", "--complete", "--json").stdout)
        assert [each["id"] for each in shown] == [second["id"], first["id"]], "a data set was made of it"

    def test_one_that_is_cancelled_makes_room(self, there: Installation, command: Command, folder: Path) -> None:
        made = [begin(there.api.http, octets(n + 1)) for n in range(5)]
        refused = command("datasets", "upload", str(folder))
        assert refused.returncode == 1
        assert "`distill uploads` lists them, `distill uploads cancel` gives one up" in refused.stderr
        for _ in range(2):
            done = command("uploads", "cancel", made[2]["id"])
            assert (done.returncode, done.stdout) == (0, f"{made[2]['id']} is cancelled\n"), done
        assert [line.split("\t")[0] for line in command("uploads").stdout.splitlines()[1:]] == [
            made[n]["id"] for n in (4, 3, 1, 0)
        ]
        assert begin(there.api.http, b"one more")["state"] == "open"

    def test_what_cannot_be_cancelled_is_one_line(self, command: Command) -> None:
        done = command("uploads", "cancel", "up_nothing")
        assert (done.returncode, done.stderr) == (1, "error: there is no such upload\n")
