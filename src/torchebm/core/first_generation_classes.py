"""Classes of the first generation that have no later twin, under the names they had."""

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .analytic import ClosedFormModel, GaussianModel
from .checks import number
from .composite import WeightedSum
from .markov import MarkovSampler
from .model import BaseModel, EnergyModel
from .shapes import sum_event

__all__ = ["CompositeEnergy", "DoubleWellEnergy", "EnergyFunction", "GaussianEnergy", "Loss", "Sampler"]


class EnergyFunction(BaseModel, metaclass=ABCMeta):
    """A model whose `score` is the gradient of the ENERGY, as the first generation had it.

    Everywhere else `score` is the gradient of the log-density, the opposite sign; `gradient` is the energy's in both.
    """

    def score(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        r"""$\nabla E(x)$: uphill in energy."""
        return self.gradient(x, **model_kwargs)


EnergyFunction.register(EnergyModel)


class GaussianEnergy(EnergyFunction, GaussianModel):
    """`GaussianModel` as an `EnergyFunction`."""


class DoubleWellEnergy(EnergyFunction, ClosedFormModel):
    r"""$E(x) = a \sum_i (x_i^2 - b)^2$: wells at $\pm\sqrt b$, where `DoubleWellModel` has them at ±b."""

    def __init__(self, a: float = 1.0, b: float = 2.0) -> None:
        super().__init__()
        self.a, self.b = number("a", a, above=0.0), number("b", b, above=0.0)

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        return self.a * sum_event((x * x - self.b).square())

    def gradient(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        return 4 * self.a * x * (x * x - self.b)


class CompositeEnergy(EnergyFunction, WeightedSum):
    """A weighted sum of energies, as `a + 0.5 * b` makes it."""

    def __init__(self, energy_functions: Sequence[BaseModel], weights: Sequence[float] | None = None) -> None:
        super().__init__(energy_functions, weights)


class Sampler(MarkovSampler):
    """The base class of the first generation's own samplers: write `sample_step(x)`, or `sample` and `sample_chain`."""

    can_reject = False

    def __init__(self, energy_function: BaseModel) -> None:
        super().__init__(energy_function)

    def init(self, x: Tensor, target: Any, generator: torch.Generator | None) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define sample_step(x), or sample and sample_chain.")

    refresh = noise = draw = step = init


class Loss(ABC):
    """The base class of the first generation's own losses: write `__call__(model, data_samples)`."""

    @abstractmethod
    def __call__(self, model: BaseModel, data_samples: Float[Tensor, " batch *event"], **kwargs: Any) -> Tensor:
        """The scalar loss."""
