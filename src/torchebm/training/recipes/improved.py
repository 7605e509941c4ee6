"""The recipe of improved contrastive divergence."""

from dataclasses import dataclass
from typing import ClassVar

from torchebm.core import BaseModel
from torchebm.losses import ContrastiveDivergence, ImprovedContrastiveDivergence

from .base import Kind
from .langevin import LangevinRecipe, LangevinSettings, Network, NetworkSettings, PublishedSettings, ReplaySettings

__all__ = ["ImprovedCD"]


@dataclass(frozen=True)
class ImprovedSettings(ReplaySettings):
    """Contrastive divergence through the last step of its chains, with an estimate of their entropy."""

    kl_weight: float = 1.0
    """Weight of the energy of the samples, differentiated through the step that made them."""
    entropy_weight: float = 0.3
    """Weight of the mean logarithm of the distance to the nearest replayed sample."""
    n_neighbours: int = 100
    """Replayed samples that distances are measured to."""


@dataclass(frozen=True)
class ImprovedCD(LangevinRecipe):
    """Images by long steps and many of them, with the terms of the loss that short chains call for.

    The source also blurs, recolours, crops and flips what it replays, adds energies at three resolutions, and has group
    normalisation and attention in its network; here chains are replayed as they are, by six residual blocks with SiLU.
    """

    name: ClassVar = "improved-cd"
    source: ClassVar = (
        "Du et al. (2021), https://arxiv.org/abs/2012.01316; yilundu/improved_contrastive_divergence, train.py"
    )
    purpose: ClassVar = "short-run generator"
    figures: ClassVar = "published, for 32x32 CIFAR-10 with all that is left out here: Frechet distance 25.1"
    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    image_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("residual", (64,) * 6)

    model: NetworkSettings = NetworkSettings(box=(0.0, 1.0))
    sampler: LangevinSettings = LangevinSettings(n_steps=200, step_size=100.0, noise=0.001, clamp=True)
    loss: ImprovedSettings = ImprovedSettings(k_steps=40, buffer_size=10_000, new_sample_ratio=0.001,
                                              energy_reg_weight=2.0)  # fmt: skip
    training: PublishedSettings = PublishedSettings(n_steps=100_000, batch_size=128, learning_rate=2e-4,
                                                    betas=(0.0, 0.9), ema_decay=0.99, grad_clip_norm=0.5)  # fmt: skip

    def build_loss(self, model: BaseModel) -> ContrastiveDivergence:
        loss = self.loss
        return ImprovedContrastiveDivergence(
            model,
            self.build_sampler(model),
            loss.k_steps,
            kl_weight=loss.kl_weight,
            entropy_weight=loss.entropy_weight,
            n_neighbours=loss.n_neighbours,
            **self.loss_options(),
        )
