"""Objectives, one a file."""

from torchebm.core.energies import NonFiniteEnergyError
from torchebm.core.first_generation_classes import Loss
from torchebm.core.loss import BaseLoss, LossOutput

from .contrastive_divergence import ContrastiveDivergence
from .improved_contrastive_divergence import ImprovedContrastiveDivergence
from .joint import JointContrastiveDivergence, class_logits
from .recovery_likelihood import NoiseLevels, RecoveryLikelihood, recover
from .replay_buffer import ReplayBuffer

__all__ = [
    "BaseLoss",
    "ContrastiveDivergence",
    "ImprovedContrastiveDivergence",
    "JointContrastiveDivergence",
    "Loss",
    "LossOutput",
    "NoiseLevels",
    "NonFiniteEnergyError",
    "RecoveryLikelihood",
    "ReplayBuffer",
    "class_logits",
    "recover",
]
