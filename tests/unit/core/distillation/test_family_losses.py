"""What every loss of the distribution-matching family owes the engine, whatever its formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from core.data.real_set import RealSet
from core.distillation.augmentation.dsa import DSA
from core.distillation.objectives.gaussian import Gaussian
from core.distillation.objectives.layerwise_feature import LayerwiseFeature
from core.distillation.objectives.mean_feature import MeanFeature
from core.distillation.objectives.rkhs import RKHS
from core.distillation.protocols import Loss
from core.distillation.randomness import rng
from core.distillation.terms.class_centralization import ClassCentralization
from core.distillation.terms.class_discriminative import ClassDiscriminative
from core.distillation.terms.classification_regulariser import ClassificationRegulariser
from core.distillation.terms.historical_prototypes import HistoricalPrototypes
from core.distillation.terms.local_covariance import LocalCovariance
from core.experts import Pool
from core.networks.network import Network
from core.specs.augmentation import DSASpec
from core.specs.objective import GaussianSpec, LayerwiseFeatureSpec, MeanFeatureSpec, RKHSSpec
from core.specs.terms import (
    ClassCentralizationSpec,
    ClassDiscriminativeSpec,
    ClassificationRegulariserSpec,
    HistoricalPrototypesSpec,
    LocalCovarianceSpec,
)
from tests.unit.core.distillation.steps import NUM_CLASSES, NUM_REAL, real_images, small_net, step_for

pytestmark = pytest.mark.unit

MATCHING: dict[str, Callable[[Network], Loss]] = {
    "mean_feature": lambda _: MeanFeature(MeanFeatureSpec()),
    "layerwise_feature": lambda net: LayerwiseFeature(LayerwiseFeatureSpec(), net),
    "rkhs_gaussian": lambda _: RKHS(RKHSSpec()),
    "rkhs_linear": lambda _: RKHS(RKHSSpec(kernel="linear")),
    "rkhs_polynomial": lambda _: RKHS(RKHSSpec(kernel="polynomial")),
    "gaussian": lambda _: Gaussian(GaussianSpec()),
    "local_covariance": lambda _: LocalCovariance(LocalCovarianceSpec()),
}
OTHERS: dict[str, Callable[[Network], Loss]] = {
    "class_centralization": lambda net: ClassCentralization(
        ClassCentralizationSpec(), Pool(net, torch.stack([net.init(rng(n, "pool")) for n in (1, 2)]), torch.zeros(2)), 3
    ),
    "class_discriminative": lambda _: ClassDiscriminative(ClassDiscriminativeSpec()),
    "classification_regulariser": lambda _: ClassificationRegulariser(ClassificationRegulariserSpec()),
    "historical_prototypes": lambda _: HistoricalPrototypes(HistoricalPrototypesSpec(start_iteration=1)),
}


@pytest.fixture(scope="module")
def net(digits: RealSet) -> Network:
    return small_net(digits)


@pytest.fixture(params=[*MATCHING, *OTHERS])
def loss(request: pytest.FixtureRequest, net: Network, digits: RealSet) -> Loss:
    found = (MATCHING | OTHERS)[request.param](net)
    found.update(step_for([found], digits, net=net, images=digits.gather(real_images(digits, 3, first=9)).flatten(0, 1)))
    return found


@pytest.mark.parametrize("limit", [1, 9, 12])
def test_value_in_chunks_is_the_value_of_the_whole(loss: Loss, net: Network, digits: RealSet, limit: int) -> None:
    share = torch.rand(NUM_CLASSES, NUM_REAL, generator=torch.Generator().manual_seed(1)).softmax(1)
    found = []
    for images in (1000, limit):
        step = step_for(
            [loss], digits, net=net, number=1, accuracy=0.5, augmentation=DSA(DSASpec()), real_share=share
        )
        values = [loss.value(chunk) for chunk in step.chunks(images)]
        torch.cat(values).sum().backward()
        found.append((torch.cat(values).detach(), step.syn.images.grad))
    (whole, gradient), (chunked, chunked_gradient) = found
    assert whole.shape == (NUM_CLASSES,)
    assert whole.dtype == torch.float32
    assert gradient is not None
    torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(chunked_gradient, gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


def test_gradient_reaches_every_image_and_nothing_else(loss: Loss, net: Network, digits: RealSet) -> None:
    step = step_for([loss], digits, net=net, number=1, accuracy=0.5)
    loss.value(step).sum().backward()
    assert step.syn.images.grad is not None
    assert step.syn.images.grad.isfinite().all()
    assert (step.syn.images.grad.flatten(1).abs().sum(1) > 0).all()
    assert step.weights.params.grad is None
    if loss.plan().real is not None:
        assert not any(feature.requires_grad for feature in step.features("real").values())


def test_equal_shares_count_like_none(loss: Loss, net: Network, digits: RealSet) -> None:
    share = torch.full((NUM_CLASSES, NUM_REAL), 1 / NUM_REAL)
    values = [
        loss.value(step_for([loss], digits, net=net, number=1, accuracy=0.5, real_share=s)).detach() for s in (share, None)
    ]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", MATCHING)
def test_equal_batches_match_perfectly(kind: str, net: Network, digits: RealSet) -> None:
    loss = MATCHING[kind](net)
    images = digits.gather(real_images(digits, NUM_REAL)).flatten(0, 1)
    same, other = (step_for([loss], digits, net=net, images=batch, augmentation=DSA(DSASpec())) for batch in (images, None))
    assert loss.value(same).abs().max() < 1e-5 * loss.value(other).min()


@pytest.mark.parametrize("kind", MATCHING)
def test_one_image_on_each_side_is_finite(kind: str, net: Network, digits: RealSet) -> None:
    loss = MATCHING[kind](net)
    images = digits.gather(real_images(digits, 1, first=3)).flatten(0, 1)
    step = step_for([loss], digits, net=net, images=images, real_index=real_images(digits, 1))
    value = loss.value(step)
    value.sum().backward()
    assert value.isfinite().all()
    assert step.syn.images.grad is not None
    assert step.syn.images.grad.isfinite().all()
