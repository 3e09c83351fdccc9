"""Pools of networks trained on the real set: how they are trained, what a file of one holds, and where a job gets them from.

A pool depends on its specification and on the data alone, not on the seed of the job that asks for it, so that jobs share
it. Its file is one safetensors file with the specification in its header.
Shapes: E networks of a pool, P weights of each, T epochs, N training images in the order of the real set, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core import compilation
from core.data.real_set import RealSet
from core.distillation.augmentation.build import build_augmentation
from core.errors import InvalidInputError
from core.networks.build import build_network
from core.networks.network import Forward, Network, Tensors
from core.progress import Hooks
from core.specs.base import canonical_json
from core.specs.experts import PoolSpec
from core.specs.job import DistillationSpec
from core.specs.requirements import TRAINING_VERSION, pool_key
from core.training import NetworkStep, TrainedOnReal, num_steps, train_on_real

FORMAT = 1
_HEADER = "experts"
_BUFFER = "buffers/"
_SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class Pool:
    """Trained networks of one architecture."""

    net: Network
    params: Tensor
    """(E, P) float32."""

    accuracy: Tensor
    """(E,) float32: training accuracy in the last epoch, as a fraction; 0 where nothing was trained."""

    buffers: Tensors = field(default_factory=dict)
    """Running statistics of batch norms, (E, ...) each."""

    forgetting: Tensor | None = None
    """(N,) int64, summed over the networks, where it was asked for."""

    snapshots: Tensor | None = None
    """(E, T + 1, P) float32 on the CPU, where they were asked for: weights before training and after each of T epochs. Read
    from a file, they stay there until a row is used."""

    @torch.no_grad()
    def logits(self, index: int, images: Tensor) -> Tensor:
        """(N, K) logits of (N, C, H, W) images under one network, in evaluation mode."""
        forward = Forward.on(images.device, self.net, compile_passes=False)
        buffers = {name: value[index] for name, value in self.buffers.items()}
        return forward(self.params[index], buffers, images, ("logits",))["logits"]


class Experts(Protocol):
    """Answers for the pools that a specification needs (`core.specs.requirements`)."""

    def pool(self, spec: PoolSpec) -> Pool:
        """The trained pool, on the device of the real set."""
        ...


def train_pool(
    spec: PoolSpec,
    data: RealSet,
    *,
    hooks: Hooks | None = None,
    first: Pool | None = None,
    on_network: Callable[[Callable[[], Pool]], None] | None = None,
) -> Pool:
    """Train every network of a pool, one after another with one compiled step.

    Args:
        spec: architecture, training, number and seed.
        data: real set, on the device that trains.
        hooks: told about the phase `training` in steps of all networks; may ask to stop.
        first: the first networks of the pool, where an earlier call had finished them.
        on_network: called after each network with a function that gives the pool of those finished so far.

    Raises:
        Stopped: the hooks asked for it; the network that was being trained is lost.
    """
    assert spec.preprocessing == data.preprocessing, "the pool wants other images"
    hooks, training = hooks or Hooks(), spec.training
    net = build_network(spec.network, data.info)
    per_network = num_steps(training, data)
    work = net.activations_per_image * len(data.labels) * training.num_epochs * spec.num_networks
    step = NetworkStep(
        net, momentum=training.momentum, weight_decay=training.weight_decay,
        compiled=compilation.pays(work, data.device), device=data.device,
    )
    augmentation = build_augmentation(training.augmentation)
    hooks.phase("training", per_network * spec.num_networks)

    def train(index: int) -> TrainedOnReal:
        def on_step(done: int) -> None:
            at = index * per_network + done
            hooks.progress(at, per_network * spec.num_networks, message=f"network {index + 1} of {spec.num_networks}")

        return train_on_real(
            step, data, training, augmentation, seed=spec.pool_seed, name="experts", index=index, hooks=hooks,
            on_step=on_step, count_forgetting=spec.count_forgetting, keep_snapshots=spec.keep_snapshots,
        )

    snapshots = None
    if spec.keep_snapshots:  # in one piece from the beginning: joining would hold them twice
        snapshots = torch.empty(spec.num_networks, spec.num_snapshots, net.num_parameters)
    finished, count = ([], 0) if first is None else ([first], len(first.params))
    if snapshots is not None and first is not None and first.snapshots is not None:
        snapshots[:count].copy_(first.snapshots)
    for index in range(count, spec.num_networks):
        trained = train(index)
        finished.append(_pool_of_one(net, trained))
        if snapshots is not None and trained.snapshots is not None:
            snapshots[index].copy_(trained.snapshots)
        if on_network is not None:
            on_network(lambda: _joined(finished, snapshots))
    return _joined(finished, snapshots)


def _pool_of_one(net: Network, trained: TrainedOnReal) -> Pool:
    buffers = {name: value[None] for name, value in trained.buffers.items()}
    return Pool(net, trained.params[None], trained.accuracy[None], buffers, trained.forgetting)


def _joined(pools: Sequence[Pool], snapshots: Tensor | None) -> Pool:
    """One pool of all networks, in order, with their snapshots from (at least as many) rows of all."""
    counts = [pool.forgetting for pool in pools if pool.forgetting is not None]
    params = torch.cat([pool.params for pool in pools])
    return Pool(
        pools[0].net,
        params,
        torch.cat([pool.accuracy for pool in pools]),
        {name: torch.cat([pool.buffers[name] for pool in pools]) for name in pools[0].buffers},
        torch.stack(counts).sum(0) if counts else None,
        None if snapshots is None else snapshots[: len(params)],
    )


def save_pool(pool: Pool, spec: PoolSpec, path: Path) -> None:
    """Write a pool as one safetensors file whose header holds its specification."""
    tensors = {"params": pool.params, "accuracy": pool.accuracy}
    tensors |= {_BUFFER + name: value for name, value in pool.buffers.items()}
    if pool.forgetting is not None:
        tensors["forgetting"] = pool.forgetting
    if pool.snapshots is not None:
        tensors[_SNAPSHOTS] = pool.snapshots
    metadata = {_HEADER: canonical_json(_header(spec))}  # one entry: the format orders several as it likes
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path, metadata=metadata)


def load_pool(path: Path, spec: PoolSpec, data: RealSet) -> Pool:
    """Read the pool of a specification onto the device of the real set.

    Raises:
        InvalidInputError: the file is unreadable, of another format or version, or holds another pool.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            for key, wanted in _header(spec).items():
                if header.get(key) != wanted:
                    raise InvalidInputError(f"pool {path.name} has {key} {header.get(key)}, wanted is {wanted}")
            tensors = {
                name: file.get_tensor(name).to("cpu" if name == _SNAPSHOTS else data.device)
                for name in file.keys()  # noqa: SIM118 - not a mapping
            }
    except (OSError, SafetensorError, ValueError) as error:
        raise InvalidInputError(f"pool {path.name} cannot be read: {error}") from error
    net = build_network(spec.network, data.info)
    _require_shapes(tensors, net, spec, data, path.name)
    buffers = {name.removeprefix(_BUFFER): value for name, value in tensors.items() if name.startswith(_BUFFER)}
    return Pool(net, tensors["params"], tensors["accuracy"], buffers, tensors.get("forgetting"), tensors.get(_SNAPSHOTS))


def load_first(path: Path, spec: PoolSpec, data: RealSet) -> Pool:
    """Read the file of a pool with fewer networks that is otherwise the same: the first networks of `spec`.

    Raises:
        InvalidInputError: as for `load_pool`.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            count = int(json.loads((file.metadata() or {})[_HEADER])["pool"]["num_networks"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InvalidInputError(f"pool {path.name} cannot be read: {error}") from error
    return load_pool(path, spec.model_copy(update={"num_networks": min(count, spec.num_networks)}), data)


def _header(spec: PoolSpec) -> dict[str, Any]:
    return {"format": FORMAT, "training_version": TRAINING_VERSION, "pool": spec.model_dump(mode="json")}


def _require_shapes(tensors: Tensors, net: Network, spec: PoolSpec, data: RealSet, name: str) -> None:
    count = spec.num_networks
    wanted = {"params": (count, net.num_parameters), "accuracy": (count,)}
    wanted |= {_BUFFER + key: (count, *value.shape) for key, value in net.init_buffers("meta").items()}
    if spec.count_forgetting:
        wanted["forgetting"] = (len(data.labels),)
    if spec.keep_snapshots:
        wanted[_SNAPSHOTS] = (count, spec.num_snapshots, net.num_parameters)
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if found != wanted:
        differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        raise InvalidInputError(f"pool {name} does not fit the network and the data: {', '.join(differing)}")


class TrainedHere:
    """Trains pools when they are asked for, in this process, and keeps them."""

    def __init__(self, data: RealSet, hooks: Hooks | None = None) -> None:
        self._data = data
        self._hooks = hooks
        self._pools: dict[PoolSpec, Pool] = {}

    def pool(self, spec: PoolSpec) -> Pool:
        """The pool, trained on the images as the real set has them; equal specifications share one."""
        spec = spec.model_copy(update={"preprocessing": self._data.preprocessing})
        if spec not in self._pools:
            self._pools[spec] = train_pool(spec, self._data, hooks=self._hooks)
        return self._pools[spec]


class FromFiles:
    """Reads the pools that somebody put into a folder, each as `<content key>.safetensors`, and keeps them."""

    def __init__(self, folder: Path, job: DistillationSpec, data: RealSet) -> None:
        """`job` and `data` say what the keys are made from."""
        self._folder = folder
        self._job = job
        self._data = data
        self._pools: dict[PoolSpec, Pool] = {}

    def pool(self, spec: PoolSpec) -> Pool:
        """The pool from its file, trained on the images as the real set has them.

        Raises:
            InvalidInputError: the file is missing, damaged, or holds something else.
        """
        spec = spec.model_copy(update={"preprocessing": self._data.preprocessing})
        if spec not in self._pools:
            key = pool_key(spec, self._job.dataset, self._data.info.identity, seed=self._job.seed)
            path = self._folder / f"{key}.safetensors"
            if not path.is_file():
                raise InvalidInputError(f"the pool of trained networks {key} is not among the inputs of the job")
            self._pools[spec] = load_pool(path, spec, self._data)
        return self._pools[spec]
