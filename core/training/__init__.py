"""The one place where a network is trained: on tensor sets by `Trainer`, on the real set by `train_on_real`.

Both drive `NetworkStep`, as may whoever trains inside the loop of distillation.
"""

from core.training.epoch import epoch_order, train_epoch
from core.training.real import TrainedOnReal, num_steps, train_on_real, training_batch
from core.training.schedule import Schedule
from core.training.step import NetworkStep, TrainState
from core.training.trainer import Trained, Trainer

__all__ = [
    "NetworkStep", "Schedule", "TrainState", "Trained", "TrainedOnReal", "Trainer", "epoch_order", "num_steps",
    "train_epoch", "train_on_real", "training_batch",
]
