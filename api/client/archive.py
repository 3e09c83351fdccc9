"""Fetching a job's files. An archive that came over the network is unpacked so that nothing lands outside its folder."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from api.client.errors import ClientError
from api.client.following import TERMINAL_STATES
from api.client.http import DistillClient

MAX_MEMBERS = 2_000_000
MAX_UNPACKED_BYTES = 32 << 30


def download_job(client: DistillClient, job_id: str, folder: Path, *, kind: str = "") -> list[Path]:
    """Download a job's files, unpack the images, and return every path.

    Raises:
        ClientError: there is nothing to download (`no_files`), or a download failed.
    """
    paths = client.download_all(job_id, folder, kind=kind)
    if not paths:
        state = client.job(job_id)["state"]
        why = "has no files of this kind" if kind else "has no files"
        if state not in TERMINAL_STATES:
            why = f"is {state}: its files come when it succeeds"
        raise ClientError(f"{job_id} {why}", code="no_files")
    return paths + [extract_zip(path, path.with_suffix("")) for path in paths if path.name == "images.zip"]


def extract_zip(archive: Path, folder: Path) -> Path:
    """Unpack `archive` into `folder`, replacing what an earlier call put there; all or nothing.

    Raises:
        ClientError: `unsafe_archive` when a member would leave the folder, is a link, or the whole is too large.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
                raise _refused(archive, "it unpacks to too much")
            for member in members:
                target = scratch / _inside(archive, member)
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink)
        scratch.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.replace(folder)
    except (zipfile.BadZipFile, FileExistsError, NotImplementedError) as error:
        raise _refused(archive, str(error)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _inside(archive: Path, member: zipfile.ZipInfo) -> PurePosixPath:
    name = PurePosixPath(member.filename)
    if (
        name.is_absolute()
        or not name.parts
        or ".." in name.parts
        or any(c in member.filename for c in "\\:\0")
        or stat.S_ISLNK(member.external_attr >> 16)
    ):
        raise _refused(archive, f"its member {member.filename!r} would lead out of the folder")
    return name


def _refused(archive: Path, reason: str) -> ClientError:
    return ClientError(f"refused to unpack {archive.name}: {reason}", code="unsafe_archive")
