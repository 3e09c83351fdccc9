"""One step before the loop: it moves nothing, cuts what is too large, and refuses what cannot be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core import machine
from core.data.real_set import RealSet
from core.distillation import probe
from core.distillation.build import build
from core.distillation.engine import Engine
from core.errors import DeviceMemoryError, HostMemoryError
from core.experts import TrainedHere
from core.progress import Hooks, Record
from core.specs.estimate.memory import GRADIENT_VECTORS, GRAPH_COPIES, PATH_VECTORS, SECOND_ORDER

pytestmark = pytest.mark.unit


def engine_of(digits: RealSet, small_spec: Any, **method: Any) -> Engine:
    spec = small_spec(method=method)
    parts = build(spec, digits, TrainedHere(digits))
    return Engine(parts, digits, seed=0, num_iterations=4, record=Record())


def of_image(engine: Engine) -> int:
    (piece,) = engine.pieces
    return probe.bytes_per_image(engine, piece.plan)


def least(engine: Engine) -> int:
    (piece,) = engine.pieces
    return probe.least_images(engine, piece)


def bytes_of(engine: Engine) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in engine.state().items()}


def test_nothing_moves_and_the_result_is_the_same(digits: RealSet, small_spec: Any) -> None:
    plain, probed = engine_of(digits, small_spec), engine_of(digits, small_spec)
    before = bytes_of(probed)
    first = probe.probe(probed)
    assert bytes_of(probed) == before
    assert first.seconds > 0.0
    assert first.peak_memory_bytes > 2**20
    assert first.chunk_images == 20
    for engine in (plain, probed):
        engine.run(4, Hooks())
    assert bytes_of(plain) == bytes_of(probed)


def test_a_step_that_does_not_fit_is_cut_with_equal_gradient(digits: RealSet, small_spec: Any) -> None:
    whole, cut = engine_of(digits, small_spec), engine_of(digits, small_spec)
    probe._fit_host(cut, free=int(of_image(cut) * 5 / probe.SHARE) + 1)
    assert cut.chunk_images == 5
    whole.iterate()
    cut.iterate()
    assert torch.allclose(whole.decoded()[0], cut.decoded()[0], atol=1e-5)


@pytest.mark.parametrize(("mode", "copies"), [("adjoint", 2), ("unrolled", 6)])
def test_a_trajectory_keeps_the_graph_of_one_batch_or_of_all_steps(
    mode: str, copies: int, digits: RealSet, small_spec: Any
) -> None:
    engine = engine_of(
        digits, small_spec, objective={"kind": "trajectory", "num_steps": 3, "batch_size": 7, "gradient_mode": mode},
        models={
            "kind": "expert_segments", "num_networks": 1, "training": {"num_epochs": 1}, "span_epochs": 1, "max_start_epoch": 1,
        },
    )
    assert least(engine) == 7
    assert of_image(engine) == 4 * GRAPH_COPIES * copies * engine.parts.net.activations_per_image
    assert probe.bytes_per_step(engine) == 4 * (3 + PATH_VECTORS) * engine.parts.net.num_parameters
    before = bytes_of(engine)
    assert probe.probe(engine).chunk_images == 7
    assert bytes_of(engine) == before


def test_features_of_real_images_count(digits: RealSet, small_spec: Any) -> None:
    plain, layers = engine_of(digits, small_spec), engine_of(digits, small_spec, objective={"kind": "layerwise_feature"})
    net = plain.parts.net  # one block of width 8 on 8 x 8 pixels
    graph, real_per_image = 4 * GRAPH_COPIES * net.activations_per_image, 6 / 2
    assert of_image(plain) == graph + 4 * real_per_image * 8 * 16
    assert of_image(layers) == graph + 4 * real_per_image * 8 * (16 + 64)


def test_networks_of_a_term_count(digits: RealSet, small_spec: Any) -> None:
    network = {"kind": "convnet", "width": 16, "depth": 1}
    term = {"kind": "class_centralization", "network": network, "num_networks": 1, "training": {"num_epochs": 0}}
    plain, with_term = engine_of(digits, small_spec), engine_of(digits, small_spec, terms=[term])
    own = 2 * (plain.parts.net.activations_per_image - 10) + 10  # twice the width, as many classes
    assert of_image(with_term) - of_image(plain) == 4 * GRAPH_COPIES * own


def test_a_gradient_that_is_differentiated_again_counts(digits: RealSet, small_spec: Any) -> None:
    engine = engine_of(digits, small_spec, objective={"kind": "gradient"})
    net = engine.parts.net
    graph, gradient = GRAPH_COPIES * SECOND_ORDER * net.activations_per_image, GRADIENT_VECTORS * net.num_parameters / 2
    assert of_image(engine) == 4 * (graph + gradient)
    assert least(engine) == 2


@pytest.mark.parametrize("grouping", ["per_class", "summed"])
def test_gradients_in_chunks_of_one_class_move_the_set_alike(digits: RealSet, small_spec: Any, grouping: str) -> None:
    objective = {"kind": "gradient", "grouping": grouping, "summed_from_step": 0}
    whole, cut = (engine_of(digits, small_spec, objective=objective) for _ in range(2))
    cut.chunk_images = 2
    for _ in range(2):
        whole.iterate()
        cut.iterate()
    torch.testing.assert_close(whole.decoded()[0], cut.decoded()[0], rtol=1e-4, atol=1e-5)


def test_pairs_of_images_count(digits: RealSet, small_spec: Any) -> None:
    engine = engine_of(digits, small_spec, terms=[{"kind": "mutual_information"}])
    plain = engine_of(digits, small_spec)
    more = of_image(engine) - of_image(plain)
    assert more == 4 * (6 / 2 * 8 + 2 * 60)  # the means of 8 channels, and two numbers for each of 60 real images


def test_the_decoder_counts(digits: RealSet, small_spec: Any) -> None:
    packed = {"kind": "bases_hallucinators", "num_bases_per_class": 1, "num_hallucinators": 2}
    engine = engine_of(digits, small_spec, parameterization=packed)
    assert engine.num_virtual == 10  # each basis through one of its hallucinators
    assert probe.bytes_per_step(engine) == 4 * 10 * (64 + 3 * 36)
    assert probe.bytes_per_step(engine_of(digits, small_spec)) == 0
    with pytest.raises(HostMemoryError):
        probe._fit_host(engine, free=int(probe.bytes_per_step(engine) / probe.SHARE))


def test_a_class_that_does_not_fit_is_refused(digits: RealSet, small_spec: Any) -> None:
    engine = engine_of(digits, small_spec)
    with pytest.raises(HostMemoryError, match="at least 2 synthetic images"):
        probe._fit_host(engine, free=1000)


def test_losses_that_couple_classes_are_not_cut(digits: RealSet, small_spec: Any) -> None:
    engine = engine_of(digits, small_spec, terms=[{"kind": "class_discriminative"}])
    assert least(engine) == 20


def test_what_couples_classes_is_refused_where_it_does_not_fit_and_the_rest_is_cut(digits: RealSet, small_spec: Any) -> None:
    engine = engine_of(digits, small_spec, objective={"kind": "gradient"}, terms=[{"kind": "mutual_information"}])
    whole, cut = engine.pieces
    needed = 20 * probe.bytes_per_image(engine, whole.plan)
    graph = GRAPH_COPIES * SECOND_ORDER * engine.parts.net.activations_per_image
    assert probe.bytes_per_image(engine, cut.plan) == 4 * (graph + GRADIENT_VECTORS * engine.parts.net.num_parameters / 2)
    assert probe.bytes_per_image(engine, whole.plan) < probe.bytes_per_image(engine, cut.plan)
    probe._fit_host(engine, free=int(needed / probe.SHARE) + 1)
    assert 2 <= engine.chunk_images == needed // probe.bytes_per_image(engine, cut.plan) < 20
    with pytest.raises(HostMemoryError, match="at least 20 synthetic images"):
        probe._fit_host(engine, free=int(needed / probe.SHARE) - 1)


def test_a_full_device_halves_the_chunks_and_then_gives_up(digits: RealSet, small_spec: Any) -> None:
    engine = engine_of(digits, small_spec)
    tried: list[int] = []

    def trial() -> None:
        tried.append(engine.chunk_images)
        if engine.chunk_images > fits:
            raise torch.OutOfMemoryError("no room\nmore")

    engine.trial = trial  # type: ignore[method-assign]
    fits = 6
    probe._fit_device(engine)
    assert tried == [20, 10, 5]
    fits = 0
    with pytest.raises(DeviceMemoryError, match=r"chunks of 2 synthetic images: no room$"):
        probe._fit_device(engine)


def test_free_memory_is_that_of_the_control_group_where_it_is_smaller(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemAvailable:    50 kB\n")
    (tmp_path / "memory.max").write_text("30000\n")
    (tmp_path / "memory.current").write_text("10000\n")
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.free_host_bytes() == 20_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_host_bytes() == 50 * 1024
