"""HaBa's adversary: two hallucinations of one basis must look different to a network that learns to see them alike.

Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774, as its published code computes it. z_j,
z_k are the embeddings (input of the classifier) of all bases through two different hallucinators, augmented as one batch.
    the set:        mean of (1 + cos(z_j, z_k)) / 2, times `weight`
    the adversary:  cross-entropy of both views + 0.1 supervised contrast + 0.1 mean of (1 - cos(z_j, z_k)) / 2
The adversary has the architecture of the matching networks and lives through the whole run; after each update of the set it
makes one step of SGD with momentum, v <- m v + g, w <- w - lr v, on a newly drawn pair of the updated set.

As in the code, and unlike the paper, the contrast takes every image of the class as positive, not the same basis alone, and
the alignment term is there. The contrast is that of Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020,
arXiv:2004.11362, eq. (2), on embeddings of unit length. Batches are augmented as for the training of a network: one operation
for the batch, parameters for each image. Learned labels are not read; the adversary classifies by class.
Deviations: the code draws pairs in passes over shuffled bases; here each draw is a new one, the same where it takes all.
Shapes: M bases of a pair draw, 2 M images, C channels, H W pixels, D features, K classes, P weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from core.distillation.moments import widened
from core.distillation.plan import Draw, Plan
from core.distillation.randomness import rng
from core.distillation.step import Step, take
from core.networks.network import Forward, Network, Tensors
from core.specs.terms import AdversarialContrastSpec


class AdversarialContrast:
    """A network against the hallucinators."""

    def __init__(self, spec: AdversarialContrastSpec, net: Network, seed: int, device: torch.device) -> None:
        """Draw the adversary.

        Args:
            spec: weights of the losses, and its optimizer.
            net: its architecture.
            seed: seed of the job.
            device: where it lives.
        """
        self.weight = spec.weight
        self._spec = spec
        self._draw = Draw("pairs", spec.num_bases)
        self._forward = Forward.on(device, net, compile_passes=False, training=True)
        self._params = net.init(rng(seed, "adversary/weights", device=device))
        self._velocity = torch.zeros_like(self._params)

    def plan(self) -> Plan:
        """Pairs; the matching network is not asked."""
        return Plan(syn=(self._draw,), separable=False)

    def value(self, step: Step) -> Tensor:
        """() float32 in [0, 1]: 0.5 where embeddings are orthogonal, 1 where they point alike; the adversary is constant."""
        rows = step.syn.rows[step.syn.draws.index(self._draw)]
        views = self._look(self._params, take(step.syn.images, rows), step, "adversary/set", ("flat",))["flat"]
        return (1.0 + cosine(*views)).mean() / 2.0

    def update(self, step: Step) -> None:
        """One step of the adversary."""
        with torch.no_grad():
            rows = step.parameterization.indices(self._draw, step.rng("adversary/draw"))
            images, classes = step.parameterization.decode(rows.reshape(-1))
        params = self._params.clone().requires_grad_()
        loss = self._loss(params, images.unflatten(0, rows.shape), classes[: rows.shape[1]], step)
        (gradient,) = torch.autograd.grad(loss, params)
        self._velocity = self._spec.momentum * self._velocity + gradient
        self._params = self._params - self._spec.lr_net * self._velocity

    def _loss(self, params: Tensor, images: Tensor, classes: Tensor, step: Step) -> Tensor:
        """What the adversary minimises on (2, M, C, H, W) images of (M,) classes."""
        spec = self._spec
        out = self._look(params, images, step, "adversary/own", ("flat", "logits"))
        crossed = F.cross_entropy(out["logits"].flatten(0, 1), classes.repeat(2))
        contrasted = supervised_contrast(out["flat"].flatten(0, 1), classes.repeat(2), spec.temperature)
        aligned = (1.0 - cosine(*out["flat"])).mean() / 2.0
        return spec.classification_weight * crossed + spec.contrast_weight * contrasted + spec.alignment_weight * aligned

    def _look(self, params: Tensor, images: Tensor, step: Step, name: str, taps: tuple[str, ...]) -> Tensors:
        """Taps of (2, M, C, H, W) images, augmented as a batch that trains a network is: (2, M, ...)."""
        flat = images.flatten(0, 1)
        transform = step.augmentation.draw(len(flat), step.rng(name), shared_operation=True)
        out = self._forward(params, {}, transform.apply(flat[:, None]).squeeze(1), taps)
        return {tap: widened(value).unflatten(0, images.shape[:2]) for tap, value in out.items()}

    def parameters(self) -> dict[str, list[Tensor]]:
        """None; the adversary has an optimizer of its own."""
        return {}

    def state(self) -> Tensors:
        """The adversary and its momentum."""
        return {"params": self._params, "velocity": self._velocity}

    def load(self, state: Tensors) -> None:
        """Take them back."""
        self._params, self._velocity = state["params"], state["velocity"]


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """(M, D) and (M, D) -> (M,), in [-1, 1]."""
    return F.cosine_similarity(first, second, dim=1)


def supervised_contrast(embeddings: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """(N, D) embeddings of (N,) classes, at least two of each -> (): mean over anchors of the mean over its positives p of
    -log of exp(z_i z_p / T) over the sum over all others of exp(z_i z_a / T), z of unit length.
    """
    unit = F.normalize(embeddings, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    log_shares = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    positive = (classes[:, None] == classes) & ~itself
    return -(log_shares.masked_fill(~positive, 0.0).sum(1) / positive.sum(1)).mean()
