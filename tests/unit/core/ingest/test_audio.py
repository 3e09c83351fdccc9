"""WAV files and their spectrograms: a naive form of the reference, headers that lie, and folders of recordings."""

from __future__ import annotations

import io
import struct
import tarfile
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.data.spectrogram import FLOOR, LOUDEST, spectrogram, top_frequency
from core.ingest.audio import AudioReader
from core.ingest.samples import Corrupt, Refused
from core.ingest.wav import GUID_TAIL, parse_wav
from core.specs.ingest import ConversionSpec, IngestLimits
from tests.unit.core.ingest.mutations import mutated, read_all, refusal

pytestmark = pytest.mark.unit

LIMITS = IngestLimits()
RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000)


def tone(frequency: float, rate: int = 16_000, seconds: float = 1.0, loudness: float = 0.5) -> NDArray[np.float32]:
    times = np.arange(round(rate * seconds)) / rate
    return (loudness * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def noise(count: int = 16_000, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-0.7, 0.7, count).astype(np.float32)


def wav(
    data: bytes, rate: int = 16_000, channels: int = 1, bits: int = 16, tag: int = 1, before: bytes = b"", **lies: int
) -> bytes:
    """A file of one format chunk and one data chunk; `lies` replace what its headers say."""
    align = lies.get("align", channels * bits // 8)
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits) + before
    chunks = b"fmt " + struct.pack("<I", lies.get("format_size", len(form))) + form
    chunks += b"data" + struct.pack("<I", lies.get("data_size", len(data))) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", lies.get("riff_size", 4 + len(chunks))) + b"WAVE" + chunks


def pcm16(samples: NDArray[np.float32]) -> bytes:
    return np.rint(samples * 32767).astype("<i2").tobytes()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def reader(path: Path) -> AudioReader:
    return AudioReader(path, "tar" if path.suffix == ".tar" else "zip", ConversionSpec(), LIMITS)


def magnitudes(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Back from brightness, low frequencies first."""
    span = np.log(LOUDEST + FLOOR) - np.log(FLOOR)
    result: NDArray[np.float64] = np.exp(picture[::-1] / 255 * span + np.log(FLOOR)) - FLOOR
    return result


class TestSpectrogram:
    def test_nothing_and_low_rates_have_no_picture(self) -> None:
        for samples, rate in ((noise(0), 16_000), (noise(100), 7_999)):
            with pytest.raises(ValueError, match="at least one"):
                spectrogram(samples, rate)

    @pytest.mark.parametrize("count", [1, 200, 9_000, 16_000])
    def test_up_to_a_second_at_16_khz_it_is_that_of_the_reference(self, count: int) -> None:
        """A Hann window of 255 every 128 samples, one empty frame before and two after, means of 2 x 2, log(x + 0.001)."""
        samples = noise(count)
        padded = np.zeros(127 + 16_000 + 127)
        padded[127 : 127 + count] = samples
        window = [0.5 - 0.5 * np.cos(2 * np.pi * i / 255) for i in range(255)]
        frames = np.zeros((128, 128))
        for frame in range(125):
            frames[:, frame + 1] = np.abs(np.fft.fft(padded[128 * frame : 128 * frame + 255] * window))[:128]
        expected = np.log(frames.reshape(64, 2, 64, 2).mean(axis=(1, 3)) + 1e-3)
        found = np.log(magnitudes(spectrogram(samples, 16_000)) + 1e-3)
        step = (np.log(LOUDEST + FLOOR) - np.log(FLOOR)) / 255
        assert np.abs(found - expected).max() <= step / 2 + 1e-9

    def test_silence_is_black_and_a_constant_is_white_at_the_bottom(self) -> None:
        assert spectrogram(np.zeros(16_000, np.float32), 16_000).max() == 0
        constant = spectrogram(np.ones(16_000, np.float32), 16_000)
        # The lowest two frequencies have 127.5 and, beside the peak of a Hann window, half of that: 95.6 on average.
        assert magnitudes(constant)[0, 5:-5] == pytest.approx(0.75 * LOUDEST, rel=0.03)
        assert constant[:62, 5:-5].max() == 0

    @pytest.mark.parametrize("rate", RATES)
    def test_a_tone_lies_at_its_frequency_and_is_as_loud_at_every_rate(self, rate: int) -> None:
        for frequency in (500, 1000, 3000):
            picture = spectrogram(tone(frequency, rate), rate)
            row = int(picture[:, 30].argmax())
            assert abs((63.5 - row) / 64 * top_frequency(rate) - frequency) < top_frequency(rate) / 50
        if rate >= 16_000:
            reference = spectrogram(tone(1000), 16_000).astype(int)
            assert np.abs(spectrogram(tone(1000, rate), rate)[:, 5:-5].astype(int) - reference[:, 5:-5])[54:58].max() <= 6

    def test_frequencies_beyond_8_khz_are_left_out(self) -> None:
        assert spectrogram(tone(12_000, 48_000), 48_000)[:, 5:-5].max() < 5

    def test_time_runs_to_the_right_and_short_recordings_are_followed_by_silence(self) -> None:
        picture = spectrogram(tone(1000, seconds=0.5), 16_000)
        assert picture[:, 1:31].max(axis=0).min() > 200
        assert picture[:, 33:].max() == 0

    @pytest.mark.parametrize("seconds", [1.5, 4.0, 60.0])
    def test_long_recordings_are_shown_from_the_beginning_to_the_end(self, seconds: float) -> None:
        samples = np.concatenate([tone(1000, 8_000, seconds / 2), tone(3000, 8_000, seconds / 2)])
        picture = spectrogram(samples, 8_000)
        rows = picture.argmax(axis=0)
        assert set(rows[2:31]) == {47}
        assert set(rows[33:62]) == {16} or set(rows[33:62]) == {15}

    def test_the_samples_are_not_changed(self) -> None:
        samples = noise()
        before = samples.copy()
        first = spectrogram(samples, 16_000)
        assert np.array_equal(samples, before)
        assert np.array_equal(first, spectrogram(samples, 16_000))
        assert (first.shape, first.dtype, first.flags["C_CONTIGUOUS"]) == ((64, 64), np.uint8, True)


class TestWav:
    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (b"", "not_a_wav"),
            (b"RIFF", "not_a_wav"),
            (b"RIFX" + wav(b"\0\0")[4:], "not_a_wav"),
            (b"\x89PNG" + b"\0" * 100, "not_a_wav"),
            (wav(b"\0\0", riff_size=2**32 - 1), "corrupt_audio"), (wav(b"\0\0", riff_size=0), "corrupt_audio"),
            (wav(b"\0\0", data_size=2**32 - 1), "corrupt_audio"), (wav(b"\0\0", data_size=4), "corrupt_audio"),
            (wav(b"\0\0", format_size=2**31), "corrupt_audio"), (wav(b"\0\0", format_size=0), "corrupt_audio"),
            (wav(b""), "corrupt_audio"), (wav(b"\0\0\0"), "corrupt_audio"), (wav(b"\0\0", align=0), "corrupt_audio"),
            (wav(b"\0\0", align=4), "corrupt_audio"), (wav(b"\0\0") + b"PK\x03\x04", "corrupt_audio"),
            (b"RIFF" + struct.pack("<I", 4) + b"WAVE", "corrupt_audio"),
            (b"RIFF" + struct.pack("<I", 4 + 8 * 200) + b"WAVE" + (b"LIST" + b"\0" * 4) * 200, "corrupt_audio"),
            (wav(b"\0\0", tag=0xFFFE, before=b"\0" * 10), "corrupt_audio"),
            (wav(b"\0\0", tag=0xFFFE, before=b"\0" * 24), "corrupt_audio"),
            (wav(np.float32([0, np.nan, 0]).tobytes(), bits=32, tag=3), "corrupt_audio"),
            (wav(np.float32([0, np.inf, 0]).tobytes(), bits=32, tag=3), "corrupt_audio"),
        ],
    )
    def test_damaged_files_are_corrupt_and_named(self, content: bytes, code: str) -> None:
        with pytest.raises(Corrupt) as caught:
            parse_wav("a/b.wav", content).samples()
        assert (caught.value.problem.code, caught.value.problem.member) == (code, "a/b.wav")

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (wav(b"\0\0", tag=2), "unsupported_audio"), (wav(b"\0\0", tag=7, bits=8), "unsupported_audio"),
            (wav(b"\0" * 8, tag=3, bits=64), "unsupported_audio"), (wav(b"\0\0", bits=12), "unsupported_audio"),
            (wav(b"\0\0", channels=0), "unsupported_audio"), (wav(b"\0\0" * 9, channels=9), "unsupported_audio"),
            (wav(b"\0\0", rate=7_999), "unsupported_rate"), (wav(b"\0\0", rate=48_001), "unsupported_rate"),
            (wav(b"\0\0", rate=0), "unsupported_rate"), (wav(b"\0" * (60 * 8_000 + 1), rate=8_000, bits=8), "audio_too_long"),
        ],
    )
    def test_files_beyond_the_rules_are_refused_and_named(self, content: bytes, code: str) -> None:
        with pytest.raises(Refused) as caught:
            parse_wav("a/b.wav", content)
        assert (type(caught.value), caught.value.problem.code, caught.value.problem.member) == (Refused, code, "a/b.wav")

    def test_every_coding_gives_the_same_samples(self) -> None:
        samples = noise(999)
        wide = np.rint(samples.astype(np.float64) * 2**31).astype("<i4")
        stored: list[tuple[bytes, dict[str, Any], float]] = [
            (np.rint(samples * 128 + 128).astype(np.uint8).tobytes(), {"bits": 8}, 2**-8),
            (pcm16(samples), {"bits": 16}, 2**-14),
            (wide.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes(), {"bits": 24}, 2**-22), (wide.tobytes(), {"bits": 32}, 2**-23),
            (samples.tobytes(), {"bits": 32, "tag": 3}, 0.0),
            (samples.tobytes(), {"bits": 32, "tag": 0xFFFE, "before": struct.pack("<HHIH", 22, 32, 4, 3) + GUID_TAIL}, 0.0),
        ]
        for data, options, error in stored:
            found = parse_wav("x", wav(data, **options)).samples()
            assert found.dtype == np.float32
            assert np.abs(found - samples).max() <= error

    def test_channels_are_averaged_and_floating_point_is_cut_off_at_one(self) -> None:
        stereo = np.float32([[0.5, 0.25], [-1, 1], [3, 1], [-4, -1]])
        assert parse_wav("x", wav(stereo.tobytes(), channels=2, bits=32, tag=3)).samples().tolist() == [0.375, 0, 1, -1]

    def test_files_of_the_standard_library_and_other_parts_are_read(self) -> None:
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setparams((1, 2, 22_050, 0, "NONE", ""))
            file.writeframes(pcm16(noise(501)))
        found = parse_wav("x", stream.getvalue())
        assert (found.rate, len(found.samples())) == (22_050, 501)
        body = b"LIST" + struct.pack("<I", 3) + b"abc\0" + wav(pcm16(noise(7)))[12:] + b"id3 " + struct.pack("<I", 0)
        assert len(parse_wav("x", b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body).samples()) == 7

    def test_damaged_copies_are_read_or_refused(self) -> None:
        content = wav(pcm16(noise(300)), before=b"\0\0")
        drawn = refused = 0
        for data in [*mutated(content[:60], 4, 150), *mutated(wav(noise(40).tobytes(), bits=32, tag=3), 5, 150)]:
            try:
                found = parse_wav("x", data + content[60:] if len(data) < 100 else data)
                assert spectrogram(found.samples(), found.rate).shape == (64, 64)
                drawn += 1
            except Refused:
                refused += 1
        assert drawn > 20
        assert refused > 100


class TestAudioReader:
    def files(self) -> dict[str, bytes]:
        return {
            f"top/{split}/{label}/{i}.WAV": wav(pcm16(tone(500 * (i + 1), seconds=0.2)))
            for split in ("train", "test") for label in ("yes", "no") for i in range(2)
        }

    @pytest.mark.parametrize("name", ["x.zip", "x.tar"])
    def test_folders_of_recordings_become_pictures(self, tmp_path: Path, name: str) -> None:
        path = zipped(tmp_path / "x.zip", self.files() | {"top/README.md": b"words"})
        if name == "x.tar":
            with tarfile.open(tmp_path / name, "w") as archive, zipfile.ZipFile(path) as source:
                for info in source.infolist():
                    member = tarfile.TarInfo(info.filename)
                    member.size = info.file_size
                    archive.addfile(member, io.BytesIO(source.read(info)))
        recordings = reader(tmp_path / name)
        samples = read_all(recordings)
        assert [(s.split, s.label, s.size) for s in samples[::2]] == [
            (split, label, (64, 64, 1)) for split in ("train", "test") for label in ("yes", "no")
        ]
        drawn = spectrogram(parse_wav("", self.files()[samples[1].member]).samples(), 16_000)
        assert np.array_equal(samples[1].decode()[..., 0], drawn)
        assert len(recordings.notes) == 1
        assert "README.md" in recordings.notes[0]
        assert [sample.member for sample in recordings.samples()] == [sample.member for sample in samples]

    def test_a_broken_recording_is_a_sample_that_cannot_be_decoded(self, tmp_path: Path) -> None:
        content = self.files() | {"top/train/yes/z.wav": b"nothing"}
        samples = list(reader(zipped(tmp_path / "x.zip", content)).samples())
        assert [sample.size for sample in samples] == [(64, 64, 1)] * 8 + [(0, 0, 0)]
        with pytest.raises(Corrupt) as caught:
            samples[-1].decode()
        assert caught.value.problem.member == "top/train/yes/z.wav"

    def test_recordings_outside_the_rules_refuse_the_whole(self, tmp_path: Path) -> None:
        for name, content, code in (
            ("top/train/yes/long.wav", wav(b"\x80" * 8_000 * 61, 8_000, bits=8), "audio_too_long"),
            ("top/train/yes/low.wav", wav(pcm16(noise(99)), 8_000), "mixed_rates"),
            ("top/train/yes/photo.png", b"", "unexpected_file"), ("other/z.wav", wav(pcm16(noise(99))), "nested_too_deep"),
        ):
            found = refusal(lambda n=name, c=content: reader(zipped(tmp_path / "x.zip", self.files() | {n: c})))
            assert (found.code, found.member) == (code, name)

    def test_rates_of_16_khz_and_more_may_be_mixed(self, tmp_path: Path) -> None:
        content = {f"a/{rate}.wav": wav(pcm16(tone(1000, rate)), rate) for rate in (16_000, 44_100, 48_000)}
        pictures = [sample.decode() for sample in reader(zipped(tmp_path / "x.zip", content)).samples()]
        assert {int(picture[:, 30, 0].argmax()) for picture in pictures} == {55}
