from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core import compilation
from core.data.real_set import RealSet
from core.distillation import resume
from core.distillation.build import build
from core.distillation.distil import distil
from core.distillation.engine import LOSS_SERIES, Engine
from core.errors import DivergedError, InvalidInputError
from core.experts import TrainedHere
from core.progress import Hooks, Record, Stopped

pytestmark = pytest.mark.unit


class StopAfter(Hooks):
    def __init__(self, iterations: int) -> None:
        self.asked = 0
        self.iterations = iterations

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked > self.iterations


def checkpoint_of(spec: Any, engine: Engine, folder: Path) -> Path:
    return resume.save(
        resume.Checkpoint(engine.completed, spec.science_digest(), "r1", engine.state(), engine.record), folder
    )


class TestResume:
    def test_refuses_another_specification(self, digits: RealSet, small_spec: Any, tmp_path: Path) -> None:
        spec = small_spec()
        path = checkpoint_of(spec, distil(spec, digits, TrainedHere(digits)).engine, tmp_path)
        with pytest.raises(InvalidInputError, match="another specification"):
            resume.load(path, science_digest=small_spec(seed=1).science_digest())

    def test_refuses_another_format(
        self, digits: RealSet, small_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = small_spec()
        monkeypatch.setattr(resume, "FORMAT", 2)
        path = checkpoint_of(spec, distil(spec, digits, TrainedHere(digits)).engine, tmp_path)
        monkeypatch.undo()
        with pytest.raises(InvalidInputError, match="format 2"):
            resume.load(path, science_digest=spec.science_digest())

    @pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
    def test_refuses_what_it_cannot_read(self, small_spec: Any, tmp_path: Path, damage: bytes | None) -> None:
        path = tmp_path / "c.safetensors"
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(InvalidInputError, match="cannot be read"):
            resume.load(path, science_digest="")

    @pytest.mark.parametrize("stop_at", [1, 3, 6])
    def test_gives_the_bytes_of_an_uninterrupted_run(
        self, digits: RealSet, small_spec: Any, tmp_path: Path, stop_at: int
    ) -> None:
        spec = small_spec(method={"num_iterations": 7, "models": {"iterations_per_network": 2}})
        whole = distil(spec, digits, TrainedHere(digits))
        saved: list[Path] = []
        with pytest.raises(Stopped):
            distil(
                spec, digits, TrainedHere(digits), hooks=StopAfter(stop_at),
                save=lambda engine: saved.append(checkpoint_of(spec, engine, tmp_path))
            )
        checkpoint = resume.load(saved[-1], science_digest=spec.science_digest())
        assert checkpoint.step == stop_at
        resumed = distil(spec, digits, TrainedHere(digits), resume=checkpoint)
        assert torch.equal(resumed.images, whole.images)
        assert torch.equal(resumed.initial, whole.initial)
        assert resumed.record.series == whole.record.series
        assert not torch.equal(whole.images, whole.initial)

    def test_keeps_the_newest_files_only(self, digits: RealSet, small_spec: Any, tmp_path: Path) -> None:
        spec = small_spec(method={"num_iterations": 6})

        def save(engine: Engine) -> None:
            checkpoint_of(spec, engine, tmp_path)

        distil(spec, digits, TrainedHere(digits), save=save, save_seconds=0)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == [f"step-0000000{n}-0000.safetensors" for n in (4, 5, 6)]



class TestDivergence:
    def poison(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, at: int, how: float) -> None:
        loss = engine.parts.losses[0]
        original = loss.value

        def value(step: Any) -> Tensor:
            return original(step) * (how if step.number == at else 1.0)

        monkeypatch.setattr(loss, "value", value)

    @pytest.mark.parametrize("how", [float("nan"), float("inf")])
    def test_stops_with_the_iteration_and_without_an_update(
        self, digits: RealSet, small_spec: Any, monkeypatch: pytest.MonkeyPatch, how: float
    ) -> None:
        spec = small_spec()
        engine = Engine(build(spec, digits, TrainedHere(digits)), digits, seed=0, num_iterations=4, record=Record())
        self.poison(engine, monkeypatch, at=2, how=how)
        engine.iterate()
        engine.iterate()
        before = engine.state()
        engine.iterate()
        after = engine.state()
        assert torch.equal(before["parameterization/pixels"], after["parameterization/pixels"])
        assert torch.equal(before["optimizer/pixels.0"], after["optimizer/pixels.0"])
        with pytest.raises(DivergedError, match="iteration 2"):
            engine.run(4, Hooks())

    def test_is_never_checkpointed(self, digits: RealSet, small_spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = small_spec()
        engine = Engine(build(spec, digits, TrainedHere(digits)), digits, seed=0, num_iterations=4, record=Record())
        self.poison(engine, monkeypatch, at=1, how=float("nan"))
        saved = []
        with pytest.raises(DivergedError):
            engine.run(4, Hooks(), save=lambda: saved.append(engine.completed), save_seconds=0)
        assert saved == [1]


@pytest.mark.filterwarnings("ignore")  # the compiler warns about parts of torch itself
@pytest.mark.skipif(not compilation.compiler_exists(), reason="no C++ compiler")
def test_compiled_run_agrees_with_the_eager_one_and_resumes_exactly(digits: RealSet, small_spec: Any, tmp_path: Path) -> None:
    spec = small_spec(ipc=10, method={"num_iterations": 3, "selection": {"real_batch_per_class": 7}})
    eager = distil(spec, digits, TrainedHere(digits), compiled=False)
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    whole = distil(spec, digits, TrainedHere(digits), compiled=True)
    assert graphs["unique_graphs"] == 2  # real images without, synthetic ones with a gradient
    torch.testing.assert_close(whole.images, eager.images, rtol=1e-4, atol=1e-4)
    saved: list[Path] = []
    with pytest.raises(Stopped):
        distil(
            spec, digits, TrainedHere(digits), compiled=True, hooks=StopAfter(2),
            save=lambda engine: saved.append(checkpoint_of(spec, engine, tmp_path)),
        )
    checkpoint = resume.load(saved[-1], science_digest=spec.science_digest())
    assert torch.equal(distil(spec, digits, TrainedHere(digits), compiled=True, resume=checkpoint).images, whole.images)


class TestRun:
    def test_no_iterations_keep_what_init_chose(self, digits: RealSet, small_spec: Any) -> None:
        result = distil(small_spec(method={"num_iterations": 0}), digits, TrainedHere(digits))
        assert torch.equal(result.images, result.initial)
        assert LOSS_SERIES not in result.record.series

    def test_same_seed_same_bytes(self, digits: RealSet, small_spec: Any) -> None:
        a, b, c = (distil(small_spec(seed=seed), digits, TrainedHere(digits)).images for seed in (0, 0, 1))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_loss_curve_is_the_mean_of_each_span(self, digits: RealSet, small_spec: Any) -> None:
        spec = small_spec(method={"num_iterations": 6})
        every = distil(spec, digits, TrainedHere(digits)).record.series[LOSS_SERIES]
        assert [at for at, _ in every] == [1, 2, 3, 4, 5, 6]
        engine = Engine(build(spec, digits, TrainedHere(digits)), digits, seed=0, num_iterations=6, record=Record())
        engine._loss_spacing = 3
        engine.run(6, Hooks())
        found = engine.record.series[LOSS_SERIES]
        assert [at for at, _ in found] == [3, 6]
        for (_, mean), span in zip(found, (every[:3], every[3:]), strict=True):
            assert mean == pytest.approx(sum(v for _, v in span) / 3, rel=1e-5)

    def test_labels_are_sorted_by_class(self, digits: RealSet, small_spec: Any) -> None:
        labels = distil(small_spec(), digits, TrainedHere(digits)).labels
        assert labels.tolist() == [label for label in range(10) for _ in range(2)]

    def test_warns_when_the_real_batch_is_clipped(self, digits: RealSet, small_spec: Any) -> None:
        spec = small_spec(method={"selection": {"real_batch_per_class": 132}, "num_iterations": 1})
        result = distil(spec, digits, TrainedHere(digits))
        assert "clipped" in result.record.warnings["real_batch_clipped"]

    def test_watch_sees_every_number_of_iterations(self, digits: RealSet, small_spec: Any) -> None:
        seen: list[int] = []
        distil(small_spec(), digits, TrainedHere(digits), watch=lambda _engine, completed: seen.append(completed))
        assert seen == [0, 1, 2, 3, 4]

    def test_learning_lowers_the_loss(self, digits: RealSet, small_spec: Any) -> None:
        spec = small_spec(method={"num_iterations": 60, "selection": {"real_batch_per_class": 64}})
        losses = [value for _, value in distil(spec, digits, TrainedHere(digits)).record.series[LOSS_SERIES]]
        assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
