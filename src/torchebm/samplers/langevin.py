"""Unadjusted Langevin dynamics."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchebm.core.checks import number
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import add_scaled, add_scaled_, per_chain
from torchebm.core.target import Target

__all__ = ["LangevinDynamics", "bounded"]


class Position(NamedTuple):
    """The state of an unadjusted sampler: it caches nothing, so that K steps cost K gradients."""

    x: Float[Tensor, " chain *event"]


class Info(NamedTuple):
    """What a transition without an accept test reports."""

    x: Float[Tensor, " chain *event"]
    """Where it ended."""

    @property
    def diverging(self) -> Bool[Tensor, " chain"]:
        """Whether the chain is not finite; computed when it is asked for."""
        return ~self.x.isfinite().reshape(len(self.x), -1).all(1)


class NoiseScale(Scheduled):
    """A noise scale is the square root of a temperature, so a schedule of temperatures is read through its root."""

    def read(self, scheduler: BaseScheduler, step: int) -> float:
        value = super().read(scheduler, step)
        return value**0.5 if scheduler.is_temperature else value


class LangevinDynamics(MarkovSampler):
    r"""Walks downhill with noise; the workhorse for neural energies, and the cheapest step there is.

    $x' = x - h \nabla E(x) + s \sqrt{2h}\,\xi$ with step size h, noise scale s and standard normal ξ. At s = 1 the
    chain approaches $e^{-E}$; $s^2$ is the temperature.

    Args:
        model: The energy.
        step_size: $h$, in units of $x^2$; stable below $2/L$ where the gradient changes by at most $L$ per unit of x.
        noise_scale: $s = \sqrt T$; 0 descends without noise. A `TemperatureScheduler`, bare or in a
            `WarmupScheduler`, is read through its square root.
        clamp: A box `(low, high)` that states are projected on after each step, in the coordinates that the sampler
            walks in.
        gradient_clip: Limit on the absolute value of each component of the gradient. It biases the samples wherever it
            acts; training recipes for images use it.
        **options: `dtype`, `device`, `precision`.

    Note:
        There is no accept test, so the samples are biased, by O(h) in every expectation: for a Gaussian of variance
        $\sigma^2$ the chain's variance is $\sigma^2 / (1 - h / 2\sigma^2)$. One gradient a step.

    References: Roberts & Tweedie (1996), https://doi.org/10.2307/3318418

    Example:
        >>> from torchebm.core import GaussianModel
        >>> sampler = LangevinDynamics(GaussianModel(torch.zeros(2), torch.eye(2)), step_size=0.1)
        >>> sampler.sample(n_samples=5, n_steps=20).shape
        torch.Size([5, 2])
    """

    can_reject = False
    steps_per_block = 16
    divergence_advice = "a smaller step_size, or gradient_clip= if single gradients are extreme"

    step_size = Scheduled(above=0.0)
    noise_scale = NoiseScale(at_least=0.0)
    gradient_clip = Scheduled(above=0.0, optional=True)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.01,
                 noise_scale: float | BaseScheduler | Callable[[int], float] = 1.0,
                 clamp: tuple[float, float] | None = None,
                 gradient_clip: float | BaseScheduler | Callable[[int], float] | None = None,
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.noise_scale = noise_scale
        self.gradient_clip = gradient_clip
        self.clamp = None if clamp is None else _box(clamp)

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Position:
        return Position(x)

    def refresh(self, state: Position, target: Target) -> Position:
        return state

    def step(self, state: Position, noise: tuple[Tensor], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor, noise_scale: float | Tensor,
             gradient_clip: float | Tensor | None = None) -> tuple[Position, Info]:  # fmt: skip
        gradient = target.gradient(state.x)
        if gradient_clip is not None:
            limit = per_chain(gradient_clip, gradient)
            gradient = bounded(gradient, -limit, limit)
        spread = noise_scale * (2 * step_size * temperature) ** 0.5
        x = add_scaled_(add_scaled(state.x, -step_size, gradient), spread, noise[0])
        if self.clamp is not None:
            x = bounded(x, *self.clamp)
        return Position(x), Info(x)


def bounded(t: Tensor, low: Any, high: Any) -> Tensor:
    """`t` projected on [low, high]; what is not finite becomes NaN, since a bound must not hide it."""
    return t.clamp(low, high) + (t - t)


def _box(clamp: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(clamp, (tuple, list)) or len(clamp) != 2:
        raise TypeError(f"clamp must be (low, high), such as (0.0, 1.0); got {clamp!r}.")
    low, high = (number("each bound of clamp", bound) for bound in clamp)
    if low >= high:
        raise ValueError(f"clamp must be (low, high) with low < high; got {tuple(clamp)}.")
    return low, high
