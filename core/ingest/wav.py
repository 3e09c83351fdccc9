"""A WAV file as samples, parsed by hand: every length that the file states is compared with the bytes there are."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.data.spectrogram import MIN_RATE
from core.ingest.samples import Corrupt, Refused

MAX_RATE = 48_000
"""Hz."""
MAX_SECONDS = 60
MAX_CHANNELS = 8
MAX_CHUNKS = 100
RIFF = struct.Struct("<4sI4s")
CHUNK = struct.Struct("<4sI")
FORMAT = struct.Struct("<HHIIHH")
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
"""Of the subformats in an extensible header, behind the two bytes that are a tag as in plain headers."""
CODINGS = {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32)}


class Wav(NamedTuple):
    """A recording whose header was checked."""

    rate: int
    """Samples per second."""
    channels: int
    coding: tuple[int, int]
    """Tag of the format, and bits of a sample."""
    data: memoryview
    """Whole frames, at least one."""
    member: str

    def samples(self) -> NDArray[np.float32]:
        """(N,) float32 in [-1, 1], the mean of the channels; floating-point samples beyond are cut off there.

        Raises:
            Corrupt: a sample is NaN or infinite.
        """
        match self.coding:
            case (1, 8):
                values = (np.frombuffer(self.data, np.uint8).astype(np.float32) - 128) / 128
            case (1, 16):
                values = np.frombuffer(self.data, "<i2").astype(np.float32) / 2**15
            case (1, 24):
                wide = np.zeros((len(self.data) // 3, 4), np.uint8)
                wide[:, 1:] = np.frombuffer(self.data, np.uint8).reshape(-1, 3)
                values = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
            case (1, 32):
                values = np.frombuffer(self.data, "<i4").astype(np.float32) / 2**31
            case _:
                values = np.frombuffer(self.data, "<f4").astype(np.float32)
                if not np.isfinite(values).all():
                    raise Corrupt("corrupt_audio", "a sample of the recording is NaN or infinite", self.member)
                values = np.clip(values, -1, 1)
        mean: NDArray[np.float32] = values.reshape(-1, self.channels).mean(axis=1, dtype=np.float32)
        return mean


def parse_wav(member: str, content: bytes) -> Wav:
    """Check the header of a WAV file.

    Raises:
        Corrupt: the file is damaged, or no WAV file.
        Refused: it is one of a kind, rate or length that is not read.
    """
    view = memoryview(content)
    if len(view) < RIFF.size or RIFF.unpack_from(view)[::2] != (b"RIFF", b"WAVE"):
        raise Corrupt("not_a_wav", "the file is not a WAV file", member)
    if not 0 <= len(view) - CHUNK.size - RIFF.unpack_from(view)[1] <= 1:  # an odd size may be padded
        raise _damaged("the file is shorter or longer than it says", member)
    chunks = _chunks(view, member)
    if b"fmt " not in chunks or b"data" not in chunks:
        raise _damaged("the file has no format or no data", member)
    channels, rate, align, coding = _format(chunks[b"fmt "], member)
    if coding not in CODINGS or not 1 <= channels <= MAX_CHANNELS:
        raise Refused(
            "unsupported_audio",
            f"the recording has {channels} channels of format {coding[0]} with {coding[1]} bits; read are 1 to {MAX_CHANNELS} "
            "channels of PCM (1) with 8, 16, 24 or 32 bits, and of floating point (3) with 32",
            member,
        )
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Refused("unsupported_rate", f"the recording has {rate} samples a second; {MIN_RATE} to {MAX_RATE} may be", member)
    data = chunks[b"data"]
    if align != channels * coding[1] // 8 or len(data) % align or not data:
        raise _damaged("the data is empty, or not a whole number of samples", member)
    if len(data) // align > MAX_SECONDS * rate:
        raise Refused("audio_too_long", f"the recording is longer than {MAX_SECONDS} seconds", member)
    return Wav(rate, channels, coding, data, member)


def _chunks(view: memoryview, member: str) -> dict[bytes, memoryview]:
    """The content of each chunk by its name; of those with one name the first."""
    found: dict[bytes, memoryview] = {}
    at = RIFF.size
    for _ in range(MAX_CHUNKS):
        if at >= len(view):
            return found
        if at + CHUNK.size > len(view):
            break
        name, size = CHUNK.unpack_from(view, at)
        at += CHUNK.size
        if at + size > len(view):
            raise _damaged("a part of the file is longer than the rest of it", member)
        found.setdefault(name, view[at : at + size])
        at += size + size % 2
    raise _damaged(f"the file has more than {MAX_CHUNKS} parts, or ends within the name of one", member)


def _format(chunk: memoryview, member: str) -> tuple[int, int, int, tuple[int, int]]:
    """Channels, rate, bytes of a frame, and coding."""
    if len(chunk) < FORMAT.size:
        raise _damaged("the format is cut off", member)
    tag, channels, rate, _, align, bits = FORMAT.unpack_from(chunk)
    if tag == EXTENSIBLE:
        if len(chunk) < 40 or bytes(chunk[26:40]) != GUID_TAIL:
            raise _damaged("the extended format is cut off, or unknown", member)
        tag = int.from_bytes(chunk[24:26], "little")
    return channels, rate, align, (tag, bits)


def _damaged(what: str, member: str) -> Corrupt:
    return Corrupt("corrupt_audio", what, member)
