"""Objectives, one a file."""

from ..core.energies import NonFiniteEnergyError
from ..core.first_generation_classes import Loss
from ..core.loss import BaseLoss, LossOutput
from .contrastive_divergence import ContrastiveDivergence
from .replay_buffer import ReplayBuffer

__all__ = ["BaseLoss", "ContrastiveDivergence", "Loss", "LossOutput", "NonFiniteEnergyError", "ReplayBuffer"]
