"""The recipe of diffusion recovery likelihood."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core import BaseModel, BaseSampler, ConstantScheduler, WarmupScheduler
from torchebm.core.random import randn
from torchebm.datasets import Data
from torchebm.losses import NoiseLevels, RecoveryLikelihood, recover
from torchebm.models import NoiseConditionalEnergy
from torchebm.samplers import LangevinDynamics

from ..trainer import Trainer
from .base import Kind, LossSettings, ModelSettings, Recipe, SamplerSettings, TrainingSettings
from .pixels import Columns, box_of, columns_of, in_data_units, in_model_units, unit_of

__all__ = ["DiffusionRecovery"]


class FirstLevel(BaseModel):
    r"""The energy of data with hardly any noise, at temperature 1: $E(x) = U(\alpha_1 x, 0) / 2 h_0$."""

    def __init__(self, network: NoiseConditionalEnergy, levels: NoiseLevels, step_size: float) -> None:
        super().__init__()
        self.network, self.event_shape = network, network.event_shape
        self.signal, self.scale = float(levels.signal[1]), 2 * step_size * float(levels.noise[1]) ** 2

    def forward(self, x: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
        return self.network(self.signal * x) / self.scale


@dataclass(frozen=True)
class LevelledSettings(ModelSettings):
    """One network for all noise levels, on images scaled to a box or on columns of mean 0 and deviation 1."""

    n_levels: int = 6
    """Noise levels, out of 1000 of a linear schedule."""
    widths: tuple[int, ...] = (64, 64, 64, 64)
    """Width of each residual block."""
    spectral_norm: bool = True
    """Whether each layer is divided by its largest singular value."""
    box: tuple[float, float] = (-1.0, 1.0)
    """What black and white are scaled to."""
    pixels: tuple[float, float] | None = None
    """Black and white in the data; read off the data if left out. Tables have none."""
    columns: Columns | None = None
    """Mean and standard deviation of each column; read off the data if left out. Images have none."""


@dataclass(frozen=True)
class LevelSettings(SamplerSettings):
    """Langevin dynamics at each level, at temperature 1 of the energy given the noisier point."""

    n_steps: int = 30
    """Transitions at each level, from noise to a sample, after training."""
    step_size: float = 1e-4
    r"""$b^2 / 2$: the step, in units of the variance and of the noise of each level."""


@dataclass(frozen=True)
class RecoverySettings(LossSettings):
    """The likelihood of data given their noisier version, at a random level."""

    k_steps: int = 30
    """Transitions per update."""
    data_noise: Literal[0] = 0
    """None is added beyond that of the levels."""


@dataclass(frozen=True)
class WarmupSettings(TrainingSettings):
    """Adam with a warm-up, and averaged weights."""

    n_steps: int = 100_000
    """Updates."""
    batch_size: int = 256
    """Points per update."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up."""
    warmup_steps: int = 1000
    """Updates until the learning rate is reached."""
    ema_decay: float | None = 0.999
    """Decay of the average of the weights; none for no average."""


@dataclass(frozen=True)
class DiffusionRecovery(Recipe):
    """Noise undone in six strides, each by an energy of its own given the noisier image.

    The source's network is wider, with attention and leaky rectifiers; here are four residual blocks with SiLU, each
    shifted by what it learns about the level. The energy of a run is that of the level with hardly any noise.
    """

    name: ClassVar = "diffusion-recovery"
    source: ClassVar = "Gao et al. (2021), https://arxiv.org/abs/2012.08125, T6; ruiqigao/recovery_likelihood, model.py"
    purpose: ClassVar = "short-run generator"
    figures: ClassVar = "published, for 32x32 CIFAR-10: Frechet distance 9.58; not repeated here"
    kinds: ClassVar[tuple[Kind, ...]] = ("image", "table", "planar")
    one_chain: ClassVar = False

    model: LevelledSettings = LevelledSettings()
    sampler: LevelSettings = LevelSettings()
    loss: RecoverySettings = RecoverySettings()
    training: WarmupSettings = WarmupSettings()

    @property
    def levels(self) -> NoiseLevels:
        """The noise."""
        return NoiseLevels.linear(self.model.n_levels)

    def fitted(self, data: Data) -> Self:
        """The recipe with the units of the data."""
        super().fitted(data)
        model = self.model
        if data.kind == "image" and model.pixels is None:
            model = replace(model, pixels=box_of(data))
        if data.kind == "table" and model.columns is None:
            model = replace(model, columns=columns_of(data))
        return replace(self, model=model)

    def build_model(self, x: Float[Tensor, " n *event"]) -> BaseModel:
        settings = self.model
        network = NoiseConditionalEnergy(x.shape[1:], settings.n_levels, settings.widths, settings.spectral_norm)
        inner = FirstLevel(network, self.levels, self.sampler.step_size)
        return in_data_units(inner, settings.pixels, settings.columns, settings.box)

    def build_sampler(self, model: BaseModel) -> LangevinDynamics:
        """Of the model itself, at the step size of its level; `draw` goes through all levels."""
        return LangevinDynamics(model, self.sampler.step_size * float(self.levels.noise[1]) ** 2)

    def level_sampler(self, network: BaseModel) -> LangevinDynamics:
        """Of the network, with the step size in the units of each level."""
        return LangevinDynamics(network, self.sampler.step_size)

    def trained_part(self, model: BaseModel) -> BaseModel:
        return cast(FirstLevel, model.coordinates()[0]).network

    def observations(self, model: BaseModel, data: Data) -> Any:
        return in_model_units(model, data.x)

    def data_noise(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, "*event"]:
        unit = unit_of(x, self.model.pixels, self.model.columns, self.model.box)
        return float(self.levels.noise[0]) * unit

    def build_trainer(
        self, model: BaseModel, x: Float[Tensor, " n *event"], *, out_dir: str | Path | None, seed: int
    ) -> Trainer:
        inner, training = self.trained_part(model), self.training
        loss_fn = RecoveryLikelihood(inner, self.level_sampler(inner), self.levels, self.loss.k_steps)
        optimizer = torch.optim.Adam(inner.parameters(), lr=training.learning_rate)
        schedule = WarmupScheduler(ConstantScheduler(1.0), training.warmup_steps) if training.warmup_steps else 1.0
        return self.trainer(loss_fn, optimizer, schedule, out_dir=out_dir, seed=seed)

    def draw(self, model: BaseModel, sampler: BaseSampler, start: Float[Tensor, " n *event"], n_steps: int, *,
             noise: Float[Tensor, "*event"], label: Tensor | None = None, generator: torch.Generator | None = None,
             progress: bool = False) -> Float[Tensor, " n *event"]:  # fmt: skip
        if label is not None:
            raise ValueError(f"recipe {self.name!r} learns no classes: samples of one class cannot be asked for.")
        network, transform = self.trained_part(model), model.coordinates()[1]
        z = randn(start.shape, generator=generator, dtype=start.dtype, device=start.device)
        z = recover(network, self.level_sampler(network), self.levels, z, n_steps,
                    generator=generator, progress=progress)  # fmt: skip
        return z if transform is None else cast(Tensor, transform(z))
