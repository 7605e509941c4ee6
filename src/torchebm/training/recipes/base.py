"""What every recipe is: settings in four groups, and how a trained energy is made of them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from torchebm.core import BaseLoss, BaseModel, BaseSampler, BaseScheduler
from torchebm.core.random import randn
from torchebm.datasets import Data

from ..guards import (
    Guard,
    acceptance_below,
    default_guards,
    energies_beyond,
    non_finite,
    saturation_above,
    standstill,
)
from ..trainer import Trainer

__all__ = ["Kind", "LossSettings", "ModelSettings", "Purpose", "Recipe", "SamplerSettings", "TrainingSettings"]

Purpose = Literal["density", "short-run generator"]
Kind = Literal["image", "table", "planar"]


@dataclass(frozen=True)
class ModelSettings:
    """What the energy is made of."""


@dataclass(frozen=True)
class SamplerSettings:
    """What samples the energy, in training and after it."""

    n_steps: int = 400
    """Transitions from noise to a sample, after training."""


@dataclass(frozen=True)
class LossSettings:
    """What training minimises."""

    data_noise: float = 0.0
    """Standard deviation of the noise added to data, in the units that the energy sees."""


@dataclass(frozen=True)
class TrainingSettings:
    """Optimiser, averages and checkpoints."""

    n_steps: int = 10_000
    """Updates."""
    batch_size: int = 128
    """Points per update."""
    learning_rate: float = 1e-3
    """Highest learning rate."""
    ema_decay: float | None = None
    """Decay of the average of the weights; none for no average."""
    grad_clip_norm: float | None = None
    """Limit on the norm of the gradient; none for no limit."""
    checkpoint_every: int = 1000
    """Updates between checkpoints."""
    n_threads: int = 1
    """CPU threads; small networks gain nothing from more."""


@dataclass(frozen=True)
class Recipe:
    """All that turns data into a trained energy: four groups of settings, and what is built of them.

    A recipe is a subclass with a name, three facts about it, and groups of its own where it needs other settings.
    Every setting has a default and can be replaced: `dataclasses.replace` in Python, `--group.setting` on the command
    line. Settings that depend on the data are `None`, or whatever stands for that, until `fitted` has seen the data.

    Example:
        >>> from dataclasses import replace
        >>> from torchebm.training import recipe
        >>> digits = recipe("digits")
        >>> slower = replace(digits, training=replace(digits.training, learning_rate=1e-3))
        >>> slower.name, slower.training.learning_rate
        ('digits', 0.001)
    """

    name: ClassVar[str] = ""
    """What the registry and the command line call it."""
    source: ClassVar[str] = ""
    """The paper or code that it is from, with a link, or "ours"."""
    purpose: ClassVar[Purpose] = "density"
    """A density is sampled at temperature 1 by chains of any length; a short-run generator by chains as in training."""
    figures: ClassVar[str] = ""
    """What it reaches, on which data, in how long."""
    kinds: ClassVar[tuple[Kind, ...]] = ("image", "table")
    """The data it serves: images, tables, or points in the plane."""
    one_chain: ClassVar[bool] = True
    """Whether samples are ends of chains of one density, which could go on."""

    model: ModelSettings = ModelSettings()
    sampler: SamplerSettings = SamplerSettings()
    loss: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()

    # what a recipe decides --------------------------------------------------------------------------------------------

    def fitted(self, data: Data) -> Self:
        """The recipe with every setting a number: those that depend on the data are read off it.

        What this returns is what a run keeps in its `config.json`, so everything after it is a function of the settings
        and of the shape of an event.

        Raises:
            ValueError: If the recipe does not serve such data.
        """
        kinds: set[Kind] = {"table", "planar"} if data.kind == "table" else {"image"}
        kinds -= set() if data.event_shape == (2,) else {"planar"}
        if not kinds & set(self.kinds):
            raise ValueError(
                f"recipe {self.name!r} is for data of kind {' or '.join(self.kinds)}; {data.name} is "
                f"{'a table' if data.kind == 'table' else 'a set of images'} of shape {list(data.event_shape)} each. "
                "`torchebm recipes` lists the others."
            )
        return self

    def build_model(self, x: Float[Tensor, " n *event"]) -> BaseModel:
        """The untrained energy, in the units of the data; weights are drawn from the global stream."""
        raise NotImplementedError

    def build_sampler(self, model: BaseModel) -> BaseSampler:
        """The sampler of what comes after training."""
        raise NotImplementedError

    def build_trainer(
        self, model: BaseModel, x: Float[Tensor, " n *event"], *, out_dir: str | Path | None, seed: int
    ) -> Trainer:
        """Loss, optimiser and loop, for the model that `build_model` made."""
        raise NotImplementedError

    def trained_part(self, model: BaseModel) -> BaseModel:
        """What the trainer trains and checkpoints hold: the model itself, or the network in the units that it sees."""
        return model

    def observations(self, model: BaseModel, data: Data) -> Tensor | Dataset:
        """What the trainer draws batches from, in the units of `trained_part`."""
        return data.x

    def data_noise(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, "*event"]:
        """Standard deviation of the noise that is added to each component, in the units of the data."""
        return torch.full_like(x[0], self.loss.data_noise)

    def noisy(
        self, x: Float[Tensor, " n *event"], noise: Float[Tensor, "*event"], generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *event"]:
        """Points with noise as data have it in training: what the energy is a density of.

        Args:
            x: Data, in their own units.
            noise: What `data_noise` returned in training.
            generator: Source of randomness.
        """
        return x + noise * randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    @property
    def denoises(self) -> bool:
        """Whether `draw` frees samples of the noise that was added to the data."""
        return False

    def condition(
        self, n: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """What n chains on the model are given by keyword, such as labels; nothing, for most recipes."""
        return {}

    def draw(self, model: BaseModel, sampler: BaseSampler, start: Float[Tensor, " n *event"], n_steps: int, *,
             noise: Float[Tensor, "*event"], label: Tensor | None = None, generator: torch.Generator | None = None,
             progress: bool = False) -> Float[Tensor, " n *event"]:  # fmt: skip
        """Samples of the trained model, one from each starting point.

        Args:
            model: Of `build_model`, trained.
            sampler: Of `build_sampler`.
            start: Uniform in the box of the data, in its units.
            n_steps: Transitions.
            noise: What `data_noise` returned in training.
            label: The class of each sample `[n]`, for recipes that learn classes.
            generator: Source of randomness.
            progress: Show a progress bar.
        """
        if label is not None:
            raise ValueError(f"recipe {self.name!r} learns no classes: samples of one class cannot be asked for.")
        return sampler.sample(x=start, n_steps=n_steps, generator=generator, progress=progress)

    def guards(self) -> tuple[Guard, ...]:
        """What a run is watched by.

        Guards of the energy gap are for densities: chains that stop after a few steps, at a temperature far below 1,
        have energies that differ from the data's by more than scatter from the first update.
        """
        if self.purpose == "density":
            return default_guards()
        return non_finite(), energies_beyond(1e6), acceptance_below(0.01), standstill(), saturation_above(0.5)

    # what all share ---------------------------------------------------------------------------------------------------

    def trainer(self, loss_fn: BaseLoss, optimizer: torch.optim.Optimizer, schedule: float | BaseScheduler = 1.0, *,
                out_dir: str | Path | None, seed: int) -> Trainer:  # fmt: skip
        """The loop around a loss and an optimiser, with what the group `training` says of averages and checkpoints."""
        training = self.training
        return Trainer(
            loss_fn,
            optimizer,
            learning_rate_schedule=schedule,
            ema_decay=training.ema_decay,
            grad_clip_norm=training.grad_clip_norm,
            out_dir=out_dir,
            seed=seed,
            checkpoint_every=training.checkpoint_every,
            guards=self.guards(),
        )

    def values(self) -> dict[str, Any]:
        """Name and settings, as JSON keeps them."""
        return {"name": self.name, **dataclasses.asdict(self)}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """The recipe with these settings; those that are not named keep their defaults.

        Raises:
            ValueError: If there is no such setting.
        """
        return _rebuilt(cls(), {key: value for key, value in values.items() if key != "name"}, cls.name)


def _rebuilt(default: Any, values: dict[str, Any], where: str) -> Any:
    """A dataclass with values from JSON, group by group; JSON's lists become tuples."""
    known = {field.name for field in dataclasses.fields(default)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"{where} has no setting {', '.join(map(repr, unknown))}; it has {', '.join(sorted(known))}. The run was "
            "probably made with another version of the recipe."
        )
    changes = {}
    for name, value in values.items():
        group = getattr(default, name)
        is_group = dataclasses.is_dataclass(group) and isinstance(value, dict)
        changes[name] = _rebuilt(group, value, f"{where}.{name}") if is_group else _tuples(value)
    return dataclasses.replace(default, **changes)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
