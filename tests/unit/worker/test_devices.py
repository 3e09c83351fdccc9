"""GPUs as nvidia-smi lists them. Simulated: the program is a script of the test's that prints what the real one prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.devices import DeviceError, chosen, first_for, listed

pytestmark = pytest.mark.unit

TWO = "GPU-aaaa, NVIDIA H200, 143771, 570.86.15\nGPU-bbbb, NVIDIA H200, 143771, 570.86.15\n"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return path


def says(path: Path, text: str, code: int = 0) -> None:
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {code}\n")
    path.chmod(0o755)


def test_each_gpu_is_described(smi: Path) -> None:
    says(smi, TWO)
    first, second = listed()
    assert first == {"uuid": "GPU-aaaa", "name": "NVIDIA H200", "memory_bytes": 143771 << 20, "driver": "570.86.15"}
    assert second["uuid"] == "GPU-bbbb"


def test_without_a_driver_there_is_none(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(smi.parent))
    assert listed() == []
    with pytest.raises(DeviceError, match="no GPU"):
        chosen("all")


@pytest.mark.parametrize(("text", "code"), [("Unable to determine the device handle\n", 9), ("[Unknown Error]\n", 0)])
def test_a_driver_that_fails_is_said_to(smi: Path, text: str, code: int) -> None:
    says(smi, text, code)
    with pytest.raises(DeviceError, match=text.strip().strip("[]")):
        listed()


@pytest.mark.parametrize(
    ("wanted", "uuids"), [("all", ["GPU-aaaa", "GPU-bbbb"]), ("1", ["GPU-bbbb"]), ("GPU-bbbb, 0", ["GPU-bbbb", "GPU-aaaa"])]
)
def test_gpus_are_chosen_by_uuid_or_index(smi: Path, wanted: str, uuids: list[str]) -> None:
    says(smi, TWO)
    assert [gpu["uuid"] for gpu in chosen(wanted)] == uuids


@pytest.mark.parametrize(
    ("wanted", "text"), [("2", "no GPU '2'"), ("GPU-cccc", "GPU-aaaa"), ("0,GPU-aaaa", "twice"), ("0,", "no GPU ''")]
)
def test_a_gpu_that_is_not_there_is_refused(smi: Path, wanted: str, text: str) -> None:
    says(smi, TWO)
    with pytest.raises(DeviceError, match=text):
        chosen(wanted)


def test_a_worker_of_the_queue_gpu_takes_the_first_and_does_not_serve_with_a_driver_that_has_none(smi: Path) -> None:
    assert first_for(["gpu"]) == []
    says(smi, TWO)
    assert first_for(["cpu"]) == []
    assert [gpu["uuid"] for gpu in first_for(["cpu", "gpu"])] == ["GPU-aaaa"]
    says(smi, "")
    with pytest.raises(DeviceError, match="knows no GPU"):
        first_for(["gpu"])
    says(smi, "Unable to determine the device handle\n", 9)
    with pytest.raises(DeviceError, match="Unable"):
        first_for(["gpu"])
