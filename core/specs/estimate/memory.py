"""Memory of a job, and the rule behind it, which the first step of a run applies to the network as it is.

A loss keeps graphs of its synthetic images, `GRAPH_COPIES` numbers for each number that a layer puts out, times `graph_copies`
where gradients are differentiated again; and vectors of the size of the network's weights, for the step or for each class.
"""

from __future__ import annotations

from core.catalogue import DatasetInfo
from core.specs.estimate.costs import (
    Worker,
    cost_of,
    num_layers,
    num_real,
    paired_images,
    shown,
    step_images,
    trained_per_iteration,
)
from core.specs.job import DistillationSpec
from core.specs.objective import GradientSpec, LayerwiseFeatureSpec, ObjectiveSpec, TrajectorySpec
from core.specs.storage import decoder_entries, images_per_class
from core.specs.terms import AdversarialContrastSpec, ClassCentralizationSpec, ClassDiscriminativeSpec, MutualInformationSpec
from core.specs.trajectories import has_batch_norm, num_parameters

GRAPH_COPIES = 3
"""Tensors of the size of a layer's output that its backward pass keeps: convolution, norm, activation."""

SECOND_ORDER = 5.0
"""Graphs of a plain backward pass that a batch of gradients takes where it is differentiated again: 1.5 are kept, and 3 (class
by class) to 5 (batched) were measured at the peak of the second backward pass (ConvNet-3 at 32 px, width 32 and 128)."""

SECOND_ORDER_STEP = 2.0
"""The same where one training step at a time is differentiated."""

GRADIENT_VECTORS = 2
"""Tensors of the size of the weights that a class adds to the peak where its gradient is differentiated again."""

PATH_VECTORS = 4
"""The same of a training step on the way back, beside the weights of all steps: weights, gradient, adjoint, and its change."""


def graph_copies(objective: ObjectiveSpec) -> float:
    """Graphs of a plain backward pass for each synthetic image that is computed at once."""
    match objective:
        case GradientSpec():
            return SECOND_ORDER
        case TrajectorySpec():
            return SECOND_ORDER_STEP * (objective.num_steps if objective.gradient_mode == "unrolled" else 1)
        case _:
            return 1.0


def weight_vectors(objective: ObjectiveSpec) -> int:
    """Vectors of the size of the weights that a step keeps, however it is cut."""
    return objective.num_steps + PATH_VECTORS if isinstance(objective, TrajectorySpec) else 0


def weight_vectors_per_class(objective: ObjectiveSpec) -> int:
    """The same for each class that is computed at once."""
    return GRADIENT_VECTORS if isinstance(objective, GradientSpec) else 0


def peak_memory(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> int:
    """Bytes: the data, the set, and the larger of a step's graph and of training."""
    decoded = images_per_class(spec.method.parameterization, spec.ipc, info).decoded * info.num_classes
    data = (sum(info.train_per_class) + sum(info.test_per_class)) * info.scalars_per_image
    step = _step_numbers(spec, info, worker) if spec.method.max_iterations else 0.0
    networks = [spec.evaluation.network, *spec.evaluation.cross_networks]
    batch = min(decoded, spec.evaluation.batch_size)
    training = max(GRAPH_COPIES * cost_of(network, info).activations * batch for network in networks)
    trained, batch_size = trained_per_iteration(spec, info)
    in_loop = GRAPH_COPIES * cost_of(spec.method.network, info).activations * min(trained, batch_size)
    return int(worker.base_bytes + data + 20 * decoded * info.scalars_per_image + 4 * max(step, training, in_loop))


def _step_numbers(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> float:
    """Numbers that a step keeps: some however it is cut, and the larger of what couples the classes and of what is cut."""
    method = spec.method
    numbers = float(decoder_entries(method.parameterization, info) * shown(spec, info))
    if not has_batch_norm(method.network):
        numbers += weight_vectors(method.objective) * num_parameters(method.network, info)
    return numbers + max(_whole_numbers(spec, info), _cut_numbers(spec, info, worker))


def _whole_numbers(spec: DistillationSpec, info: DatasetInfo) -> float:
    """Graphs of the losses that look at all classes at once, and what the mutual information keeps for each pair."""
    method, cost = spec.method, cost_of(spec.method.network, info)
    seen, real = images_per_class(method.parameterization, spec.ipc, info).seen * info.num_classes, num_real(spec, info)
    graphs = float(seen) if _features_are_whole(spec) else 0.0
    numbers = 0.0
    if isinstance(method.objective, TrajectorySpec):
        graphs += graph_copies(method.objective) * step_images(spec, info, method.objective)
    if isinstance(method.objective, LayerwiseFeatureSpec):  # the layers of the real images
        numbers += cost.activations * real
    for term in method.terms:
        if isinstance(term, AdversarialContrastSpec):
            graphs += paired_images(spec, info, term)
        if isinstance(term, MutualInformationSpec):  # a score, and what becomes of it
            numbers += 2 * num_layers(method.network) * seen * real
    return numbers + GRAPH_COPIES * cost.activations * graphs


def _cut_numbers(spec: DistillationSpec, info: DatasetInfo, worker: Worker) -> float:
    """Graphs, and gradients, of the classes that the other losses look at together: one class at least."""
    method, cost = spec.method, cost_of(spec.method.network, info)
    per_class = images_per_class(method.parameterization, spec.ipc, info).seen
    images = min(per_class * info.num_classes, max(per_class, worker.graph_images))
    of_objective = not isinstance(method.objective, TrajectorySpec) and (
        isinstance(method.objective, GradientSpec) or not _features_are_whole(spec)
    )
    activations = graph_copies(method.objective) * cost.activations if of_objective else 0.0
    others = [term.network for term in method.terms if isinstance(term, ClassCentralizationSpec)]
    activations += sum(cost_of(network, info).activations for network in others)
    numbers = GRAPH_COPIES * activations * images
    if not has_batch_norm(method.network):
        numbers += weight_vectors_per_class(method.objective) * images / per_class * num_parameters(method.network, info)
    return numbers


def _features_are_whole(spec: DistillationSpec) -> bool:
    """Whether a term looks at the features of all classes at once."""
    return any(isinstance(term, (ClassDiscriminativeSpec, MutualInformationSpec)) for term in spec.method.terms)
