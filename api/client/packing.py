"""What is sent for a path: a file as it is, a folder as a tar that is the same for the same files.

Names are sorted and times and owners left out, so an interrupted upload of a folder is found again by its digest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, get_args

from api.client.errors import ClientError
from core.specs.ingest import Format

_WHOLE = {".npz": "npz", ".safetensors": "safetensors", ".parquet": "parquet"}
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LISTS = {"labels.csv", "labels.json"}
LOOKED_AT = 1000
"""Entries of an archive by which its format is guessed."""


class Package(NamedTuple):
    """What is sent."""

    path: Path
    filename: str
    """What the service calls it."""
    format: str
    """What it holds, as said or guessed; one of `core.specs.ingest.Format` where it was guessed."""


def unchecked(_format: str) -> None:
    """A format that nobody is interested in yet."""


@contextlib.contextmanager
def packed(path: Path, file_format: str = "", check: Callable[[str], object] = unchecked) -> Iterator[Package]:
    """The file to send for a file or folder, which exists as long as the block runs.

    Args:
        path: a file is sent as it is. Of a folder, hidden entries (names that begin with a dot) are left out.
        file_format: what it holds; empty: looked at and guessed.
        check: hears the format before anything is packed, and may raise.

    Raises:
        ClientError: nothing is there, a folder has a link or nothing in it, at whatever depth, or the format cannot be guessed.
    """
    if not path.exists():
        raise ClientError(f"there is no file or folder {path}", code="unreadable_file")
    if not path.is_dir():
        with _readable(path):
            guessed = file_format or _format_of_file(path)
        check(guessed)
        yield Package(path, path.name, guessed)
        return
    with _readable(path):
        names = _names(path)
    guessed = file_format or _archive_format(names, "tar")
    check(guessed)
    with tempfile.TemporaryDirectory(prefix="distill-upload-") as scratch:
        target = Path(scratch) / "folder.tar"
        with _readable(path):
            _pack(path, names, target)
        yield Package(target, f"{path.resolve().name or 'folder'}.tar", guessed)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ClientError(
                f"no room to pack {path} in {tempfile.gettempdir()}: {error.strerror}; TMPDIR names another folder",
                code="unreadable_file",
            ) from None
        raise ClientError(f"cannot pack {error.filename or path}: {error.strerror or error}", code="unreadable_file") from None


def _names(folder: Path) -> list[str]:
    """Every file below a folder, by its sorted relative name with slashes."""
    found: list[str] = []
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if place != str(folder) and not folders and all(name.startswith(".") for name in files):
            empty = Path(place).relative_to(folder).as_posix()
            if "__MACOSX" in empty.split("/"):
                continue
            raise ClientError(f"refused to pack {empty}: the folder is empty; fill it or remove it", code="empty_folder")
        for name in (*folders, *files):
            if name.startswith("."):
                continue
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                what = "a link; put the file itself there" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise ClientError(f"refused to pack {relative}: it is {what}", code="unsafe_archive")
            if any("\ud800" <= character <= "\udfff" for character in relative):
                raise ClientError(f"refused to pack {relative!a}: its name is not UTF-8", code="unsafe_archive")
            if stat.S_ISREG(mode):
                found.append(relative)
    if not found:
        raise ClientError(f"{folder} has no files", code="no_files")
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise error


def _pack(folder: Path, names: Iterable[str], target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            with (folder / name).open("rb") as file:
                member = tarfile.TarInfo(name)
                member.size = os.fstat(file.fileno()).st_size
                archive.addfile(member, file)


def _format_of_file(path: Path) -> str:
    """The format of a file, by its name and, for an archive, by the names in it."""
    name = path.name.lower()
    if path.suffix.lower() in _WHOLE:
        return _WHOLE[path.suffix.lower()]
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as zipped:
                return _archive_format(zipped.namelist()[:LOOKED_AT], "zip")
        if name.endswith(_TARS):
            with path.open("rb") as file:
                return _archive_format(_tar_names(file), "tar")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ClientError(f"{path} is damaged: {error}", code="unreadable_file") from None
    raise ClientError(
        f"cannot tell what {path.name} holds; name one of the formats: {', '.join(get_args(Format))}", code="unknown_format"
    )


def _tar_names(file: IO[bytes]) -> list[str]:
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        return [member.name for member in islice(archive, LOOKED_AT) if member.isfile()]


def _archive_format(names: Iterable[str], archive: str) -> str:
    files = [file for name in names if not name.endswith("/") and not _is_hidden(file := PurePosixPath(name))]
    suffixes = {file.suffix.lower() for file in files}
    made = f"{_layout({file.name for file in files}, suffixes)}_{archive}"
    return made if made in get_args(Format) else f"imagefolder_{archive}"


def _is_hidden(file: PurePosixPath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in file.parts)


def _layout(names: set[str], suffixes: set[str]) -> str:
    if names & _LISTS:
        return "labels"
    if suffixes == {".parquet"}:
        return "parquet"
    if ".cls" in suffixes:
        return "webdataset"
    if ".wav" in suffixes:
        return "audiofolder"
    return "imagefolder"
