"""SQLite on a network share is refused at start. The table of mounts is simulated: no share can be mounted in a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import UnsafeDatabaseError
from core.jobs import file_system
from core.jobs.database import Database

TABLE = r"""
/dev/vda / ext4 rw 0 0
server:/export /mnt/share nfs4 rw 0 0
//server/data /mnt/my\040share cifs rw 0 0
tmpfs /mnt/share/local tmpfs rw 0 0
me@host:/ /home/me/far fuse.sshfs rw 0 0
server:/old /srv nfs rw 0 0
/dev/vdb /srv xfs rw 0 0
/dev/vdc /mnt/sha ext4 rw 0 0
""".lstrip()


@pytest.fixture(autouse=True)
def _mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounts").write_text(TABLE)
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "mounts")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/distill.db", None), ("/mnt/share/distill.db", "nfs4"), ("/mnt/share", "nfs4"),
        ("/mnt/share/local/distill.db", None), ("/mnt/my share/a/b.db", "cifs"), ("/home/me/far/x.db", "fuse.sshfs"),
        ("/srv/distill.db", None), ("/mnt/shares/distill.db", None),
    ],
)
def test_the_innermost_mount_decides(path: str, kind: str | None) -> None:
    assert file_system.network_kind(Path(path)) == kind


def test_d9_sqlite_on_a_network_share_is_refused_and_names_the_way_out() -> None:
    with pytest.raises(UnsafeDatabaseError, match=r"/mnt/share/distill\.db.*nfs4.*DISTILL_DATABASE_URL"):
        Database("sqlite:////mnt/share/distill.db")
    Database("sqlite:////mnt/share/local/distill.db").dispose()
    Database("postgresql://h/mnt/share").dispose()


def test_without_a_table_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_system, "MOUNTS", tmp_path / "none")
    assert file_system.network_kind(Path("/mnt/share/distill.db")) is None
