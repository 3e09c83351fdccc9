"""Every attack of the list is refused, by its stable code and with the entry named, before it costs much."""

from __future__ import annotations

import io
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from core.specs.ingest import Format, IngestLimits
from tests.unit.core.ingest.attacks import ARCHIVES, IMAGES
from tests.unit.core.ingest.files import folders, tarred, zipped
from tests.unit.core.ingest.readers import converted, problems

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", [*ARCHIVES, *IMAGES])
def test_an_attack_is_refused(name: str, tmp_path: Path) -> None:
    attack = (ARCHIVES | IMAGES)[name]
    content = attack.make()
    start = time.process_time()
    first = problems(tmp_path, content, attack.format)[0]
    assert (first.code, first.member) == (attack.code, attack.member)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", IMAGES)
def test_a_broken_image_is_left_out_where_that_is_allowed(name: str, tmp_path: Path) -> None:
    attack = IMAGES[name]
    if attack.code == "image_too_large":
        assert problems(tmp_path, attack.make(), attack.format, max_corrupt=1)[0].code == attack.code
    else:
        made = converted(tmp_path, attack.make(), attack.format, max_corrupt=1)
        assert made.num_corrupt == 1
        assert len(made.splits.train_labels) + len(made.splits.test_labels) == 6


class TestLimits:
    @pytest.mark.parametrize("format", ["imagefolder_zip", "imagefolder_tar"])
    def test_too_many_entries(self, format: Format, tmp_path: Path) -> None:
        make = zipped if format == "imagefolder_zip" else tarred
        limits = IngestLimits(max_members=5)
        assert problems(tmp_path, make(folders()), format, limits)[0].code == "too_many_members"
        assert problems(tmp_path, make({f"{i}/": b"" for i in range(6)}), format, limits)[0].code == "too_many_members"

    @pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
    def test_a_tar_that_inflates_to_much_more(self, compression: str, tmp_path: Path) -> None:
        content = tarred({"a/0.png": bytes(1 << 20), "a/1.png": bytes(1 << 20)}, compression)
        limits = IngestLimits(always_inflated_bytes=1 << 20)
        assert problems(tmp_path, content, "imagefolder_tar", limits)[0].code == "inflates_too_much"

    def test_what_is_not_read_counts_as_well(self, tmp_path: Path) -> None:
        content = tarred({".hidden": bytes(4 << 20)} | folders(), "gz")
        limits = IngestLimits(always_inflated_bytes=1 << 20)
        assert problems(tmp_path, content, "imagefolder_tar", limits)[0].code == "inflates_too_much"

    def test_a_tar_whose_extended_header_is_large(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo("a/0.png")
            info.pax_headers = {"comment": "x" * (1 << 20)}
            archive.addfile(info)
        assert problems(tmp_path, stream.getvalue(), "imagefolder_tar")[0].code == "damaged_archive"

    def test_a_tar_of_nothing_but_extended_headers(self, tmp_path: Path) -> None:
        block = tarfile.TarInfo("././@LongLink")
        block.type, block.size = tarfile.GNUTYPE_LONGNAME, 0
        content = block.tobuf(tarfile.GNU_FORMAT) * 5000
        assert problems(tmp_path, content, "imagefolder_tar")[0].code == "damaged_archive"

    def test_a_zip_that_claims_more_entries_than_it_has(self, tmp_path: Path) -> None:
        content = zipped(folders())
        at = content.rindex(b"PK\x05\x06")
        content = content[: at + 8] + b"\xff\x00\xff\x00" + content[at + 12 :]
        assert problems(tmp_path, content, "imagefolder_zip")[0].code == "damaged_archive"

    def test_too_many_classes(self, tmp_path: Path) -> None:
        content = zipped(folders([f"class {i}" for i in range(4)], 2))
        found = problems(tmp_path, content, "imagefolder_zip", IngestLimits(max_classes=3))
        assert (found[0].code, found[0].member) == ("too_many_classes", "class 3/0.png")

    def test_a_class_with_a_long_name(self, tmp_path: Path) -> None:
        content = zipped(folders(["a", "b" * 129]))
        assert problems(tmp_path, content, "imagefolder_zip")[0].code == "bad_class_name"

    def test_a_data_set_that_would_be_too_large(self, tmp_path: Path) -> None:
        limits = IngestLimits(max_canonical_bytes=6 * 12 * 12 * 3 - 1)
        assert problems(tmp_path, zipped(folders()), "imagefolder_zip", limits)[0].code == "dataset_too_large"

    def test_only_so_many_problems_are_told(self, tmp_path: Path) -> None:
        content = zipped({f"{k}/{i}.png": b"no" for k in "ab" for i in range(30)})
        found = problems(tmp_path, content, "imagefolder_zip", IngestLimits(max_problems=7), max_corrupt=3)
        assert [problem.member for problem in found] == [f"a/{i}.png" for i in range(7)]
        assert "max_corrupt allows 3" in found[0].message

    def test_what_broke_before_a_refusal_is_told_behind_it(self, tmp_path: Path) -> None:
        found = problems(tmp_path, zipped({"a/9.png": b"no"} | folders() | {"program.exe": b"MZ"}), "imagefolder_zip")
        assert [(problem.code, problem.member) for problem in found] == [
            ("unexpected_file", "program.exe"), ("not_an_image", "a/9.png"),
        ]


def test_zip_comments_and_the_wide_format_are_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = b"PK\x05\x06 is not the end"
        for name, data in folders().items():
            with archive.open(name, "w", force_zip64=True) as target:
                target.write(data)
    assert len(converted(tmp_path, path.read_bytes(), "imagefolder_zip").splits.train_labels) == 4
