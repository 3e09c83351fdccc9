"""`/v1/datasets`: registering, waiting, looking at, distilling and deleting a data set of one's own; tenants."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Header

from api import deps, main
from core.catalogue import CATALOGUE
from core.errors import UnknownDatasetError
from core.jobs import leases
from core.jobs.datasets import Datasets
from core.jobs.ids import new_id
from core.jobs.leases import Lease, StoredFile
from core.jobs.models import DEFAULT_TENANT
from core.settings import Settings
from core.specs.ingest import ConversionSpec, IngestSpec, IngestSummary
from core.specs.job import DataOptions, parse_job_spec
from tests.fixtures import jobs
from tests.fixtures.api import Api, problem, serving
from tests.fixtures.uploads import begin, complete, octets, send
from worker.sweeper import Sweeper

pytestmark = pytest.mark.integration

PNG = base64.b64encode(b"a picture").decode()
SAMPLES = [
    {"split": split, "label": label, "png": PNG} for split in ("train", "test") for label in range(2) for _ in range(3)
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """An installation that lets users name files of one bucket."""
    return settings.model_copy(update={"source_prefixes": "s3://mine"})


def uploaded(http: httpx.Client, body: bytes = octets(100), **headers: str) -> str:
    """A complete upload."""
    upload = begin(http, body)
    send(http, upload, body)
    assert complete(http, upload).status_code == 200
    return str(upload["id"])


def at_once(*actions: Callable[[], None]) -> None:
    """Run each in a thread, and wait for all."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def request_of(upload_id: str, **more: Any) -> dict[str, Any]:
    return {"name": "shoes", "format": "imagefolder_zip", "source": {"upload_id": upload_id}} | more


def registered(http: httpx.Client, **more: Any) -> dict[str, Any]:
    """A data set whose files are yet to be read."""
    answer = http.post("/v1/datasets", json=request_of(uploaded(http), **more))
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/datasets/{made['id']}"
    return made


def claimed(api: Api, dataset: dict[str, Any]) -> Lease:
    return api.claim(dataset["links"]["job"].rpartition("/")[2])


def read(api: Api, dataset: dict[str, Any], tmp_path: Path) -> None:
    """What a worker does: the job ends with the canonical form, samples and a picture."""
    lease = claimed(api, dataset)
    files = [
        api.store(lease, "manifest.json", "dataset", "application/json", b"{}", tmp_path),
        api.store(lease, "samples.json", "samples", "application/json", json.dumps(SAMPLES).encode(), tmp_path),
        api.store(lease, "samples.png", "preview", "image/png", b"a grid", tmp_path),
    ]
    finish(api, lease, dataset["id"], files)


def finish(api: Api, lease: Lease, dataset_id: str, files: list[StoredFile]) -> None:
    info = CATALOGUE["digits"].model_copy(update={
        "name": dataset_id, "title": "shoes", "digest": "ab" * 32, "classes": ("boot", "sandal"),
        "train_per_class": (80, 60), "test_per_class": (20, 15),
    })
    summary = IngestSummary(info=info, size_bytes=9, num_corrupt=1, num_duplicates=2, num_leaked=3, notes=("made smaller",))
    with api.database.write() as session:
        leases.succeed(session, lease, {"summary": summary.model_dump(mode="json")}, files, [])


def ready(api: Api, tmp_path: Path) -> dict[str, Any]:
    dataset = registered(api.http)
    read(api, dataset, tmp_path)
    found: dict[str, Any] = api.http.get(f"/v1/datasets/{dataset['id']}").json()
    assert found["state"] == "ready"
    return found


def body_of(dataset: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": {"id": dataset["id"]}, "ipc": 1, "recipe": "dm", "scale": "small"}


class TestRegister:
    @pytest.mark.parametrize(("change", "pointer"), [
        ({"format": "rar"}, "/format"), ({"name": ""}, "/name"), ({"name": "a\nb"}, "/name"), ({"nane": "x"}, "/nane"),
        ({"conversion": {"size": 300}}, "/conversion/size"), ({"conversion": {"size": 7}}, "/conversion/size"),
        ({"conversion": {"test_fraction": 0.9}}, "/conversion/test_fraction"),
    ])
    def test_a_wrong_field_is_named(self, api: Api, change: dict[str, Any], pointer: str) -> None:
        found = problem(api.http.post("/v1/datasets", json=request_of(new_id("up")) | change), 422, "validation_failed")
        assert pointer in [error["pointer"] for error in found["errors"]]

    def test_the_upload_must_exist_and_be_complete(self, api: Api) -> None:
        problem(api.http.post("/v1/datasets", json=request_of(new_id("up"))), 404, "not_found")
        problem(api.http.post("/v1/datasets", json=request_of("nope")), 404, "not_found")
        upload = begin(api.http, octets(10))
        problem(api.http.post("/v1/datasets", json=request_of(upload["id"])), 409, "upload_not_complete")
        assert api.http.get("/v1/jobs").json()["data"] == []

    def test_a_job_reads_the_files(self, api: Api) -> None:
        dataset = registered(api.http, conversion={"size": 32})
        assert (dataset["state"], dataset["title"], dataset["classes"]) == ("validating", "shoes", None)
        job = api.http.get(dataset["links"]["job"]).json()
        assert (job["kind"], job["state"], job["dataset"]) == ("ingest", "queued", dataset["id"])
        spec = parse_job_spec(job["spec"])
        assert isinstance(spec, IngestSpec)
        assert (spec.size_bytes, spec.filename, spec.conversion.size) == (100, "pictures.zip", 32)

    def test_the_same_request_finds_the_same_data_set(self, api: Api, tmp_path: Path) -> None:
        upload_id = uploaded(api.http)
        first, again, other = (
            api.http.post("/v1/datasets", json=request_of(upload_id, name=name)) for name in ("a", "a", "b")
        )
        assert again.json()["id"] == first.json()["id"] != other.json()["id"]
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert len(api.http.get("/v1/jobs").json()["data"]) == 2

    @pytest.mark.parametrize("uri", [
        "s3://other/shoes.zip", "s3://mine-too/shoes.zip", "s3://mine/../other/shoes.zip", "s3://mine/a/%2e%2e/shoes.zip",
        "s3://mine/shoes.zip?versionId=1", "s3://mine//shoes.zip", "s3://[x/y", "s3://mine/\u2100",
        "http://169.254.169.254/latest", "file:///etc/passwd", "x",
    ])
    def test_a_store_is_read_below_allowed_prefixes_only(self, api: Api, uri: str) -> None:
        answer = api.http.post("/v1/datasets", json=request_of("", source={"store_uri": uri}))
        found = problem(answer, 403, "store_uri_not_allowed")
        assert "passwd" not in found["detail"]
        assert api.http.get("/v1/jobs").json()["data"] == []

    def test_a_file_of_an_allowed_store_is_registered(self, api: Api) -> None:
        body = request_of("", source={"store_uri": "s3://mine/a/shoes.zip"})
        answers = [api.http.post("/v1/datasets", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json()["id"] != answers[1].json()["id"], "it may be another file by now"
        job, _ = api.http.get("/v1/jobs").json()["data"]
        assert (job["spec"]["store_uri"], job["spec"]["filename"]) == ("s3://mine/a/shoes.zip", "shoes.zip")

    def test_files_are_in_one_place(self, api: Api) -> None:
        for source in ({}, {"upload_id": new_id("up"), "store_uri": "s3://mine/a.zip"}):
            found = problem(api.http.post("/v1/datasets", json=request_of("", source=source)), 422, "validation_failed")
            assert found["errors"][0]["pointer"] == "/source"

    def test_ten_at_once_make_one(self, api: Api) -> None:
        upload_id = uploaded(api.http)
        answers: list[httpx.Response] = []

        def post() -> None:
            with httpx.Client(base_url=api.url, timeout=30) as http:
                answers.append(http.post("/v1/datasets", json=request_of(upload_id)))

        at_once(*[post] * 10)
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1


class TestTheSameFile:
    """Uploaded again, it is the data set that is there."""

    def test_it_is_read_once(self, api: Api) -> None:
        uploads = [uploaded(api.http) for _ in range(2)]
        first, again = (api.http.post("/v1/datasets", json=request_of(upload_id)) for upload_id in uploads)
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        (job,) = api.http.get("/v1/jobs").json()["data"]
        assert job["spec"]["upload_id"] == uploads[0]
        assert api.http.post(f"/v1/uploads/{uploads[1]}/cancel").status_code == 200, "nothing reads the other"

    @pytest.mark.parametrize("change", [{"name": "boots"}, {"format": "imagefolder_tar"}, {"conversion": {"size": 32}}])
    def test_another_name_or_way_to_read_it_is_another_data_set(self, api: Api, change: dict[str, Any]) -> None:
        first, other = registered(api.http), registered(api.http, **change)
        assert other["id"] != first["id"]
        assert registered(api.http, **change)["id"] == other["id"]

    def test_other_files_are_other_data_sets(self, api: Api) -> None:
        bodies = [octets(100), octets(100, seed=1), octets(101)]
        made = [api.http.post("/v1/datasets", json=request_of(uploaded(api.http, body))).json()["id"] for body in bodies]
        lie = begin(api.http, octets(50), sha256=hashlib.sha256(octets(100)).hexdigest())
        send(api.http, lie, octets(50))
        complete(api.http, lie)
        made.append(api.http.post("/v1/datasets", json=request_of(lie["id"])).json()["id"])
        assert len(set(made)) == 4

    def test_what_was_only_announced_is_no_file(self, api: Api) -> None:
        registered(api.http)
        announced, given_up = begin(api.http, octets(100)), uploaded(api.http)
        api.http.post(f"/v1/uploads/{given_up}/cancel")
        for upload_id in (announced["id"], given_up):
            problem(api.http.post("/v1/datasets", json=request_of(upload_id)), 409, "upload_not_complete")

    def test_long_after_the_uploads_are_forgotten(self, api: Api, tmp_path: Path) -> None:
        """The upload that it was made of still leads to it, and so does the file."""
        upload_id = uploaded(api.http)
        dataset = api.http.post("/v1/datasets", json=request_of(upload_id)).json()
        read(api, dataset, tmp_path)
        for forgotten in (False, True):
            seconds = 1e-6 if forgotten else 1e6
            Sweeper(api.database, api.objects, Settings(orphan_seconds=1e-6, idempotency_seconds=seconds)).sweep()
            assert api.http.get(f"/v1/uploads/{upload_id}").status_code == (404 if forgotten else 200)
            for each in (upload_id, uploaded(api.http)):
                again = api.http.post("/v1/datasets", json=request_of(each))
                assert (again.status_code, again.json()["id"]) == (202, dataset["id"])
                assert again.headers["idempotent-replayed"] == "true"
            found = api.http.post("/v1/datasets", json=request_of(upload_id, name="boots"))
            problem(found, 404 if forgotten else 409, "not_found" if forgotten else "upload_not_complete")
        assert len(api.http.get("/v1/jobs").json()["data"]) == 1

    def test_its_bytes_go_with_the_next_sweep(self, api: Api, tmp_path: Path) -> None:
        """Once the set is there: while the other upload is being read, it may still turn out to be bad."""
        sweeper = Sweeper(api.database, api.objects, api.settings)
        first, same, elsewhere = (uploaded(api.http) for _ in range(3))
        dataset = api.http.post("/v1/datasets", json=request_of(first)).json()
        boots = api.http.post("/v1/datasets", json=request_of(elsewhere, name="boots")).json()

        def kept() -> list[str]:
            sweeper.sweep()
            found = api.http.get("/v1/uploads", params={"state": "complete"}).json()["data"]
            return [each["id"] for each in found if not each["ended_at"]]

        api.http.post("/v1/datasets", json=request_of(same))
        assert kept() == [elsewhere, same, first]
        read(api, dataset, tmp_path)
        assert kept() == [elsewhere, same]
        for each in (same, elsewhere):
            assert api.http.post("/v1/datasets", json=request_of(each)).json()["id"] == dataset["id"]
        assert kept() == [elsewhere], "a job reads it"
        read(api, boots, tmp_path)
        assert kept() == []
        assert api.http.post("/v1/datasets", json=request_of(same)).json()["id"] == dataset["id"]

    def test_a_given_up_upload_that_was_read_leads_to_its_data_set(self, api: Api, tmp_path: Path) -> None:
        upload_id = uploaded(api.http)
        dataset = api.http.post("/v1/datasets", json=request_of(upload_id)).json()
        read(api, dataset, tmp_path)
        assert api.http.post(f"/v1/uploads/{upload_id}/cancel").json()["state"] == "cancelled"
        assert api.http.post("/v1/datasets", json=request_of(upload_id)).json()["id"] == dataset["id"]

    @pytest.mark.parametrize("end", ["failed", "cancelled", "deleted"])
    def test_one_that_failed_or_is_gone_can_be_made_again(self, api: Api, tmp_path: Path, end: str) -> None:
        first = registered(api.http)
        if end == "failed":
            api.fail(claimed(api, first))
        elif end == "cancelled":
            api.http.post(f"{first['links']['job']}/cancel")
        else:
            read(api, first, tmp_path)
            assert api.http.delete(f"/v1/datasets/{first['id']}").status_code == 204
        second = api.http.post("/v1/datasets", json=request_of(uploaded(api.http)))
        assert (second.status_code, "idempotent-replayed" in second.headers) == (202, False)
        assert second.json()["id"] != first["id"]
        assert registered(api.http)["id"] == second.json()["id"]

    def test_many_uploads_of_it_at_one_instant_make_one(self, api: Api) -> None:
        uploads, start = [uploaded(api.http) for _ in range(8)], threading.Barrier(8)
        answers: list[httpx.Response] = []

        def post(upload_id: str) -> None:
            with httpx.Client(base_url=api.url, timeout=30) as http:
                start.wait()
                answers.append(http.post("/v1/datasets", json=request_of(upload_id)))

        at_once(*(partial(post, upload_id) for upload_id in uploads))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        assert len(api.http.get("/v1/jobs").json()["data"]) == 1


class TestValidateOnly:
    URL = "/v1/datasets?validate_only=true"

    def test_nothing_is_kept_and_every_default_is_shown(self, api: Api) -> None:
        body = {"name": "shoes", "format": "imagefolder_zip", "conversion": {"size": 32}}
        sources: list[dict[str, Any]] = [{}, {"source": {"upload_id": new_id("up")}}, {"source": {"store_uri": "s3://mine/a.zip"}}]
        for source in sources:
            answer = api.http.post(self.URL, json=body | source)
            assert (answer.status_code, answer.json()) == (200, {
                "object": "dataset_validation", "name": "shoes", "format": "imagefolder_zip",
                "conversion": ConversionSpec(size=32).model_dump(mode="json"),
            })
        assert api.http.get("/v1/jobs").json()["data"] == []

    @pytest.mark.parametrize(("change", "status", "code"), [
        ({"name": "a\nb"}, 422, "validation_failed"), ({"format": "rar"}, 422, "validation_failed"),
        ({"conversion": {"colour": "purple"}}, 422, "validation_failed"), ({"sauce": 1}, 422, "validation_failed"),
        ({"source": {"store_uri": "s3://other/a.zip"}}, 403, "store_uri_not_allowed"),
        ({"source": {}}, 422, "validation_failed"),
    ])
    def test_what_would_be_refused_is(self, api: Api, change: dict[str, Any], status: int, code: str) -> None:
        body = {"name": "shoes", "format": "imagefolder_zip"} | change
        found = problem(api.http.post(self.URL, json=body), status, code)
        if status == 422:
            assert next(iter(change)) in found["errors"][0]["pointer"]

    def test_files_are_needed_to_make_one(self, api: Api) -> None:
        body = {"name": "shoes", "format": "imagefolder_zip"}
        for url in ("/v1/datasets", "/v1/datasets?validate_only=false"):
            found = problem(api.http.post(url, json=body), 422, "validation_failed")
            assert [error["pointer"] for error in found["errors"]] == ["/source"]


class TestWhileItIsNotReady:
    def test_it_cannot_be_distilled(self, api: Api) -> None:
        dataset = registered(api.http)
        found = problem(api.http.post("/v1/jobs", json=body_of(dataset)), 409, "dataset_not_ready")
        assert "still being read" in found["detail"]
        for route in ("inspect", "preview"):
            problem(api.http.get(f"/v1/datasets/{dataset['id']}/{route}"), 409, "dataset_not_ready")

    def test_rejected_files_say_why(self, api: Api) -> None:
        dataset = registered(api.http)
        refused = {"code": "unsafe_name", "message": "names may not lead out of the archive", "member": "../x"}
        error = {
            "code": "dataset_rejected", "message": refused["message"], "retryable": False, "attempt": 1,
            "detail": {"problems": [refused]},
        }
        lease = claimed(api, dataset)
        with api.database.write() as session:
            leases.fail(session, lease, error, retry_after_seconds=None)
        found = api.http.get(f"/v1/datasets/{dataset['id']}").json()
        assert (found["state"], found["problems"]) == ("rejected", [refused])
        text = problem(api.http.post("/v1/jobs", json=body_of(dataset)), 409, "dataset_not_ready")["detail"]
        assert "rejected" in text
        assert refused["message"] in text

    def test_one_whose_reading_was_cancelled_can_be_registered_again(self, api: Api) -> None:
        upload_id = uploaded(api.http)
        first = api.http.post("/v1/datasets", json=request_of(upload_id)).json()
        api.http.post(f"{first['links']['job']}/cancel")
        assert api.http.get(f"/v1/datasets/{first['id']}").json()["state"] == "cancelled"
        second = api.http.post("/v1/datasets", json=request_of(upload_id)).json()
        assert second["id"] != first["id"]


    def test_what_is_no_fault_of_the_files_is_not_blamed_on_them(self, api: Api) -> None:
        dataset = registered(api.http)
        api.fail(claimed(api, dataset))
        found = api.http.get(f"/v1/datasets/{dataset['id']}").json()
        assert (found["state"], found["problems"][0]["code"]) == ("failed", "diverged")
        text = problem(api.http.post("/v1/jobs", json=body_of(dataset)), 409, "dataset_not_ready")["detail"]
        assert "could not be made" in text

    def test_so_many_are_read_at_a_time(self, api: Api) -> None:
        made = [registered(api.http, name=str(number)) for number in range(5)]
        body = request_of(uploaded(api.http), name="one more")
        assert "5 data sets" in problem(api.http.post("/v1/datasets", json=body), 429, "quota_exceeded")["detail"]
        api.http.post(f"{made[0]['links']['job']}/cancel")
        assert api.http.post("/v1/datasets", json=body).status_code == 202


class TestLook:
    def test_it_shows_what_is_known(self, api: Api, tmp_path: Path) -> None:
        found = ready(api, tmp_path)
        assert (found["name"], found["title"], found["num_train"], found["num_test"]) == (None, "shoes", 140, 35)
        assert (found["num_corrupt"], found["num_duplicates"], found["num_leaked"]) == (1, 2, 3)
        assert found["notes"] == ["made smaller"]
        assert found["verified"] is True

    def test_samples_are_spread_over_the_classes(self, api: Api, tmp_path: Path) -> None:
        url = f"/v1/datasets/{ready(api, tmp_path)['id']}/inspect"
        found = api.http.get(url, params={"n": 4}).json()["data"]
        assert [(each["split"], each["class_name"]) for each in found] == [
            ("train", "boot"), ("train", "boot"), ("train", "sandal"), ("train", "sandal"),
        ]
        assert found[0]["png"] == PNG
        found = api.http.get(url, params={"split": "test", "class": "sandal"}).json()["data"]
        assert [(each["split"], each["label"]) for each in found] == [("test", 1)] * 3
        problem(api.http.get(url, params={"class": "glove"}), 404, "not_found")
        problem(api.http.get(url, params={"n": 65}), 422, "validation_failed")

    def test_the_picture_has_a_tag(self, api: Api, tmp_path: Path) -> None:
        url = f"/v1/datasets/{ready(api, tmp_path)['id']}/preview"
        answer = api.http.get(url)
        assert (answer.content, answer.headers["content-type"]) == (b"a grid", "image/png")
        assert api.http.get(url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304

    def test_built_in_sets_have_no_samples(self, api: Api) -> None:
        for route in ("inspect", "preview"):
            assert "built-in" in problem(api.http.get(f"/v1/datasets/digits/{route}"), 404, "not_found")["detail"]

    def test_pages_lead_from_the_newest_to_the_built_in_ones(self, api: Api) -> None:
        mine = [registered(api.http, name=name)["id"] for name in ("a", "b", "c")]
        everything = mine[::-1] + list(CATALOGUE)
        for limit in (1, 2, 3, 5, 100):
            found: list[str] = []
            after: dict[str, str] = {}
            while True:
                page = api.http.get("/v1/datasets", params={"limit": limit, **after}).json()
                found += [each["id"] or each["name"] for each in page["data"]]
                if not page["has_more"]:
                    break
                after = {"after": page["last_id"]}
            assert found == everything
        only = api.http.get("/v1/datasets", params={"source": "upload"}).json()["data"]
        assert [each["id"] for each in only] == mine[::-1]
        problem(api.http.get("/v1/datasets", params={"after": "nope"}), 400, "invalid_cursor")
        problem(api.http.get("/v1/datasets", params={"after": new_id("ds")}), 400, "invalid_cursor")


class TestDistil:
    def test_the_specification_is_resolved_for_it(self, api: Api, tmp_path: Path) -> None:
        dataset = ready(api, tmp_path)
        job = api.accepted(body_of(dataset))
        assert job["dataset"] == dataset["id"]
        assert job["spec"]["dataset"] == {"id": dataset["id"], "held_out_fraction": 0.0}
        assert job["spec"]["defaults_from"] == "cifar10 ipc 1"
        checked = api.http.post("/v1/jobs", params={"validate_only": "true"}, json=body_of(dataset)).json()
        assert checked["budget"]["real_images"] == 140
        assert "images of 32 px (here 8)" in checked["warnings"][0]
        too_many = problem(api.http.post("/v1/jobs", json=body_of(dataset) | {"ipc": 61}), 422, "validation_failed")
        assert "/ipc" in [error["pointer"] for error in too_many["errors"]]

    def test_a_finished_job_on_it_can_be_repeated(self, api: Api, tmp_path: Path) -> None:
        job = api.accepted(body_of(ready(api, tmp_path)))
        api.succeed(api.claim(job["id"]))
        again = api.http.post(f"/v1/jobs/{job['id']}/retry", json={"seed": 5})
        assert again.status_code == 202, again.text
        assert again.json()["spec"]["dataset"] == job["spec"]["dataset"]

    @pytest.mark.parametrize(("dataset", "code", "status"), [
        ({"id": "ds_" + "0" * 32}, "dataset_not_found", 404), ({"id": "ds_x"}, "validation_failed", 422),
        ({"name": "digits", "id": "ds_" + "0" * 32}, "validation_failed", 422), ({}, "validation_failed", 422),
    ])
    def test_it_must_be_named_once_and_exist(self, api: Api, dataset: dict[str, Any], code: str, status: int) -> None:
        found = problem(api.http.post("/v1/jobs", json={"dataset": dataset, "ipc": 1, "recipe": "dm"}), status, code)
        assert found["errors"][0]["pointer"] in {"/dataset", "/dataset/id"}

    def test_an_ingest_job_cannot_be_sent_by_a_client(self, api: Api) -> None:
        problem(api.http.post("/v1/jobs", json={"kind": "ingest"}), 422, "validation_failed")


class TestDelete:
    def test_not_while_its_files_are_read_or_a_job_reads_it(self, api: Api, tmp_path: Path) -> None:
        dataset = registered(api.http)
        url = f"/v1/datasets/{dataset['id']}"
        problem(api.http.delete(url), 409, "job_not_terminal")
        read(api, dataset, tmp_path)
        job = api.accepted(body_of(dataset))
        assert job["id"] in problem(api.http.delete(url), 409, "dataset_in_use")["detail"]
        problem(api.http.delete(dataset["links"]["job"]), 409, "dataset_in_use")
        api.http.post(f"/v1/jobs/{job['id']}/cancel")
        assert api.http.delete(url).status_code == 204

    def test_it_is_gone_and_its_job_too(self, api: Api, tmp_path: Path) -> None:
        dataset = ready(api, tmp_path)
        url = f"/v1/datasets/{dataset['id']}"
        assert api.http.delete(url).status_code == 204
        for path in (url, f"{url}/inspect", f"{url}/preview", dataset["links"]["job"]):
            problem(api.http.get(path), 404, "not_found")
        problem(api.http.delete(url), 404, "not_found")
        problem(api.http.post("/v1/jobs", json=body_of(dataset)), 404, "dataset_not_found")
        assert api.http.get("/v1/datasets", params={"source": "upload"}).json()["data"] == []

    def test_a_job_that_is_created_meanwhile_finds_it_gone(self, api: Api, tmp_path: Path) -> None:
        """The deletion comes between the look at the data set and the creation of the job."""
        dataset = ready(api, tmp_path)
        spec = parse_job_spec(api.accepted(body_of(dataset))["spec"])
        (job,) = api.http.get("/v1/jobs", params={"kind": "distillation"}).json()["data"]
        api.http.post(f"/v1/jobs/{job['id']}/cancel")
        assert api.http.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
        assert isinstance(spec, DataOptions)
        with pytest.raises(UnknownDatasetError), api.database.write() as session:
            Datasets(session, DEFAULT_TENANT).hold(spec.dataset)

    def test_a_repetition_of_a_request_on_it_gives_the_job_that_it_made(self, api: Api, tmp_path: Path) -> None:
        """A client that never saw the answer asks again after the set was used and deleted."""
        dataset = ready(api, tmp_path)
        headers = {"Idempotency-Key": "a key"}
        first = api.http.post("/v1/jobs", json=body_of(dataset), headers=headers).json()
        api.http.post(f"/v1/jobs/{first['id']}/cancel")
        repeat = f"/v1/jobs/{first['id']}/retry"
        second = api.http.post(repeat, headers=headers).json()
        api.http.post(f"/v1/jobs/{second['id']}/cancel")
        assert api.http.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
        for path, sent, job in (("/v1/jobs", body_of(dataset), first), (repeat, None, second)):
            again = api.http.post(path, json=sent, headers=headers)
            assert (again.status_code, again.json()["id"]) == (202, job["id"]), again.text
            assert again.headers["idempotent-replayed"] == "true"
            problem(api.http.post(path, json=sent, headers={"Idempotency-Key": "another"}), 404, "dataset_not_found")
        other = body_of(dataset) | {"seed": 1}
        problem(api.http.post("/v1/jobs", json=other, headers=headers), 404, "dataset_not_found")

    def test_built_in_sets_stay(self, api: Api) -> None:
        problem(api.http.delete("/v1/datasets/digits"), 404, "not_found")


class TestTenants:
    @pytest.fixture
    def api(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
        """The tenant is named by a header, as a key will do it."""

        async def tenant(x_tenant: Annotated[str, Header()] = DEFAULT_TENANT) -> str:
            return x_tenant

        create = main.create_app

        def with_tenants(*arguments: Any) -> FastAPI:
            app = create(*arguments)
            app.dependency_overrides[deps._tenant] = tenant
            return app

        monkeypatch.setattr("tests.fixtures.api.create_app", with_tenants)
        with serving(settings) as made:
            yield made

    def test_another_tenants_data_set_does_not_exist(self, api: Api, tmp_path: Path) -> None:
        dataset = ready(api, tmp_path)
        with httpx.Client(base_url=api.url, headers={"X-Tenant": "b"}) as other:
            url = f"/v1/datasets/{dataset['id']}"
            for path in (url, f"{url}/inspect", f"{url}/preview"):
                problem(other.get(path), 404, "not_found")
            problem(other.delete(url), 404, "not_found")
            problem(other.post("/v1/jobs", json=body_of(dataset)), 404, "dataset_not_found")
            problem(other.get("/v1/datasets", params={"after": dataset["id"]}), 400, "invalid_cursor")
            assert other.get("/v1/datasets", params={"source": "upload"}).json()["data"] == []
            upload_id = uploaded(api.http, octets(50))
            problem(other.post("/v1/datasets", json=request_of(upload_id)), 404, "not_found")
            assert uploaded(other, octets(50)) != upload_id
            own = other.post("/v1/datasets", json=request_of(uploaded(other)))
            assert own.json()["id"] != dataset["id"], "the same file, of another tenant"
            (job,) = api.http.get("/v1/jobs").json()["data"]
            problem(other.post("/v1/datasets", json=request_of(job["spec"]["upload_id"])), 404, "not_found")
        assert api.http.get(url).json()["state"] == "ready"


def test_a_worker_finds_the_files_of_its_own_tenant_only(api: Api, tmp_path: Path) -> None:
    dataset = ready(api, tmp_path)
    with api.database.read() as session:
        assert [row.name for row in Datasets(session, DEFAULT_TENANT).canonical(dataset["id"])] == ["manifest.json"]
        assert Datasets(session, "b").canonical(dataset["id"]) == []
    assert jobs.get(api.database, dataset["links"]["job"].rpartition("/")[2]).dataset == dataset["id"]
