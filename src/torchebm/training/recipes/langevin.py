"""Recipes that train by Langevin dynamics at the temperature that their step size and noise imply."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchebm.core import BaseModel, BaseSampler, EnergyModel, FunctionScheduler, WarmupScheduler
from torchebm.datasets import Data
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLP, ConvEnergy, ResNetEnergy, StridedNetwork, WideResidualNetwork
from torchebm.samplers import LangevinDynamics

from ..trainer import Trainer
from .base import LossSettings, ModelSettings, Recipe, SamplerSettings, TrainingSettings
from .pixels import Columns, NoiseBuffer, Start, box_of, columns_of, in_data_units, in_model_units, unit_of

__all__ = ["LangevinRecipe", "LangevinSettings", "Network", "NetworkSettings", "PublishedSettings", "ReplaySettings"]

Network = Literal["strided", "convolutional", "residual", "wide-residual", "dense"]


@dataclass(frozen=True)
class NetworkSettings(ModelSettings):
    """A network on images scaled to a box, or on columns scaled to mean 0 and deviation 1."""

    network: Network | None = None
    """Kind of network; the recipe's own choice for such data if left out."""
    widths: tuple[int, ...] | None = None
    """Width of each layer, stage or block; the recipe's own choice for such a network if left out."""
    leak: float | None = None
    """Slope below zero of leaky rectifiers between the layers; none for SiLU."""
    spectral_norm: bool = False
    """Whether each layer is divided by its largest singular value."""
    box: tuple[float, float] = (-1.0, 1.0)
    """What black and white are scaled to."""
    pixels: tuple[float, float] | None = None
    """Black and white in the data; read off the data if left out. Tables have none."""
    columns: Columns | None = None
    """Mean and standard deviation of each column; read off the data if left out. Images have none."""


@dataclass(frozen=True)
class LangevinSettings(SamplerSettings):
    r"""Langevin dynamics $x' = x - \eta \nabla E(x) + \sigma \xi$, at the temperature $T = \sigma^2 / 2\eta$."""

    step_size: float = 1.0
    r"""$\eta$, in the units of the model."""
    noise: float = 0.01
    r"""$\sigma$, in the units of the model."""
    gradient_clip: float | None = None
    """Limit on each component of the gradient along the chain: a bias wherever it acts; none for no limit."""
    clamp: bool = False
    """Whether chains are projected on the box after each step."""
    start: Start | None = None
    """Where chains begin: uniform on the box, or standard normal; uniform for images and only for them, if left out."""


@dataclass(frozen=True)
class ReplaySettings(LossSettings):
    """Contrastive divergence with chains from a replay buffer."""

    k_steps: int = 60
    """Transitions per update."""
    buffer_size: int = 10_000
    """Chains in the buffer."""
    new_sample_ratio: float = 0.05
    """Fraction of chains begun anew at each update; 1 for no memory."""
    energy_reg_weight: float = 0.0
    r"""$w$ in the regulariser $\tfrac w2 (\langle E^2 \rangle_\mathrm{data} + \langle E^2 \rangle_\mathrm{chains})$."""


@dataclass(frozen=True)
class PublishedSettings(TrainingSettings):
    """Adam or plain gradient descent, with a warm-up and a decay by steps."""

    optimiser: Literal["adam", "sgd"] = "adam"
    """Adam, or gradient descent without momentum."""
    learning_rate: float = 1e-4
    """Highest learning rate."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Decays of Adam's averages of the gradient and of its square."""
    warmup_steps: int = 0
    """Updates until the learning rate is reached."""
    decay: float = 1.0
    """Factor on the learning rate, once every `decay_every` updates."""
    decay_every: int = 1000
    """Updates between decays."""


@dataclass(frozen=True)
class LangevinRecipe(Recipe):
    """A network trained by contrastive divergence with Langevin chains, as image energies usually are."""

    model: NetworkSettings = NetworkSettings()
    sampler: LangevinSettings = LangevinSettings()
    loss: ReplaySettings = ReplaySettings()
    training: PublishedSettings = PublishedSettings()

    image_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("convolutional", (32, 64, 128))
    """The recipe's own choice for images, with its widths."""
    table_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("dense", (128, 128))
    """The recipe's own choice for tables, with its widths."""

    @property
    def temperature(self) -> float:
        r"""$T = \sigma^2 / 2\eta$: the chains approach $e^{-E/T}$."""
        return self.sampler.noise**2 / (2 * self.sampler.step_size)

    @property
    def is_of_images(self) -> bool:
        """Whether the data are images; known once fitted."""
        return self.model.pixels is not None

    def fitted(self, data: Data) -> Self:
        """The recipe with its network, its start and the box of the pixels, as the data ask for."""
        super().fitted(data)
        model, sampler = self.model, self.sampler
        if data.kind == "image" and model.pixels is None:
            model = replace(model, pixels=box_of(data))
        if data.kind == "table" and model.columns is None:
            model = replace(model, columns=columns_of(data))
        network, widths = self.own_network(data)
        if model.network is None:
            model = replace(model, network=network)
        if model.widths is None:
            if model.network != network:
                raise ValueError(f"give --model.widths with --model.network {model.network}: the widths of "
                                 f"{self.name!r} are those of a {network} network.")  # fmt: skip
            model = replace(model, widths=widths)
        if sampler.start is None:
            sampler = replace(sampler, start="uniform" if data.kind == "image" else "gaussian")
        return replace(self, model=model, sampler=sampler)

    def build_network(self, event_shape: torch.Size, output_dim: int = 1) -> nn.Module:
        """The network, `[batch, *event] -> [batch, output_dim]`, or an energy where there is one output."""
        settings = self.model
        widths, norm = settings.widths or (), settings.spectral_norm
        if settings.network == "dense":
            dense = MLP(event_shape.numel(), widths, output_dim, spectral_norm=norm)
            return leaky(nn.Sequential(nn.Flatten(), dense), settings.leak)
        if settings.network == "strided":
            return leaky(StridedNetwork(event_shape, widths, output_dim, spectral_norm=norm), settings.leak)
        if settings.network == "wide-residual":
            if norm:
                raise ValueError("a wide-residual network has no spectral normalisation: take a residual one.")
            return WideResidualNetwork(event_shape, widths, output_dim=output_dim, leak=settings.leak or 0.2)
        if output_dim != 1:
            raise ValueError(
                f"a {settings.network} network has one output: take a strided, wide-residual or dense one."
            )
        if settings.network == "convolutional":
            return leaky(ConvEnergy(event_shape, widths, norm), settings.leak)
        if len(set(widths)) != 1 or settings.leak is not None:
            raise ValueError("a residual network has SiLU and one width in all blocks, such as --model.widths 128 128.")
        return ResNetEnergy(event_shape, widths[0], len(widths), norm)

    def own_network(self, data: Data) -> tuple[Network, tuple[int, ...]]:
        """The network that the recipe chooses for such data."""
        return self.image_network if data.kind == "image" else self.table_network

    def build_energy(self, event_shape: torch.Size) -> BaseModel:
        """The energy of scaled values."""
        network = self.build_network(event_shape)
        return network if isinstance(network, BaseModel) else EnergyModel(network, event_shape)

    def build_model(self, x: Float[Tensor, " n *event"]) -> BaseModel:
        return in_data_units(self.build_energy(x.shape[1:]), self.model.pixels, self.model.columns, self.model.box)

    def build_sampler(self, model: BaseModel) -> LangevinDynamics:
        return LangevinDynamics(
            model,
            self.sampler.step_size,
            self.temperature**0.5,
            clamp=self.model.box if self.sampler.clamp else None,
            gradient_clip=self.sampler.gradient_clip,
        )

    def trained_part(self, model: BaseModel) -> BaseModel:
        return model.coordinates()[0]  # energies of scaled values: no constant of the scaling is regularised

    def observations(self, model: BaseModel, data: Data) -> Any:
        return in_model_units(model, data.x)

    def data_noise(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, "*event"]:
        return self.loss.data_noise * unit_of(x, self.model.pixels, self.model.columns, self.model.box)

    @property
    def learning_rate(self) -> float:
        """Of the optimiser, at its highest."""
        return self.training.learning_rate

    def build_loss(self, model: BaseModel) -> ContrastiveDivergence:
        """The loss, of scaled values."""
        return ContrastiveDivergence(model, self.build_sampler(model), self.loss.k_steps, **self.loss_options())

    def loss_options(self) -> dict[str, Any]:
        """What every contrastive loss of the family is given."""
        return {
            "persistent": True,
            "buffer_size": self.loss.buffer_size,
            "new_sample_ratio": self.loss.new_sample_ratio,
            "energy_reg_weight": self.loss.energy_reg_weight,
            "data_noise": self.loss.data_noise,
        }

    def build_trainer(
        self, model: BaseModel, x: Float[Tensor, " n *event"], *, out_dir: str | Path | None, seed: int
    ) -> Trainer:
        training = self.training
        loss_fn = self.build_loss(self.trained_part(model))
        loss_fn.replay_buffer = NoiseBuffer(self.loss.buffer_size, self.sampler.start or "uniform", self.model.box)
        parameters = loss_fn.model.parameters()
        if training.optimiser == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, betas=training.betas)
        else:
            optimizer = torch.optim.SGD(parameters, lr=self.learning_rate)
        decay, every = training.decay, training.decay_every
        schedule = FunctionScheduler(lambda step: decay ** (step // every))
        if training.warmup_steps:
            schedule = WarmupScheduler(schedule, training.warmup_steps)
        return self.trainer(loss_fn, optimizer, schedule, out_dir=out_dir, seed=seed)

    def draw(self, model: BaseModel, sampler: BaseSampler, start: Float[Tensor, " n *event"], n_steps: int, *,
             noise: Float[Tensor, "*event"], label: Tensor | None = None, generator: torch.Generator | None = None,
             progress: bool = False) -> Float[Tensor, " n *event"]:  # fmt: skip
        if self.sampler.start == "gaussian":
            transform = model.coordinates()[1]
            z = NoiseBuffer(len(start), "gaussian", self.model.box).begin(
                len(start), in_model_units(model, start), generator=generator
            )
            start = z if transform is None else cast(Tensor, transform(z))
        return super().draw(model, sampler, start, n_steps, noise=noise, label=label, generator=generator,
                            progress=progress)  # fmt: skip


def leaky(network: nn.Module, leak: float | None) -> nn.Module:
    """The network with leaky rectifiers where it has SiLU, in place; as it is without a slope."""
    if leak is None:
        return network
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.SiLU):
                setattr(module, name, nn.LeakyReLU(leak))
    return network
