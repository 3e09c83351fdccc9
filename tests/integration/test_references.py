"""Files that lie in a store already: which may be named, and copying them."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InvalidInputError, StoreUriNotAllowedError
from core.settings import Settings
from core.store.references import allowed_prefixes, fetch, reference_of

pytestmark = pytest.mark.integration


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "shoes.zip").write_bytes(b"shoes" * 1000)
    return folder


def wanted() -> bool:
    """The answer to whether nobody waits any more."""
    return False


def settings(shelf: Path, max_upload_bytes: int = 1 << 20) -> Settings:
    return Settings(source_prefixes=f" {shelf.as_uri()} ,s3://mine/", max_upload_bytes=max_upload_bytes)


def test_a_prefix_ends_where_a_segment_ends(shelf: Path) -> None:
    prefixes = allowed_prefixes(settings(shelf))
    assert prefixes == [f"{shelf.as_uri()}/", "s3://mine/"]
    assert reference_of("s3://mine/a/b.zip", prefixes) == ("s3://mine", "a/b.zip")
    for uri in ("s3://mine-too/b.zip", f"{shelf.as_uri()}-b/x", "s3://mine/", "s3://mine", "s3://mine/a//b", "s3://mine/a\\b"):
        with pytest.raises(StoreUriNotAllowedError):
            reference_of(uri, prefixes)
    with pytest.raises(StoreUriNotAllowedError, match="none"):
        reference_of("s3://mine/a", allowed_prefixes(Settings()))


def test_a_file_is_copied(shelf: Path, tmp_path: Path) -> None:
    fetch(f"{shelf.as_uri()}/a/shoes.zip", settings(shelf), tmp_path / "upload", wanted)
    assert (tmp_path / "upload").read_bytes() == b"shoes" * 1000


def test_nobody_waits_for_what_is_not_wanted_any_more(shelf: Path, tmp_path: Path) -> None:
    fetch(f"{shelf.as_uri()}/a/shoes.zip", settings(shelf), tmp_path / "upload", lambda: True)
    assert (tmp_path / "upload").read_bytes() == b""


@pytest.mark.parametrize(("path", "message"), [("a/none.zip", "nothing at"), ("b/none.zip", "nothing below")])
def test_what_is_not_there_is_said_and_not_made(shelf: Path, tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fetch(f"{shelf.as_uri()}/{path}", settings(shelf), tmp_path / "upload", wanted)
    assert sorted(each.name for each in shelf.iterdir()) == ["a"]


def test_links_lead_nowhere(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (shelf / "a" / "link.zip").symlink_to(tmp_path / "secret")
    (shelf / "b").symlink_to(tmp_path)
    for path in ("a/link.zip", "b/secret"):
        with pytest.raises(InvalidInputError, match="link"):
            fetch(f"{shelf.as_uri()}/{path}", settings(shelf), tmp_path / "upload", wanted)
    assert not (tmp_path / "upload").exists()


def test_too_large_a_file_is_refused_before_it_is_copied(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="5000 bytes; at most 4999"):
        fetch(f"{shelf.as_uri()}/a/shoes.zip", settings(shelf, max_upload_bytes=4999), tmp_path / "upload", wanted)
    assert not (tmp_path / "upload").exists()
