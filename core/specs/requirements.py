"""Which pools of trained networks a job needs before it can run, and the key under which each is shared. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from core.specs.base import digest
from core.specs.dataset import DatasetSpec
from core.specs.experts import PoolSpec
from core.specs.init import EmbeddedInitSpec, ForgettingInitSpec, HerdingInitSpec, InitSpec, KCenterInitSpec, KMeansInitSpec
from core.specs.job import DistillationSpec, EvaluationJobSpec, ExpertsSpec, JobSpec
from core.specs.models import ExpertSegmentsSpec, ModelsSpec, PretrainedPoolSpec
from core.specs.network import NetworkSpec
from core.specs.terms import ClassCentralizationSpec, TermSpec

_DEFAULT_TIMEOUT: int = ExpertsSpec.model_fields["timeout_seconds"].default

TRAINING_VERSION = 2
"""Grows whenever the training of networks on real data changes its numbers, so that old pools are not taken for new ones."""


def required_pools(spec: DistillationSpec) -> tuple[PoolSpec, ...]:
    """Every pool that a slot of the method, or a baseline of its evaluation, reads; each once, in a fixed order."""
    method = spec.method
    pools = [pool_of_models(method.models, method.network), pool_of_init(method.init, method.network)]
    pools += [pool_of_term(term) for term in method.terms]
    pools += [pool_of_init(init, spec.evaluation.network) for init in spec.evaluation.baseline_inits().values()]
    seen = {"preprocessing": method.preprocessing}
    return tuple(dict.fromkeys(pool.model_copy(update=seen) for pool in pools if pool is not None))


def required_experts(spec: JobSpec, dataset_digest: str) -> dict[str, ExpertsSpec]:
    """The jobs that train what `required_pools` lists, by content key.

    They run where the asking job runs, with its priority, and may take as long as it, or a day if that is longer. Its attempts
    and what labels it stay behind, because others will wait for the same networks.
    """
    if isinstance(spec, EvaluationJobSpec):
        spec = spec.distillation
    if not isinstance(spec, DistillationSpec):
        return {}
    dataset = spec.dataset
    seed = spec.seed if dataset.held_out_fraction else 0
    return {
        pool_key(pool, dataset, dataset_digest, seed=seed): ExpertsSpec(
            dataset=dataset, pool=pool, seed=seed, resources=spec.resources, priority=spec.priority,
            timeout_seconds=max(spec.timeout_seconds, _DEFAULT_TIMEOUT),
        )
        for pool in required_pools(spec)
    }


def evaluation_jobs(
    job_id: str, spec: DistillationSpec, units: Sequence[str], set_digest: str, units_per_job: int
) -> dict[str, EvaluationJobSpec]:
    """The jobs that evaluate some units of the set that a job has made, by content key. They run where that job runs.

    Only its own later attempts share them: the set lies in a checkpoint that is gone when the job is over.
    """
    made = {}
    for at in range(0, len(units), units_per_job):
        part = EvaluationJobSpec(
            dataset=spec.dataset, distillation=spec, units=tuple(units[at : at + units_per_job]), set_digest=set_digest,
            seed=spec.seed,
            resources=spec.resources, priority=spec.priority, timeout_seconds=spec.timeout_seconds,
            max_attempts=spec.max_attempts,
        )
        made[f"evaluation-{digest({'job': job_id, 'set': set_digest, 'units': part.units})}"] = part
    return made


def pool_of_models(spec: ModelsSpec, network: NetworkSpec) -> PoolSpec | None:
    """The pool behind the slot `models`."""
    if not isinstance(spec, (PretrainedPoolSpec, ExpertSegmentsSpec)):
        return None
    return PoolSpec(
        network=network, num_networks=spec.num_networks, training=spec.training, pool_seed=spec.pool_seed,
        keep_snapshots=isinstance(spec, ExpertSegmentsSpec),
    )


def pool_of_term(spec: TermSpec) -> PoolSpec | None:
    """The pool behind a term."""
    if not isinstance(spec, ClassCentralizationSpec):
        return None
    return PoolSpec(network=spec.network, num_networks=spec.num_networks, training=spec.training, pool_seed=spec.pool_seed)


def pool_of_init(spec: InitSpec, network: NetworkSpec) -> PoolSpec | None:
    """The one network that embeds, or forgets, for an `init` kind."""
    if not isinstance(spec, EmbeddedInitSpec):
        return None
    match spec:
        case HerdingInitSpec() | KCenterInitSpec() | KMeansInitSpec():
            count_forgetting = False
        case ForgettingInitSpec():
            count_forgetting = True
        case _:
            assert_never(spec)
    return PoolSpec(
        network=network, num_networks=1, training=spec.training, pool_seed=spec.pool_seed, count_forgetting=count_forgetting
    )


def pool_key(pool: PoolSpec, dataset: DatasetSpec, dataset_digest: str, *, seed: int) -> str:
    """Content key of a pool: equal keys mean equal bytes, up to the machine.

    Args:
        pool: the networks and their training.
        dataset: held-out fraction.
        dataset_digest: digest of the canonical data.
        seed: seed of the job; it chooses the held-out images and counts only where some are held out.
    """
    held_out = {"fraction": dataset.held_out_fraction, "seed": seed} if dataset.held_out_fraction else None
    content = {
        "training_version": TRAINING_VERSION, "pool": pool.model_dump(mode="json"), "dataset": dataset_digest,
        "held_out": held_out,
    }
    return f"experts-{digest(content)}"
