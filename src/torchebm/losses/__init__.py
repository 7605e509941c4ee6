"""Objectives, one a file."""

from torchebm.core.energies import NonFiniteEnergyError
from torchebm.core.first_generation_classes import Loss
from torchebm.core.loss import BaseLoss, LossOutput

from .contrastive_divergence import ContrastiveDivergence
from .replay_buffer import ReplayBuffer

__all__ = ["BaseLoss", "ContrastiveDivergence", "Loss", "LossOutput", "NonFiniteEnergyError", "ReplayBuffer"]
