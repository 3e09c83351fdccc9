"""A tar of samples as WebDataset writes them: members that share a key stand side by side.

A key is a name up to the first dot of its last part. `KEY.cls`, or else `label_column` of `KEY.json`, is the class, and
`KEY.png|jpg|webp` the image. A first folder of the key with the name of a split is the split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from core.ingest.folders import SPLITS
from core.ingest.images import SUFFIXES, image_sample
from core.ingest.labels import label_text
from core.ingest.members import Member, open_members
from core.ingest.samples import Refused, Sample
from core.specs.ingest import ConversionSpec, IngestLimits

_MAX_LABEL_BYTES = 64 << 10
_LABELS = (".cls", ".json")


class _Group:
    """The members of one key, so far."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.image: tuple[str, bytes] | None = None
        """Name and content."""
        self.labels: dict[str, str] = {}
        """Class by the suffix that says it."""

    def sample(self, limits: IngestLimits) -> Sample:
        if self.image is None:
            raise Refused("missing_image", f"the key has no image ({', '.join(SUFFIXES)})", self.key)
        label = self.labels.get(".cls") or self.labels.get(".json")
        if not label:
            raise Refused("missing_label", "the key has no class, in .cls or .json", self.key)
        name, content = self.image
        folder, slash, _ = self.key.partition("/")
        return image_sample(name, label, SPLITS.get(folder.lower(), "") if slash else "", content, limits)


class WebDatasetReader:
    """One tar, which may be compressed."""

    class_names: tuple[str, ...] = ()

    def __init__(self, path: Path, conversion: ConversionSpec, limits: IngestLimits) -> None:
        self._path, self._column, self._limits = path, conversion.label_column, limits
        self.notes: tuple[str, ...] = ()

    def samples(self) -> Iterator[Sample]:
        """Every key in the order of the tar; see `Reader`."""
        group: _Group | None = None
        keys: set[bytes] = set()
        others: dict[str, int] = {}
        for member in open_members(self._path, "tar", self._limits):
            key, suffix = _key_and_suffix(member.name)
            if group is None or key != group.key:
                if group is not None:
                    yield group.sample(self._limits)
                group = _Group(key)
                _require_new(key, keys)
            if suffix in SUFFIXES:
                if group.image is not None:
                    raise Refused("several_images", "the key has more than one image", member.name)
                group.image = member.name, member.read()
            elif suffix in _LABELS:
                group.labels[suffix] = self._label(suffix, member)
            else:
                others[suffix] = others.get(suffix, 0) + 1
        if group is not None:
            yield group.sample(self._limits)
        self.notes = tuple(f"{count} member(s) of kind {suffix!r} were left out." for suffix, count in sorted(others.items()))

    def _label(self, suffix: str, member: Member) -> str:
        """The class; empty where a JSON file does not say it."""
        if member.size > _MAX_LABEL_BYTES:
            raise Refused("bad_labels", f"the file with the class is larger than {_MAX_LABEL_BYTES} bytes", member.name)
        try:
            text = member.read().decode("utf-8-sig")
            if suffix == ".cls":
                return label_text(text, member.name)
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Refused("bad_labels", f"the class cannot be read: {error}", member.name) from error
        if not isinstance(content, dict) or self._column not in content:
            return ""
        return label_text(content[self._column], member.name)


def _key_and_suffix(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", dot + suffix.lower()


def _require_new(key: str, keys: set[bytes]) -> None:
    short = blake2b(key.encode(), digest_size=16).digest()
    if short in keys:
        raise Refused("scattered_key", "members of this key do not stand side by side", key)
    keys.add(short)
