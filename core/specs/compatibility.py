"""Pairs of slots that mean nothing together, each one predicate with a message that names both fields.

`legality.py` applies them with its own rules. A predicate sees the resolved specification and the facts of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.catalogue import DatasetInfo
from core.errors import FieldProblem
from core.specs.fit import single_pixel_batch_norm
from core.specs.init import ForgettingInitSpec, NoiseInitSpec
from core.specs.job import DistillationSpec
from core.specs.models import (
    DynamicBilevelSpec,
    GrowingQueueSpec,
    PretrainedPoolSpec,
    TrainedOnRealSpec,
    TrainedOnSyntheticSpec,
)
from core.specs.network import ConvNetSpec, MLPSpec, NetworkSpec, network_name
from core.specs.objective import GaussianSpec, GradientSpec, LayerwiseFeatureSpec
from core.specs.preprocessing import ZCASpec
from core.specs.requirements import pool_of_init, pool_of_models, pool_of_term
from core.specs.storage import images_per_class
from core.specs.synthetic import BasesHallucinatorsSpec, MultiFormationSpec, PixelsSpec
from core.specs.terms import (
    AdversarialContrastSpec,
    ClassCentralizationSpec,
    ClassificationRegulariserSpec,
    LocalCovarianceSpec,
)

MOST_WHITENED = 3 * 64 * 64
"""Values of an image: TinyImageNet's, the largest that was published with whitening. The matrices then take 2 GB."""


def spread_needs_two_images(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """One image equals its own mean: a covariance or a spread has no gradient."""
    method = spec.method
    if not method.max_iterations or images_per_class(method.parameterization, spec.ipc, info).seen > 1:
        return None
    places = [
        (f"/method/terms/{i}", f"term {term.kind!r}")
        for i, term in enumerate(method.terms)
        if isinstance(term, (ClassCentralizationSpec, LocalCovarianceSpec))
    ]
    if isinstance(method.objective, GaussianSpec) and method.objective.covariance_weight:
        places.insert(0, ("/method/objective/covariance_weight", "covariance_weight of objective 'gaussian'"))
    if not places:
        return None
    pointer, name = places[0]
    return FieldProblem(
        pointer, "one_image_per_class",
        f"{name} has no gradient with one image per class (ipc is {spec.ipc}, parameterization is "
        f"{method.parameterization.kind!r}); raise ipc, use parameterization 'multi_formation', or leave it out",
    )


def accuracy_is_known(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """IDM's cross-entropy is weighted by the accuracy of the matching network."""
    models = spec.method.models
    if isinstance(models, PretrainedPoolSpec) or (isinstance(models, GrowingQueueSpec) and models.num_trained):
        return None
    for i, term in enumerate(spec.method.terms):
        if isinstance(term, ClassificationRegulariserSpec) and isinstance(models, GrowingQueueSpec):
            return FieldProblem(
                "/method/models/num_trained", "nothing_trained",
                f"term {term.kind!r} needs networks with an accuracy; models.num_trained is 0, so that none is ever trained",
            )
        if isinstance(term, ClassificationRegulariserSpec):
            return FieldProblem(
                f"/method/terms/{i}", "accuracy_unknown",
                f"term {term.kind!r} is weighted by the accuracy of the matching network, which models {models.kind!r} "
                f"(objective {spec.method.objective.kind!r}) does not know; use 'growing_queue' or 'pretrained_pool'",
            )
    return None


def pool_is_trained(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """A network that was never trained has no accuracy, and forgets nothing."""
    method = spec.method
    untrained = isinstance(method.models, PretrainedPoolSpec) and not method.models.training.num_epochs
    if untrained and any(isinstance(term, ClassificationRegulariserSpec) for term in method.terms):
        return FieldProblem(
            "/method/models/training/num_epochs", "nothing_trained",
            "term 'classification_regulariser' needs networks with an accuracy; models.training.num_epochs is 0",
        )
    if isinstance(method.init, ForgettingInitSpec) and not method.init.training.num_epochs:
        return FieldProblem(
            "/method/init/training/num_epochs", "nothing_trained",
            "init 'forgetting' counts what training forgets; init.training.num_epochs is 0",
        )
    evaluation = spec.evaluation
    if "forgetting" in evaluation.baseline_inits() and not evaluation.baseline_training.num_epochs:
        return FieldProblem(
            "/evaluation/baseline_training/num_epochs", "nothing_trained",
            "baseline 'forgetting' counts what training forgets; baseline_training.num_epochs is 0",
        )
    return None


def layers_exist(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """CAFE needs blocks; a local covariance needs a feature map; gradients of filters need filters."""
    method = spec.method
    filters = isinstance(method.objective, GradientSpec) and method.objective.parameters == "convolutions"
    if filters and isinstance(method.network, MLPSpec):
        return FieldProblem(
            "/method/objective/parameters", "no_convolutions",
            "objective.parameters 'convolutions' matches the gradients of filters, which network 'mlp' does not have",
        )
    if isinstance(method.objective, LayerwiseFeatureSpec) and not isinstance(method.network, ConvNetSpec):
        return FieldProblem(
            "/method/objective", "no_blocks",
            f"objective 'layerwise_feature' matches the blocks of a 'convnet'; network is {method.network.kind!r}",
        )
    for i, term in enumerate(method.terms):
        if isinstance(term, LocalCovarianceSpec) and isinstance(method.network, MLPSpec):
            return FieldProblem(
                f"/method/terms/{i}", "no_feature_map",
                f"term 'local_covariance' needs a feature map, which network {method.network.kind!r} does not have",
            )
    return None


def cells_have_pixels(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """Every cell of a packed image holds pixels of it; cells are ceil(side / factor) wide, so the last could be left empty."""
    packed = spec.method.parameterization
    if not isinstance(packed, MultiFormationSpec):
        return None
    side, name = (info.width, "width") if packed.axes == "time" else (min(info.height, info.width), "shorter side")
    if (packed.factor - 1) * -(-side // packed.factor) < side:
        return None
    return FieldProblem(
        "/method/parameterization/factor", "cells_too_small",
        f"parameterization.factor {packed.factor} cuts the {name} of dataset {info.name}, {side} px, into cells of which some "
        "hold no pixel",
    )


def class_fills_the_set(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """A set that starts from real images may take more of them than it has images to store: cells, or bases."""
    method = spec.method
    stored = method.parameterization
    from_noise = isinstance(method.init, NoiseInitSpec) and "mosaic" not in spec.evaluation.baselines
    if isinstance(stored, PixelsSpec) or from_noise:
        return None
    counts = info.train_per_class_after(spec.dataset.held_out_fraction)
    smallest, needed = min(counts), images_per_class(stored, spec.ipc, info).initial
    if needed <= smallest:
        return None
    label = info.classes[counts.index(smallest)]
    field = "factor" if isinstance(stored, MultiFormationSpec) else "num_bases_per_class"
    return FieldProblem(
        "/ipc", "ipc_too_large",
        f"ipc {spec.ipc} with parameterization.{field} {getattr(stored, field)} starts from {needed} real images per class, "
        f"but class {label!r} of {info.name} has only {smallest}",
    )


def pairs_exist(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """HaBa's adversary compares two hallucinations of one basis."""
    stored = spec.method.parameterization
    for i, term in enumerate(spec.method.terms):
        if not isinstance(term, AdversarialContrastSpec):
            continue
        if not isinstance(stored, BasesHallucinatorsSpec):
            return FieldProblem(
                f"/method/terms/{i}", "no_pairs",
                f"term {term.kind!r} compares two hallucinations of one basis, which parameterization {stored.kind!r} does not "
                "have; use 'bases_hallucinators'",
            )
        if stored.num_hallucinators < 2:
            return FieldProblem(
                "/method/parameterization/num_hallucinators", "no_pairs",
                f"term {term.kind!r} compares two hallucinations of one basis; parameterization.num_hallucinators is 1",
            )
    return None


def batch_norms_see_two_values(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """Training refuses a batch of one image where the last map is a single pixel and its norm is over the batch."""
    for network, count, batch_size, pointer in _trainings(spec, info):
        if single_pixel_batch_norm(network, info) and (batch_size == 1 or count % batch_size == 1):
            return FieldProblem(
                pointer, "batch_of_one",
                f"batch_size {batch_size} cuts {count} images so that one batch has a single image, which network "
                f"{network_name(network)!r} cannot normalise at {info.height} x {info.width}; choose another batch_size",
            )
    return None


def whitening_is_small(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """Whitening holds a matrix of all pixels by all pixels, and decomposes it."""
    if isinstance(spec.method.preprocessing, ZCASpec) and info.scalars_per_image > MOST_WHITENED:
        return FieldProblem(
            "/method/preprocessing/kind", "too_many_pixels",
            f"preprocessing 'zca' whitens at most {MOST_WHITENED} values of an image together; those of the dataset have "
            f"{info.channels} x {info.height} x {info.width} = {info.scalars_per_image}",
        )
    return None


def _trainings(spec: DistillationSpec, info: DatasetInfo) -> Iterator[tuple[NetworkSpec, int, int, str]]:
    """Whatever trains a network: its architecture, number of images, batch size, and the pointer to that."""
    method, evaluation = spec.method, spec.evaluation
    models = method.models
    epoch = images_per_class(method.parameterization, spec.ipc, info).epoch * info.num_classes
    for network in (evaluation.network, *evaluation.cross_networks):
        for count in (epoch, spec.ipc * info.num_classes):
            yield network, count, evaluation.batch_size, "/evaluation/batch_size"
    if isinstance(models, GrowingQueueSpec):
        yield method.network, models.batch_size, models.batch_size, "/method/models/batch_size"
    if isinstance(models, DynamicBilevelSpec):
        yield method.network, epoch, models.batch_size, "/method/models/batch_size"
    if isinstance(models, TrainedOnSyntheticSpec) and models.num_epochs:
        yield method.network, epoch, models.batch_size, "/method/models/batch_size"
    real = sum(info.train_per_class_after(spec.dataset.held_out_fraction))
    if isinstance(models, TrainedOnRealSpec):
        size, pointer = models.training.batch_size, "/method/models/training/batch_size"
        in_loop = min(-(-models.num_images // size) * size, real)
        yield method.network, in_loop, size, pointer
        yield method.network, real if models.training.num_epochs else 0, size, pointer
    pools = [
        (pool_of_models(models, method.network), "/method/models/training"),
        (pool_of_init(method.init, method.network), "/method/init/training"),
    ]
    pools += [(pool_of_term(term), f"/method/terms/{i}/training") for i, term in enumerate(method.terms)]
    pools += [
        (pool_of_init(init, evaluation.network), "/evaluation/baseline_training")
        for init in evaluation.baseline_inits().values()
    ]
    for pool, pointer in pools:
        if pool is not None and pool.training.num_epochs:
            yield pool.network, real, pool.training.batch_size, f"{pointer}/batch_size"


COMPATIBILITY = (
    spread_needs_two_images, accuracy_is_known, pool_is_trained, layers_exist, cells_have_pixels, class_fills_the_set,
    batch_norms_see_two_values, pairs_exist, whitening_is_small,
)
"""Every predicate of this file."""
