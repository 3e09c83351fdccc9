"""How long a network is trained on a tensor set, and at which rate."""

from __future__ import annotations

from typing import Literal, NamedTuple

Shape = Literal["one_drop", "two_drops", "constant"]


class Schedule(NamedTuple):
    """Hyper-parameters of one training run."""

    num_epochs: int
    """E of the published loops."""

    batch_size: int
    lr_net: float
    momentum: float
    weight_decay: float
    shape: Shape = "one_drop"
    """`one_drop` (Zhao et al., arXiv:2006.05929): E + 1 passes, a tenth of the rate, and no momentum, after pass E // 2 + 1
    counted from 0. `two_drops` (IDC, arXiv:2205.14959): E passes, a fifth of the rate from pass 2 E // 3 on and again from pass
    5 E // 6 on. `constant`: E passes."""

    cutmix_probability: float = 0.0
    """Chance that CutMix mixes a batch."""

    @property
    def num_passes(self) -> int:
        """Passes over the set."""
        return self.num_epochs + 1 if self.shape == "one_drop" else self.num_epochs

    def rate(self, epoch: int) -> float:
        """Learning rate in pass number `epoch`, from 0."""
        match self.shape:
            case "one_drop":
                return self.lr_net if epoch <= self.num_epochs // 2 + 1 else self.lr_net * 0.1
            case "two_drops":
                drops = (epoch >= 2 * self.num_epochs // 3) + (epoch >= 5 * self.num_epochs // 6)
                return self.lr_net * 0.2**drops
            case "constant":
                return self.lr_net

    def forgets_after(self, epoch: int) -> bool:
        """Whether the momentum is set to zero after pass number `epoch`."""
        return self.shape == "one_drop" and epoch == self.num_epochs // 2 + 1

    def num_steps(self, num_images: int) -> int:
        """Steps of the whole run."""
        return self.num_passes * -(-num_images // self.batch_size)
