from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from api.client.archive import download_job, extract_zip
from api.client.errors import ClientError
from api.client.http import DistillClient
from tests.unit.client.contract_server import ContractServer

pytestmark = pytest.mark.unit


def packed(path: Path, members: dict[str, bytes], *, link: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return path


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/evil.png", "c:evil.png", "a\\..\\evil.png", "."])
def test_a_member_that_leaves_the_folder_refuses_the_whole_archive(tmp_path: Path, name: str) -> None:
    archive = packed(tmp_path / "images.zip", {"0/good.png": b"x", name: b"evil"})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "old.png").write_bytes(b"old")
    with pytest.raises(ClientError) as caught:
        extract_zip(archive, tmp_path / "images")
    assert caught.value.code == "unsafe_archive"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["images", "images.zip", "old.png"]


def test_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="lead out"):
        extract_zip(packed(tmp_path / "images.zip", {}, link="link.png"), tmp_path / "images")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_and_what_is_no_archive_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "images.zip", {"a.png": b"1"})
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("a.png", b"2")
    (tmp_path / "text.zip").write_bytes(b"no archive")
    for path in (archive, tmp_path / "text.zip"):
        with pytest.raises(ClientError, match="refused to unpack"):
            extract_zip(path, tmp_path / "images")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.client.archive.MAX_UNPACKED_BYTES", 10)
    with pytest.raises(ClientError, match="too much"):
        extract_zip(packed(tmp_path / "images.zip", {"a.png": b"x" * 11}), tmp_path / "images")


def test_a_good_archive_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "old.png").write_bytes(b"old")
    extract_zip(packed(tmp_path / "images.zip", {"0/00.png": b"a", "1/00.png": b"b"}), tmp_path / "images")
    found = {str(p.relative_to(tmp_path / "images")): p.read_bytes() for p in (tmp_path / "images").rglob("*.png")}
    assert found == {"0/00.png": b"a", "1/00.png": b"b"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "images.zip"]


class TestDownloadJob:
    def test_says_why_there_is_nothing(self, service: ContractServer, tmp_path: Path) -> None:
        service.add_job("job_1", state="running")
        service.add_job("job_2", state="failed")
        with DistillClient() as client:
            with pytest.raises(ClientError, match="is running: its files come when it succeeds"):
                download_job(client, "job_1", tmp_path)
            with pytest.raises(ClientError, match="has no files"):
                download_job(client, "job_2", tmp_path)
            with pytest.raises(ClientError, match="of this kind"):
                download_job(client, "job_2", tmp_path, kind="preview")

    def test_fetches_everything_and_unpacks_the_images(self, service: ContractServer, tmp_path: Path) -> None:
        service.add_job()
        service.add_artifact("report.html", b"<html>", kind="report")
        service.add_artifact("images.zip", packed(tmp_path / "x", {"0/00.png": b"a"}).read_bytes(), kind="images")
        with DistillClient() as client:
            paths = download_job(client, "job_1", tmp_path / "out")
        assert [path.name for path in paths] == ["report.html", "images.zip", "images"]
        assert (tmp_path / "out" / "images" / "0" / "00.png").read_bytes() == b"a"
