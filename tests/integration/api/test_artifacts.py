"""Finished files: what is listed can be downloaded, whole or in parts, and what is damaged is never half sent."""

from __future__ import annotations

import base64
import hashlib
import os
import random
from pathlib import Path
from typing import Any

from core.jobs.leases import StoredFile
from core.jobs.repository import Jobs
from core.settings import Settings
from core.store.objects import CHUNK_BYTES
from tests.fixtures import jobs
from tests.fixtures.api import Api, problem, serving

BODY = bytes(range(256)) * 40
PNG = b"\x89PNG\r\n\x1a\n not a picture, but bytes of one"


def finished(api: Api, tmp: Path, **bodies: bytes) -> tuple[str, dict[str, dict[str, Any]]]:
    """A succeeded job with artifacts, by name without suffix."""
    job_id = api.submit()["id"]
    lease = api.claim(job_id)
    files: list[StoredFile] = []
    for name, body in (bodies or {"data": BODY}).items():
        image = name.startswith("preview")
        files.append(
            api.store(
                lease, f"{name}.png" if image else f"{name}.safetensors", "preview" if image else "dataset",
                "image/png" if image else "application/octet-stream", body, tmp,
            )
        )
    assert api.http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"] == []  # stored, but not finished
    api.succeed(lease, files)
    listed = api.http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    return job_id, {Path(item["name"]).stem: item for item in listed}


class TestList:
    def test_rows_of_a_finished_job(self, api: Api, tmp_path: Path) -> None:
        job_id, found = finished(api, tmp_path, data=BODY, preview=PNG)
        data = found["data"]
        assert data == {
            "id": data["id"], "object": "artifact", "job_id": job_id, "attempt": 1, "kind": "dataset",
            "name": "data.safetensors", "media_type": "application/octet-stream", "size_bytes": len(BODY),
            "sha256": hashlib.sha256(BODY).hexdigest(), "created_at": data["created_at"],
            "links": {"self": f"/v1/artifacts/{data['id']}", "content": f"/v1/artifacts/{data['id']}/content"},
        }
        one = api.http.get(data["links"]["self"])
        assert one.json() == data
        assert api.http.get(data["links"]["self"], headers={"If-None-Match": one.headers["etag"]}).status_code == 304
        assert set(api.job(job_id)["result"]["artifacts"]) == {item["id"] for item in found.values()}
        only = api.http.get(f"/v1/jobs/{job_id}/artifacts?kind=preview").json()
        assert [item["name"] for item in only["data"]] == ["preview.png"]
        assert (only["first_id"], only["last_id"], only["has_more"]) == (found["preview"]["id"], found["preview"]["id"], False)
        assert api.http.get(f"/v1/jobs/{job_id}/artifacts?kind=nothing").json()["data"] == []

    def test_unknown_ids_are_404(self, api: Api) -> None:
        for artifact_id in ("x", "art_" + "0" * 32, "art_%00", "job_" + "0" * 32):
            for path in ("", "/content", "/preview"):
                problem(api.http.get(f"/v1/artifacts/{artifact_id}{path}"), 404, "not_found")
            assert api.http.head(f"/v1/artifacts/{artifact_id}/content").status_code == 404


    def test_another_tenants_artifact_does_not_exist(self, api: Api, tmp_path: Path) -> None:
        job = jobs.create(api.database, tenant="other")
        lease = api.claim(job.id)
        api.succeed(lease, [api.store(lease, "preview.png", "preview", "image/png", PNG, tmp_path)])
        with api.database.read() as session:
            (row,) = Jobs(session, "other").artifacts(job.id)
        for path in ("", "/content", "/preview"):
            problem(api.http.get(f"/v1/artifacts/{row.id}{path}"), 404, "not_found")
        assert api.http.head(f"/v1/artifacts/{row.id}/content").status_code == 404


class TestContent:
    def test_whole(self, api: Api, tmp_path: Path) -> None:
        _, found = finished(api, tmp_path)
        url = found["data"]["links"]["content"]
        answer = api.http.get(url)
        digest = hashlib.sha256(BODY)
        assert (answer.status_code, answer.content) == (200, BODY)
        expected = {
            "etag": f'"sha256-{digest.hexdigest()}"', "accept-ranges": "bytes", "content-length": str(len(BODY)),
            "content-type": "application/octet-stream", "content-disposition": 'attachment; filename="data.safetensors"',
            "x-content-type-options": "nosniff", "repr-digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
            "cache-control": "private, max-age=31536000, immutable",
        }
        assert {name: answer.headers[name] for name in expected} == expected
        head = api.http.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert {name: head.headers[name] for name in expected} == expected
        assert "transfer-encoding" not in answer.headers

    def test_ranges(self, api: Api, tmp_path: Path) -> None:
        _, found = finished(api, tmp_path)
        url, size = found["data"]["links"]["content"], len(BODY)
        tag = f'"sha256-{found["data"]["sha256"]}"'
        for header, start, stop in (
            ("bytes=0-", 0, size), ("bytes=-500", size - 500, size), ("bytes=5-5", 5, 6), ("bytes=0-0", 0, 1),
            (f"bytes={size - 1}-", size - 1, size), (f"bytes=100-{size + 100}", 100, size), (f"bytes=-{size + 100}", 0, size),
        ):
            for extra in ({}, {"If-Range": tag}, {"If-Match": tag}):
                answer = api.http.get(url, headers={"Range": header} | extra)
                assert (answer.status_code, answer.content) == (206, BODY[start:stop]), header
                assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
                assert answer.headers["content-length"] == str(stop - start)
                assert answer.headers["etag"] == tag
        for header in (f"bytes={size}-", f"bytes={size}-{size + 5}", "bytes=-0"):
            answer = api.http.get(url, headers={"Range": header})
            problem(answer, 416, "range_not_satisfiable")
            assert answer.headers["content-range"] == f"bytes */{size}"
        for headers in (
            {"Range": "bytes=0-1,5-6"}, {"Range": "bytes=9-5"}, {"Range": "items=0-5"}, {"Range": "bytes=x"},
            {"Range": "bytes=0-5", "If-Range": '"stale"'}, {"Range": "bytes=0-5", "If-Range": f"W/{tag}"},
            {"Range": "bytes=0-5", "If-Range": "Sat, 21 Nov 2026 00:00:00 GMT"},
            {"Range": f"bytes={size}-", "If-Range": '"stale"'},
        ):
            answer = api.http.get(url, headers=headers)
            assert (answer.status_code, answer.content) == (200, BODY), headers
        head = api.http.head(url, headers={"Range": "bytes=0-5"})
        assert (head.status_code, head.headers["content-length"]) == (200, str(size))

    def test_conditions(self, api: Api, tmp_path: Path) -> None:
        _, found = finished(api, tmp_path)
        url, tag = found["data"]["links"]["content"], f'"sha256-{found["data"]["sha256"]}"'
        for method in ("GET", "HEAD"):
            answer = api.http.request(method, url, headers={"If-None-Match": tag})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
            assert api.http.request(method, url, headers={"If-None-Match": '"other"'}).status_code == 200
            assert api.http.request(method, url, headers={"If-Match": '"other"'}).status_code == 412
        problem(api.http.get(url, headers={"If-Match": '"other"'}), 412, "precondition_failed")

    def test_an_interrupted_download_continues(self, api: Api, tmp_path: Path) -> None:
        body = os.urandom(300_000)
        _, found = finished(api, tmp_path, data=body)
        url, tag = found["data"]["links"]["content"], f'"sha256-{found["data"]["sha256"]}"'
        chance, got = random.Random(0), b""
        while len(got) < len(body):
            with api.http.stream("GET", url, headers={"Range": f"bytes={len(got)}-", "If-Range": tag}) as answer:
                assert answer.status_code == 206
                for chunk in answer.iter_bytes(10_000):
                    got += chunk
                    if chance.random() < 0.3:
                        break
        assert hashlib.sha256(got).hexdigest() == found["data"]["sha256"]

    def test_more_than_one_piece_of_the_store(self, api: Api, tmp_path: Path) -> None:
        body = os.urandom(1 << 16) * ((2 * CHUNK_BYTES >> 16) + 1)
        _, found = finished(api, tmp_path, data=body, empty=b"")
        answer = api.http.get(found["data"]["links"]["content"])
        assert hashlib.sha256(answer.content).hexdigest() == found["data"]["sha256"]
        across = {"Range": f"bytes={CHUNK_BYTES - 3}-{2 * CHUNK_BYTES + 3}"}
        part = api.http.get(found["data"]["links"]["content"], headers=across)
        assert part.content == body[CHUNK_BYTES - 3 : 2 * CHUNK_BYTES + 4]
        empty = api.http.get(found["empty"]["links"]["content"])
        assert (empty.status_code, empty.content, empty.headers["content-length"]) == (200, b"", "0")
        problem(api.http.get(found["empty"]["links"]["content"], headers={"Range": "bytes=0-"}), 416, "range_not_satisfiable")

    def test_damaged_bytes_are_502_before_the_first_one(self, api: Api, tmp_path: Path) -> None:
        _, found = finished(api, tmp_path, data=BODY, gone=BODY)
        root = Path(api.settings.store.removeprefix("file://"))
        for path in root.rglob("*.safetensors"):
            if path.stem == "data":
                path.write_bytes(BODY[:-1])
            else:
                path.unlink()
        for name in ("data", "gone"):
            url = found[name]["links"]["content"]
            for headers in ({}, {"Range": "bytes=0-5"}):
                detail = problem(api.http.get(url, headers=headers), 502, "artifact_corrupt")["detail"]
                assert "jobs/" not in detail
                assert str(root) not in detail
            assert api.http.head(url).status_code == 502


class TestPreview:
    def test_appears_with_the_result(self, api: Api, tmp_path: Path) -> None:
        running = api.submit()["id"]
        problem(api.http.get(f"/v1/jobs/{running}/preview"), 404, "not_found")
        job_id, found = finished(api, tmp_path, data=BODY, preview_initial=b"initial", preview=PNG)
        for url in (f"/v1/jobs/{job_id}/preview", f"/v1/artifacts/{found['data']['id']}/preview"):
            answer = api.http.get(url)
            assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, PNG, "image/png")
            assert answer.headers["content-disposition"].startswith("inline")
            assert api.http.get(url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
        page = api.http.get("/").text
        assert f'src="/v1/jobs/{job_id}/preview"' in page
        assert f'src="/v1/jobs/{running}/preview"' not in page


def test_the_projects_own_client_downloads(api: Api, tmp_path: Path) -> None:
    from api.client.http import DistillClient

    job_id, _ = finished(api, tmp_path, data=BODY, preview=PNG)
    with DistillClient(api.url) as client:
        for artifact in client.artifacts(job_id):
            path = client.download(artifact, tmp_path)
            assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact["sha256"]


def test_from_a_real_s3_server(
    sqlite_url: str, broker_url: str, s3_server: dict[str, str], tmp_path: Path
) -> None:
    given: dict[str, Any] = {name.removeprefix("DISTILL_").lower(): value for name, value in s3_server.items()}
    settings = Settings(home=tmp_path / "home", database_url=sqlite_url, broker_url=broker_url, **given)
    body = os.urandom(CHUNK_BYTES + 12_345)
    with serving(settings) as api:
        _, found = finished(api, tmp_path, data=body, empty=b"")
        url = found["data"]["links"]["content"]
        assert hashlib.sha256(api.http.get(url).content).hexdigest() == found["data"]["sha256"]
        part = api.http.get(url, headers={"Range": f"bytes={CHUNK_BYTES - 5}-"})
        assert (part.status_code, part.content) == (206, body[CHUNK_BYTES - 5 :])
        assert api.http.head(url).headers["content-length"] == str(len(body))
        assert api.http.get(found["empty"]["links"]["content"]).content == b""
        (key,) = [key for key in api.objects.keys("jobs") if "data" in key]
        api.objects.delete(key)
        problem(api.http.get(url), 502, "artifact_corrupt")
        assert api.http.get("/readyz").json() == {"status": "ready", "degraded": [], "unavailable": []}
    away = settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    with serving(away) as api:
        answer = api.http.get(url, timeout=60)
        assert "127.0.0.1:9" not in problem(answer, 503, "object_store_unavailable")["detail"]
        assert int(answer.headers["retry-after"]) > 0
        assert api.http.get("/readyz").json()["degraded"] == ["store"]
