"""Whether an upload's parts are all there, and those that a client says they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.errors import DigestMismatchError, PartsMissingError, SizeMismatchError, SpecError
from core.uploads.models import Upload, UploadPart

MAX_NAMED = 20
"""Parts that one refusal names."""


def check_parts(upload: Upload, parts: Mapping[int, UploadPart], digests: Mapping[int, str]) -> None:
    """Make sure that an upload can be closed.

    Args:
        upload: whose parts they are.
        parts: by their numbers.
        digests: SHA-256 of every part by its number, as the client knows them; empty: not compared.

    Raises:
        PartsMissingError: parts are missing.
        SizeMismatchError: a part has another size than it should have.
        SpecError: the digests are not one for each part.
        DigestMismatchError: a part has other bytes than the client says.
    """
    numbers = range(1, upload.num_parts + 1)
    if missing := [number for number in numbers if number not in parts]:
        raise PartsMissingError(f"{len(missing)} of {upload.num_parts} parts are missing: {_named(missing)}")
    if wrong := [number for number in numbers if parts[number].size_bytes != upload.size_of(number)]:
        raise SizeMismatchError(f"parts have a wrong size: {_named(wrong)}")
    if not digests:
        return
    if set(digests) != set(numbers):
        raise SpecError.at("/parts", f"parts must name each of the {upload.num_parts} parts once")
    if other := [number for number in numbers if parts[number].sha256 != digests[number]]:
        raise DigestMismatchError(f"parts have other bytes than the request says: {_named(other)}")


def _named(numbers: Sequence[int]) -> str:
    more = "" if len(numbers) <= MAX_NAMED else f" and {len(numbers) - MAX_NAMED} more"
    return ", ".join(str(number) for number in numbers[:MAX_NAMED]) + more
