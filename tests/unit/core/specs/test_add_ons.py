"""Add-ons plug into any base and leave alone what is not theirs."""

from __future__ import annotations

from typing import Any

import pytest

from core.catalogue import dataset_info
from core.specs.init import RandomInitSpec
from core.specs.methods.add_ons import (
    dm_mim4dd,
    dream_mim4dd,
    factorized,
    haba,
    haba_dc,
    haba_dm,
    haba_dsa,
    informed,
    mtt_mim4dd,
)
from core.specs.methods.common import Resolved
from core.specs.methods.distribution_matching import dm, dsdm, iid_idm, m3d
from core.specs.methods.gradient_matching import dc, dream, dsa
from core.specs.methods.small import at_small_scale
from core.specs.methods.trajectory_matching import mtt
from core.specs.objective import TrajectorySpec
from core.specs.preprocessing import StandardiseSpec, ZCASpec
from core.specs.storage import bases_per_class
from core.specs.synthetic import BasesHallucinatorsSpec
from core.specs.terms import AdversarialContrastSpec, MutualInformationSpec

pytestmark = pytest.mark.unit
INFO = dataset_info("cifar10")
CHANGED = {"parameterization", "terms", "optimizer"}


@pytest.mark.parametrize("base", [
    dm(INFO, 10), m3d(INFO, 10), dsdm(INFO, 10), iid_idm(INFO, 10), dsa(INFO, 10), dream(INFO, 10), mtt(INFO, 10),
])
class TestAnyBase:
    def test_factorized(self, base: Resolved) -> None:
        method, evaluation, capped = factorized(base)
        assert method.model_dump(exclude=CHANGED) == base.method.model_dump(exclude=CHANGED)
        assert (evaluation, capped) == (base.evaluation, ())
        assert method.parameterization == BasesHallucinatorsSpec()
        assert method.terms == (*base.method.terms, AdversarialContrastSpec())
        assert (method.optimizer.lr_img, method.optimizer.lr_hallucinator, method.optimizer.momentum) == (100, 100, 0.95)
        assert method.optimizer.milestones == base.method.optimizer.milestones

    def test_informed(self, base: Resolved) -> None:
        method, evaluation, _ = informed(base)
        assert method == base.method.model_copy(update={"terms": (*base.method.terms, MutualInformationSpec())})
        assert evaluation == base.evaluation

    def test_one_on_top_of_the_other(self, base: Resolved) -> None:
        kinds = [term.kind for term in informed(factorized(base)).method.terms]
        assert kinds[-2:] == ["adversarial_contrast", "mutual_information"]


def test_published_weights() -> None:
    term = MutualInformationSpec()
    assert (term.weight, term.layer_base) == (0.8, 2.0)
    adversary = AdversarialContrastSpec()
    assert (adversary.weight, adversary.classification_weight) == (0.1, 1.0)
    assert (adversary.contrast_weight, adversary.alignment_weight) == (0.1, 0.1)
    assert (adversary.temperature, adversary.lr_net, adversary.momentum) == (0.07, 1e-3, 0.9)


@pytest.mark.parametrize(("ipc", "bases"), [(1, 1), (10, 9), (50, 49)])
def test_haba_fills_the_budget(ipc: int, bases: int) -> None:
    method = haba_dm(INFO, ipc).method
    assert isinstance(method.parameterization, BasesHallucinatorsSpec)
    assert bases_per_class(method.parameterization, ipc, INFO) == bases
    rate = method.optimizer.lr_img
    assert rate == dm(INFO, ipc).method.optimizer.lr_img
    (adversary,) = method.terms
    assert adversary.weight * rate == pytest.approx(0.1 * 100)


@pytest.mark.parametrize(("ipc", "num_steps", "max_start", "lr_net", "lr_rate"), [
    (1, 50, 2, 0.01, 1e-7), (10, 30, 20, 0.001, 1e-5), (50, 30, 20, 0.01, 1e-5),
])
def test_haba_as_published(ipc: int, num_steps: int, max_start: int, lr_net: float, lr_rate: float) -> None:
    method, evaluation, _ = haba(INFO, ipc)
    objective, optimizer = method.objective, method.optimizer
    assert isinstance(objective, TrajectorySpec)
    assert (objective.num_steps, objective.batch_size, objective.lr_net, objective.lr_net_min) == (num_steps, 0, lr_net, 1e-3)
    assert method.models.max_start_epoch == max_start
    assert (optimizer.lr_img, optimizer.lr_hallucinator, optimizer.momentum, optimizer.lr_rate) == (100, 100, 0.95, lr_rate)
    assert (method.num_iterations, method.preprocessing) == (15_000, ZCASpec())
    assert method.parameterization == BasesHallucinatorsSpec()
    assert method.terms == (AdversarialContrastSpec(),)
    assert (evaluation.protocol, evaluation.use_learned_rate) == ("mtt", True)
    assert haba(dataset_info("cifar100"), ipc).method.preprocessing == StandardiseSpec()


@pytest.mark.parametrize(("made", "base"), [(haba_dm, dm), (haba_dc, dc), (haba_dsa, dsa)])
def test_haba_beside_a_base(made: Any, base: Any) -> None:
    method, plain = made(INFO, 10).method, base(INFO, 10).method
    assert method.model_dump(exclude=CHANGED | {"init"}) == plain.model_dump(exclude=CHANGED | {"init"})
    assert method.init == RandomInitSpec()
    assert method.parameterization == BasesHallucinatorsSpec(start="near_identity")
    assert method.optimizer.lr_img == plain.optimizer.lr_img
    assert method.optimizer.lr_hallucinator == pytest.approx(1e-3 * plain.optimizer.lr_img)


@pytest.mark.parametrize(("made", "base"), [(dm_mim4dd, dm), (dream_mim4dd, dream)])
def test_mim4dd_on_a_base(made: Any, base: Any) -> None:
    assert made(INFO, 10) == informed(base(INFO, 10))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet"])
def test_mim4dd_weighs_on_trajectories_what_the_printed_rate_makes_of_it(name: str) -> None:
    method = mtt_mim4dd(dataset_info(name), 10).method
    (term,) = method.terms
    assert term.weight * method.optimizer.lr_img == pytest.approx(0.8 * 0.1)
    assert method.model_copy(update={"terms": ()}) == mtt(dataset_info(name), 10).method


def test_small_scale_caps_what_the_base_caps() -> None:
    plain = at_small_scale("dm", dm(INFO, 10))
    for made in (haba_dm, dm_mim4dd):
        found = at_small_scale(made.__name__, made(INFO, 10))
        weights = ("method.terms.0.weight: 0.8 -> 0.08",) if made is dm_mim4dd else ()
        assert found.capped == (*plain.capped, *weights)
        assert found.method.max_iterations == 300


def test_only_dm_takes_less_of_the_term_at_small_scale() -> None:
    weights = [at_small_scale(made.__name__, made(INFO, 10)).method.terms[-1] for made in (dm_mim4dd, dream_mim4dd)]
    assert [term.weight for term in weights] == [0.08, 0.8]
