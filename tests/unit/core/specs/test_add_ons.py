"""Add-ons plug into any base and leave alone what is not theirs."""

from __future__ import annotations

import pytest

from core.catalogue import dataset_info
from core.specs.methods.add_ons import dm_mim4dd, factorized, haba_dm, informed
from core.specs.methods.common import Resolved
from core.specs.methods.distribution_matching import dm, dsdm, iid_idm, m3d
from core.specs.methods.small import at_small_scale
from core.specs.storage import bases_per_class
from core.specs.synthetic import BasesHallucinatorsSpec
from core.specs.terms import AdversarialContrastSpec, MutualInformationSpec

pytestmark = pytest.mark.unit
INFO = dataset_info("cifar10")
CHANGED = {"parameterization", "terms", "optimizer"}


@pytest.mark.parametrize("base", [dm(INFO, 10), m3d(INFO, 10), dsdm(INFO, 10), iid_idm(INFO, 10)])
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


def test_small_scale_caps_what_the_base_caps() -> None:
    plain = at_small_scale("dm", dm(INFO, 10))
    for made in (haba_dm, dm_mim4dd):
        found = at_small_scale(made.__name__, made(INFO, 10))
        assert found.capped == plain.capped
        assert found.method.max_iterations == 300
