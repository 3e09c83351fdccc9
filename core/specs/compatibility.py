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
from core.specs.models import DynamicBilevelSpec, GrowingQueueSpec, PretrainedPoolSpec
from core.specs.network import ConvNetSpec, MLPSpec, NetworkSpec, network_name
from core.specs.objective import GaussianSpec, LayerwiseFeatureSpec
from core.specs.requirements import pool_of_init, pool_of_models, pool_of_term
from core.specs.synthetic import MultiFormationSpec, ParameterizationSpec
from core.specs.terms import ClassCentralizationSpec, ClassificationRegulariserSpec, LocalCovarianceSpec


def decoded_per_class(parameterization: ParameterizationSpec, ipc: int) -> int:
    """Images per class that networks see."""
    if isinstance(parameterization, MultiFormationSpec):
        return ipc * parameterization.factor ** (2 if parameterization.axes == "both" else 1)
    return ipc


def spread_needs_two_images(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    """One image equals its own mean: a covariance or a spread has no gradient."""
    method = spec.method
    if not method.max_iterations or decoded_per_class(method.parameterization, spec.ipc) > 1:
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
    """CAFE needs blocks; a local covariance needs a feature map."""
    method = spec.method
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
    """A packed set that starts from real images takes several of them for each stored one."""
    method = spec.method
    packed = isinstance(method.parameterization, MultiFormationSpec)
    if not packed or (isinstance(method.init, NoiseInitSpec) and "mosaic" not in spec.evaluation.baselines):
        return None
    counts = info.train_per_class_after(spec.dataset.held_out_fraction)
    smallest, needed = min(counts), decoded_per_class(method.parameterization, spec.ipc)
    if needed <= smallest:
        return None
    label = info.classes[counts.index(smallest)]
    return FieldProblem(
        "/ipc", "ipc_too_large",
        f"ipc {spec.ipc} with parameterization.factor {getattr(method.parameterization, 'factor', 1)} starts from {needed} "
        f"real images per class, but class {label!r} of {info.name} has only {smallest}",
    )


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


def _trainings(spec: DistillationSpec, info: DatasetInfo) -> Iterator[tuple[NetworkSpec, int, int, str]]:
    """Whatever trains a network: its architecture, number of images, batch size, and the pointer to that."""
    method, evaluation = spec.method, spec.evaluation
    models = method.models
    decoded = decoded_per_class(method.parameterization, spec.ipc) * info.num_classes
    for network in (evaluation.network, *evaluation.cross_networks):
        for count in (decoded, spec.ipc * info.num_classes):
            yield network, count, evaluation.batch_size, "/evaluation/batch_size"
    if isinstance(models, GrowingQueueSpec):
        yield method.network, models.batch_size, models.batch_size, "/method/models/batch_size"
    if isinstance(models, DynamicBilevelSpec):
        yield method.network, decoded, models.batch_size, "/method/models/batch_size"
    real = sum(info.train_per_class_after(spec.dataset.held_out_fraction))
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
    batch_norms_see_two_values,
)
"""Every predicate of this file."""
