"""Recipes: named, complete configurations that train an energy on a kind of data."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core import (
    BaseModel,
    CosineScheduler,
    FunctionScheduler,
    HarmonicModel,
    StandardizedModel,
    WarmupScheduler,
)
from torchebm.core.transformed import units
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import HamiltonianMonteCarlo

from .trainer import Trainer

__all__ = ["RECIPES", "LossSettings", "ModelSettings", "Recipe", "SamplerSettings", "TrainingSettings", "recipe"]


@dataclass(frozen=True)
class ModelSettings:
    r"""$E(x) = \tfrac12 |z|^2 + f(z)$ with a network f, in coordinates z of mean 0 and covariance I over the data."""

    hidden: tuple[int, ...] = (512,)
    """Widths of the network's layers."""
    standardise_by: Literal["column", "event"] = "column"
    """Units of the data: every column its own, or one for the whole image."""


@dataclass(frozen=True)
class SamplerSettings:
    """Hamiltonian Monte Carlo at temperature 1, in the standardised coordinates."""

    step_size: float = 0.15
    """Leapfrog step, in standard deviations of the data."""
    jitter: float = 0.2
    """Fraction by which the step varies from transition to transition, so that no path length meets a period."""
    n_leapfrog_steps: int = 10
    """Gradients per transition."""
    n_steps: int = 400
    """Transitions from noise to a sample, after training."""
    denoise: bool = True
    """Whether samples are freed of the noise that was added to the data, by one step along the score."""


@dataclass(frozen=True)
class LossSettings:
    """Persistent contrastive divergence."""

    k_steps: int = 2
    """Transitions per update."""
    buffer_size: int = 4000
    """Persistent chains."""
    new_sample_ratio: float = 0.0
    """Fraction of chains begun anew at each update."""
    energy_reg_weight: float = 0.001
    """Weight of the squared energies."""
    data_noise: float = 0.1
    """Standard deviation of the noise added to data, in standard deviations of each column (or of all pixels)."""


@dataclass(frozen=True)
class TrainingSettings:
    """Adam with a warm-up and a cosine to a small learning rate, clipped gradients, averaged weights."""

    n_steps: int = 10_000
    """Updates."""
    batch_size: int = 128
    """Points per update."""
    learning_rate: float = 0.01
    """Highest learning rate."""
    warmup_steps: int = 200
    """Updates until the learning rate is reached."""
    final_learning_rate: float = 0.05
    """Learning rate at the end, as a fraction of the highest."""
    ema_decay: float = 0.999
    """Decay of the average of the weights."""
    grad_clip_norm: float = 1.0
    """Limit on the norm of the gradient."""
    checkpoint_every: int = 1000
    """Updates between checkpoints."""
    n_threads: int = 1
    """CPU threads; networks of this size gain nothing from more."""


@dataclass(frozen=True)
class Recipe:
    """All that turns data into a trained energy; every field can be overridden."""

    model: ModelSettings = field(default_factory=ModelSettings)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def build_model(self, data: Float[Tensor, " n *event"]) -> StandardizedModel:
        """The untrained energy, in the units of the data."""
        d = data.shape[1:].numel()
        network = MLPEnergy(d, self.model.hidden)
        return StandardizedModel.from_data(
            network + HarmonicModel(), data, self.loss.data_noise, by=self.model.standardise_by
        )

    def build_sampler(self, model: BaseModel) -> HamiltonianMonteCarlo:
        """The sampler of training and of what comes after it."""
        step_size, jitter = self.sampler.step_size, self.sampler.jitter
        golden = (5**0.5 - 1) / 2  # its multiples fill the unit interval evenly, in no rhythm
        schedule = FunctionScheduler(lambda step: step_size * (1 + jitter * (2 * (step * golden % 1) - 1)))
        return HamiltonianMonteCarlo(
            model, schedule if jitter else step_size, self.sampler.n_leapfrog_steps, path_jitter=0.0
        )

    def data_noise(self, data: Float[Tensor, " n *event"]) -> Float[Tensor, "*event"]:
        """Standard deviation of the noise that is added to each component, in the units of the data."""
        return (self.loss.data_noise * units(data.flatten(1), self.model.standardise_by)).reshape(data.shape[1:])

    def build_trainer(
        self, model: BaseModel, data: Float[Tensor, " n *event"], *, out_dir: str | Path | None, seed: int
    ) -> Trainer:
        """Loss, optimiser and loop."""
        loss, training = self.loss, self.training
        loss_fn = ContrastiveDivergence(
            model,
            self.build_sampler(model),
            loss.k_steps,
            persistent=True,
            buffer_size=loss.buffer_size,
            new_sample_ratio=loss.new_sample_ratio,
            energy_reg_weight=loss.energy_reg_weight,
            data_noise=self.data_noise(data),
            fresh_chains="gaussian",
            reset_schedulers=False,
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate, betas=(0.0, 0.999), fused=True)
        decay = CosineScheduler(1.0, training.final_learning_rate, max(1, training.n_steps - training.warmup_steps))
        return Trainer(
            loss_fn,
            optimizer,
            learning_rate_schedule=WarmupScheduler(decay, training.warmup_steps),
            ema_decay=training.ema_decay,
            grad_clip_norm=training.grad_clip_norm,
            out_dir=out_dir,
            seed=seed,
            checkpoint_every=training.checkpoint_every,
        )


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        model=ModelSettings(hidden=(512,), standardise_by="event"),
        loss=LossSettings(data_noise=0.37),
        training=TrainingSettings(n_steps=9000),
    ),
    "tabular": Recipe(
        model=ModelSettings(hidden=(128,)),
        loss=LossSettings(data_noise=0.2),
        training=TrainingSettings(n_steps=3000, learning_rate=1e-3),  # gentle: tables are often small
    ),
}
"""The recipes by name: `digits` for small images, `tabular` for tables; each a density, sampled at temperature 1."""


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}.{hint}")
    return RECIPES[name]
