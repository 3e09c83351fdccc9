"""The child as the supervisor sees it: a process, a job directory, lines, signals, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.numpy import load_file

from core.catalogue import dataset_info
from core.errors import DeviceFaultError, DeviceUnavailableError, DistillError, InvalidInputError
from core.machine import choose_device
from core.report.decode_factors import decode
from core.run import failure_of
from core.specs.job import DataOptions, DistillationSpec, ExpertsSpec, JobSpec
from core.specs.report import (
    EXPERTS_DIR,
    ArtifactLine,
    CheckpointLine,
    ErrorLine,
    EvaluatedUnits,
    ExitCode,
    JobFile,
    MetricLine,
    PhaseLine,
    ProgressLine,
    ResultLine,
    UnitsLine,
    WarningLine,
    parse_line,
)
from core.specs.requirements import evaluation_jobs, required_experts
from core.specs.run_options import ResourcesSpec

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


class Child:
    """`python -m core.run` in its own session, with a pipe as its life line."""

    def __init__(self, folder: Path) -> None:
        environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "core.run", str(folder)], cwd=ROOT, env=environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )

    def lines(self) -> Iterator[BaseModel]:
        assert self.process.stdout is not None
        return map(parse_line, self.process.stdout)

    def finish(self) -> tuple[int, list[BaseModel], str]:
        assert self.process.stdin is not None
        lines = list(self.lines())
        assert self.process.stderr is not None
        log = self.process.stderr.read().decode()
        code = self.process.wait(timeout=60)
        self.close()
        return code, lines, log

    def stopped_in(self, phase: str, step: int) -> CheckpointLine:
        """Send SIGTERM once a phase is past a step; the checkpoint that the process leaves."""
        for line in self.lines():
            if isinstance(line, ProgressLine) and line.phase == phase and line.step > step:
                self.process.send_signal(signal.SIGTERM)
                break
        code, lines, log = self.finish()
        assert code == ExitCode.STOPPED, log
        return of(CheckpointLine, lines)[-1]

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def write_job(folder: Path, spec: JobSpec, dataset_dir: Path, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    job = {
        "job_id": "job_1", "attempt": 1, "spec": spec.model_dump(mode="json"), "dataset_dir": str(dataset_dir),
        "dataset": dataset_info(spec.dataset.name) if isinstance(spec, DataOptions) else None,
    }
    (folder / "job.json").write_text(JobFile.model_validate(job | fields).model_dump_json())
    return folder


def of(kind: type[Any], lines: list[BaseModel]) -> list[Any]:
    return [line for line in lines if isinstance(line, kind)]


def only_error(lines: list[BaseModel]) -> ErrorLine:
    (error,) = of(ErrorLine, lines)
    assert isinstance(error, ErrorLine)
    return error


class TestRefusals:
    def test_bad_specification(self, tmp_path: Path) -> None:
        (tmp_path / "job.json").write_text('{"job_id": "j", "attempt": 1, "spec": {}, "dataset_dir": "x"}')
        code, lines, _ = Child(tmp_path).finish()
        assert code == ExitCode.BAD_SPEC
        assert only_error(lines).code == "validation_failed"

    def test_missing_data(self, tmp_path: Path, small_spec: Any) -> None:
        code, lines, _ = Child(write_job(tmp_path, small_spec(), tmp_path / "nothing")).finish()
        assert code == ExitCode.BAD_DATA
        assert only_error(lines).code == "dataset_unreadable"

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    def test_gpu_that_is_not_there(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        spec = small_spec(resources={"gpus": 1})
        code, lines, _ = Child(write_job(tmp_path, spec, digits_dir)).finish()
        assert code == ExitCode.INTERNAL
        assert only_error(lines).code == "device_unavailable"

    def test_checkpoint_of_another_job(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        code, _, _ = Child(write_job(tmp_path, small_spec(), digits_dir)).finish()
        assert code == ExitCode.OK
        (newest,) = (tmp_path / "checkpoints").iterdir()
        write_job(tmp_path, small_spec(seed=1), digits_dir, checkpoint=f"checkpoints/{newest.name}")
        code, lines, _ = Child(tmp_path).finish()
        assert code == ExitCode.BAD_DATA
        assert only_error(lines).code == "invalid_input"

    def test_learning_rate_that_diverges(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        spec = small_spec(method={"optimizer": {"lr_img": 1e6}, "num_iterations": 200, "network": {"norm": "none"}})
        code, lines, _ = Child(write_job(tmp_path, spec, digits_dir)).finish()
        assert code == ExitCode.DIVERGED
        error = only_error(lines)
        assert error.code == "diverged"
        assert "iteration" in error.message
        assert not of(ResultLine, lines)


class TestWholeJob:
    def test_a_factorized_set_leaves_its_factors(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        spec = small_spec(
            recipe="haba_dm", dataset={"held_out_fraction": 0.1}, evaluation={"held_out_every_iterations": 2},
            method={"parameterization": {"num_hallucinators": 3}},
        )
        code, lines, log = Child(write_job(tmp_path, spec, digits_dir)).finish()
        assert code == ExitCode.OK, log
        files = {line.name for line in of(ArtifactLine, lines)}
        assert {"factors.safetensors", "decode_factors.py", "data.safetensors"} <= files
        report = json.loads((tmp_path / "out/report.json").read_text())
        assert report["size"]["decoded_images"] == 3 * report["size"]["images_per_epoch"]
        assert report["curves"]["held_out/accuracy"]["steps"] == [2, 4]
        images, labels = decode(load_file(tmp_path / "out/factors.safetensors"))
        data = load_file(tmp_path / "out/data.safetensors")
        np.testing.assert_allclose(images, data["images"], rtol=1e-5, atol=1e-5)
        assert labels.tolist() == data["labels"].tolist()

    def test_says_what_it_does_and_leaves_artifacts(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        code, lines, log = Child(write_job(tmp_path, small_spec(), digits_dir)).finish()
        assert code == ExitCode.OK, log
        assert [line.phase for line in of(PhaseLine, lines)] == ["preparing", "distilling", "evaluating", "reporting"]
        artifacts = of(ArtifactLine, lines)
        assert artifacts
        assert all((tmp_path / line.file).is_file() for line in artifacts)
        result = lines[-1]
        assert isinstance(result, ResultLine)
        assert {score["name"]: score["n"] for score in result.summary["scores"]} == {
            "distilled": 2, "distilled_8bit": 2, "random": 1,
        }
        assert result.summary["peak_memory_bytes"] > 1e6
        assert result.summary["seconds"]["distilling"] > 0
        last = {line.phase: (line.step, line.total_steps) for line in of(ProgressLine, lines)}
        assert last["distilling"] == (4, 4)
        assert last["evaluating"] == (15, 15)

    def test_stray_output_of_libraries_becomes_log(self) -> None:
        script = (
            "import os, subprocess; from core.child import Lines; from core.specs.report import WarningLine\n"
            "lines = Lines(); print('stray', flush=True); os.write(1, b'stray'); subprocess.run(['echo', 'stray'])\n"
            "lines.write(WarningLine(code='a', message='b'))"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, timeout=60)
        assert [parse_line(line).type for line in done.stdout.splitlines()] == ["warning"]
        assert done.stderr.count(b"stray") == 3


class TestStop:
    def test_sigterm_checkpoints_and_a_resumed_job_has_the_same_bytes(
        self, tmp_path: Path, small_spec: Any, digits_dir: Path
    ) -> None:
        spec = small_spec(method={"num_iterations": 400})
        code, _, log = Child(write_job(tmp_path / "whole", spec, digits_dir)).finish()
        assert code == ExitCode.OK, log

        folder = write_job(tmp_path / "stopped", spec, digits_dir)
        child = Child(folder)
        checkpoint = child.stopped_in("distilling", 10)
        assert 10 < checkpoint.step < 400

        write_job(folder, spec, digits_dir, checkpoint=checkpoint.file, attempt=2)
        code, lines, log = Child(folder).finish()
        assert code == ExitCode.OK, log
        assert of(ResultLine, lines)[0].summary["resumed_from_step"] == checkpoint.step
        whole, resumed = ((tmp_path / n / "out" / "data.safetensors").read_bytes() for n in ("whole", "stopped"))
        assert resumed == whole

    def test_sigterm_during_evaluation_keeps_finished_units(
        self, tmp_path: Path, small_spec: Any, digits_dir: Path
    ) -> None:
        spec = small_spec(method={"num_iterations": 1}, evaluation={"num_epochs": 400})
        folder = write_job(tmp_path, spec, digits_dir)
        child = Child(folder)
        write_job(folder, spec, digits_dir, checkpoint=child.stopped_in("evaluating", 450).file)
        code, lines, log = Child(folder).finish()
        assert code == ExitCode.OK, log
        evaluating = [line for line in of(ProgressLine, lines) if line.phase == "evaluating"]
        assert evaluating[0].step > 400

    def test_end_of_the_life_line_kills_the_group(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        spec = small_spec(method={"num_iterations": 1_000_000})
        child = Child(write_job(tmp_path, spec, digits_dir))
        next(line for line in child.lines() if isinstance(line, ProgressLine))
        assert child.process.stdin is not None
        child.process.stdin.close()
        started = time.monotonic()
        assert child.process.wait(timeout=30) == -signal.SIGKILL
        assert time.monotonic() - started < 10
        child.close()


def needed_pool(spec: DistillationSpec, **changes: Any) -> tuple[str, ExpertsSpec]:
    """Content key and job of the one pool that a specification needs."""
    ((key, job),) = required_experts(spec, dataset_info("digits").identity).items()
    return key, job.model_copy(update={"pool": job.pool.model_copy(update=changes)})


def pool_method(**pool: Any) -> dict[str, Any]:
    return {"models": {"kind": "pretrained_pool", "num_networks": 3, "training": {"num_epochs": 2}} | pool}


class TestDelegation:
    def test_units_evaluated_by_other_jobs_give_the_same_scores(
        self, tmp_path: Path, small_spec: Any, digits_dir: Path
    ) -> None:
        spec = small_spec()
        code, lines, log = Child(write_job(tmp_path / "whole", spec, digits_dir)).finish()
        assert code == ExitCode.OK, log
        whole = of(ResultLine, lines)[0].summary

        parent = write_job(tmp_path / "parent", spec, digits_dir, units_per_job=3)
        code, lines, log = Child(parent).finish()
        assert code == ExitCode.WAITING, log
        (left,) = of(UnitsLine, lines)
        assert len(left.set_digest) == 64
        assert left.units == ("distilled/0", "distilled/1", "distilled_8bit/0", "distilled_8bit/1", "random/0")
        assert not of(ResultLine, lines)
        checkpoint = parent / of(CheckpointLine, lines)[-1].file

        evaluated = []
        for key, part in evaluation_jobs("job_1", spec, left.units, left.set_digest, 3).items():
            folder = write_job(tmp_path / key, part, digits_dir, checkpoint=str(checkpoint))
            code, lines, log = Child(folder).finish()
            assert code == ExitCode.OK, log
            assert [line.kind for line in of(ArtifactLine, lines)] == ["evaluation"]
            evaluated.append(EvaluatedUnits.model_validate(of(ResultLine, lines)[0].summary))
            assert tuple(evaluated[-1].units) == part.units
        assert [len(found.units) for found in evaluated] == [3, 2]
        assert [bool(found.series) for found in evaluated] == [True, False]

        write_job(parent, spec, digits_dir, units_per_job=3, evaluated=evaluated, checkpoint=str(checkpoint), attempt=2)
        code, lines, log = Child(parent).finish()
        assert code == ExitCode.OK, log
        assert of(ResultLine, lines)[0].summary["scores"] == whole["scores"]
        curves = [json.loads((tmp_path / name / "out/report.json").read_text())["curves"] for name in ("whole", "parent")]
        assert curves[0] == curves[1]

    def test_a_set_that_has_gone(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        (part,) = evaluation_jobs("job_1", small_spec(), ["distilled/0"], "0" * 64, 1).values()
        code, lines, _ = Child(write_job(tmp_path, part, digits_dir)).finish()
        assert code == ExitCode.BAD_DATA
        assert "the job that made it is over" in only_error(lines).message


class TestExperts:
    def test_the_pool_of_one_job_serves_another(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        spec = small_spec(method=pool_method())
        key, experts = needed_pool(spec)
        code, lines, log = Child(write_job(tmp_path / "experts", experts, digits_dir)).finish()
        assert code == ExitCode.OK, log
        assert [line.phase for line in of(PhaseLine, lines)] == ["preparing", "training", "reporting"]
        last = [line for line in of(ProgressLine, lines) if line.phase == "training"][-1]
        assert last.step == last.total_steps > 0
        networks, manifest = of(ArtifactLine, lines)
        assert (networks.kind, manifest.kind) == ("experts", "manifest")
        told = json.loads((tmp_path / "experts" / manifest.file).read_text())
        made = tmp_path / "experts" / networks.file
        assert told["content_key"] == key
        assert told["files"][networks.name]["sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
        summary = of(ResultLine, lines)[0].summary
        assert summary["accuracies"] == [line.value for line in of(MetricLine, lines)]
        assert all(0 < accuracy <= 1 for accuracy in summary["accuracies"])
        assert summary["seconds"]["training"] > 0

        folder = write_job(tmp_path / "distillation", spec, digits_dir)
        (folder / EXPERTS_DIR).mkdir()
        shutil.copy(made, folder / EXPERTS_DIR / f"{key}.safetensors")
        code, lines, log = Child(folder).finish()
        assert code == ExitCode.OK, log
        assert of(ResultLine, lines)

    @pytest.mark.parametrize(("parameterization", "stored"), [
        ({"kind": "pixels"}, {"pixels": 640, "labels": 100}),
        (
            {"kind": "bases_hallucinators", "num_hallucinators": 2},
            {"bases": 640, "hallucinators": 2 * 92, "labels": 200},
        ),
    ])
    def test_trajectories_serve_a_whitened_set_with_a_rate_and_labels_of_its_own(
        self, tmp_path: Path, small_spec: Any, digits_dir: Path, parameterization: dict[str, Any], stored: dict[str, int]
    ) -> None:
        spec = small_spec(
            recipe="datm", scale="small", ipc=1, evaluation={"check_8bit": True},
            method={
                "preprocessing": {"kind": "zca"}, "network": {"width": 8}, "num_iterations": 4,
                "models": {"num_networks": 2, "training": {"num_epochs": 6}},
                "optimizer": {"lr_img": 1.0, "lr_hallucinator": 1e-4, "lr_rate": 0.001}, "parameterization": parameterization,
            },
        )
        key, experts = needed_pool(spec)
        code, lines, log = Child(write_job(tmp_path / "experts", experts, digits_dir)).finish()
        assert code == ExitCode.OK, log
        folder = write_job(tmp_path / "distillation", spec, digits_dir)
        (folder / EXPERTS_DIR).mkdir()
        shutil.copy(tmp_path / "experts" / "out" / "experts.safetensors", folder / EXPERTS_DIR / f"{key}.safetensors")
        code, lines, log = Child(folder).finish()
        assert code == ExitCode.OK, log
        rate = of(ResultLine, lines)[0].summary["learned_rate"]
        assert rate != pytest.approx(0.01, rel=1e-6)
        with safe_open(folder / "out" / "data.safetensors", framework="pt") as file:
            assert {"images", "labels", "soft_labels", "whitening_mean", "whitening_matrix"} == set(file.keys())
            assert float(file.metadata()["learned_rate"]) == rate
            soft = file.get_tensor("soft_labels")
            torch.testing.assert_close(soft.sum(1), torch.ones(stored["labels"] // 10))
            images = file.get_tensor("images")
        if "bases" in stored:
            decoded, _ = decode(load_file(folder / "out" / "factors.safetensors"))
            np.testing.assert_allclose(decoded, images, rtol=1e-4, atol=1e-5)
            assert len(soft.unique(dim=0)) == len(images) == 20
        report = json.loads((folder / "out" / "report.json").read_text())
        assert report["budget"]["stored_by_kind"] == stored
        assert report["budget"]["over_budget"]

    def test_trajectories_that_are_too_large_are_not_made(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        _, experts = needed_pool(small_spec(recipe="mtt", scale="small"))
        code, lines, _ = Child(write_job(tmp_path, experts, digits_dir, max_trajectory_bytes=1000)).finish()
        assert code == ExitCode.BAD_SPEC
        assert "this installation allows 1,000" in only_error(lines).message
        assert not of(ProgressLine, lines)

    def test_finished_networks_survive_sigterm_and_the_bytes_are_the_same(
        self, tmp_path: Path, small_spec: Any, digits_dir: Path
    ) -> None:
        training = {"num_epochs": 20, "batch_size": 64}
        method = pool_method(num_networks=4, training=training) | {"network": {"width": 8}}
        _, spec = needed_pool(small_spec(method=method), count_forgetting=True, keep_snapshots=True)
        code, _, log = Child(write_job(tmp_path / "whole", spec, digits_dir)).finish()
        assert code == ExitCode.OK, log

        folder = write_job(tmp_path / "stopped", spec, digits_dir, checkpoint_seconds=1000.0)
        child = Child(folder)
        for line in child.lines():
            if isinstance(line, ProgressLine) and line.phase == "training" and line.step > 0.5 * line.total_steps:
                child.process.send_signal(signal.SIGTERM)
                break
        code, lines, log = child.finish()
        assert code == ExitCode.STOPPED, log
        (checkpoint,) = of(CheckpointLine, lines)
        assert 2 <= checkpoint.step < 4

        write_job(folder, spec, digits_dir, checkpoint=checkpoint.file, attempt=2)
        code, lines, log = Child(folder).finish()
        assert code == ExitCode.OK, log
        assert of(ResultLine, lines)[0].summary["resumed_from_step"] == checkpoint.step
        first = next(line for line in of(ProgressLine, lines) if line.phase == "training" and line.step)
        assert first.step > checkpoint.step / 4 * first.total_steps
        whole, resumed = ((tmp_path / n / "out" / "experts.safetensors").read_bytes() for n in ("whole", "stopped"))
        assert resumed == whole

    def test_a_checkpoint_of_another_pool_is_passed_over(self, tmp_path: Path, small_spec: Any, digits_dir: Path) -> None:
        _, spec = needed_pool(small_spec(method=pool_method()))
        code, lines, log = Child(write_job(tmp_path, spec, digits_dir, checkpoint_seconds=0.0)).finish()
        assert code == ExitCode.OK, log
        assert [line.step for line in of(CheckpointLine, lines)] == [1, 2, 3], "each is written while training goes on"
        _, other = needed_pool(small_spec(method=pool_method(pool_seed=1)))
        write_job(tmp_path, other, digits_dir, checkpoint="checkpoints/networks-0002.safetensors")
        code, lines, log = Child(tmp_path).finish()
        assert code == ExitCode.OK, log
        assert [line.code for line in of(WarningLine, lines)] == ["checkpoint_unusable"]
        assert of(ResultLine, lines)[0].summary["resumed_from_step"] == 0


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (InvalidInputError("x"), "invalid_input", ExitCode.BAD_DATA),
        (torch.OutOfMemoryError("CUDA out of memory"), "gpu_out_of_memory", ExitCode.DEVICE_MEMORY),
        (MemoryError(), "host_out_of_memory", ExitCode.INTERNAL),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes"), "host_out_of_memory", ExitCode.INTERNAL),
        (DistillError("x"), "internal", ExitCode.INTERNAL),
        (ZeroDivisionError("x"), "internal", ExitCode.INTERNAL),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device_fault", ExitCode.DEVICE_FAULT),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device_fault", ExitCode.DEVICE_FAULT),
        (RuntimeError("No CUDA GPUs are available"), "device_fault", ExitCode.DEVICE_FAULT),
    ],
)
def test_failures_have_codes(error: Exception, code: str, exit_code: ExitCode) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.exit_code) == (code, exit_code)


def test_a_gpu_that_a_worker_has_lost_is_a_fault_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: the worker was given a GPU, and torch finds none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa")
    with pytest.raises(DeviceFaultError, match="GPU-aaaa, is not there"):
        choose_device(ResourcesSpec(gpus=1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceUnavailableError):
        choose_device(ResourcesSpec(gpus=1))
