"""Descent: mode seeking on the loop of the samplers."""

from collections.abc import Callable
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import add_scaled, per_chain
from torchebm.core.target import Target

from .langevin import Info, Position

__all__ = ["GradientDescent", "NesterovDescent"]


class GradientDescent(MarkovSampler):
    r"""Walks straight downhill to a mode; Langevin dynamics without its noise.

    $x' = x - h \nabla E(x)$ with step size h. The choice to find the minima of an energy, or to see where its basins
    end; nothing is sampled, and a temperature changes nothing.

    Args:
        model: The energy.
        step_size: $h$, in units of $x^2$; stable below $2/L$ where the gradient changes by at most $L$ per unit of x.
        **options: `dtype`, `device`, `precision`.

    Note:
        No noise is drawn: where a chain ends depends on where it starts alone. One gradient a step. The distance to a
        minimum shrinks by the factor $1 - h k$ in a direction of curvature k.

    References: Cauchy (1847), Comptes rendus 25, 536-538

    Example:
        >>> sampler = GradientDescent(lambda x: (x - 3).square().sum(-1), step_size=0.25)
        >>> sampler.sample(torch.zeros(1, 1), n_steps=30)
        tensor([[3.]])
    """

    can_reject = False
    steps_per_block = 16

    step_size = Scheduled(above=0.0)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.01,
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Position:
        return Position(x)

    def refresh(self, state: Position, target: Target) -> Position:
        return state

    def noise(self, x: Tensor, n: int) -> tuple[()]:
        return ()

    def step(self, state: Position, noise: tuple[()], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor) -> tuple[Position, Info]:  # fmt: skip
        x = add_scaled(state.x, -per_chain(step_size, state.x), target.gradient(state.x))
        return Position(x), Info(x)


class Moving(NamedTuple):
    """Where the chains stand, and the step that brought them there."""

    x: Float[Tensor, " chain *event"]
    velocity: Float[Tensor, " chain *event"]


class Momentum(Scheduled):
    """A fraction: what is kept of the last step."""

    def __init__(self) -> None:
        super().__init__(at_least=0.0)
        self.limits["at_most"] = 1.0


class NesterovDescent(MarkovSampler):
    r"""Walks downhill with momentum, and looks ahead; faster than `GradientDescent` along narrow valleys.

    $v' = \mu v - h \nabla E(x + \mu v)$, $x' = x + v'$ with step size h, momentum μ and $v = 0$ at first.

    Args:
        model: The energy.
        step_size: $h$, in units of $x^2$; stable up to $1/L$ where the gradient changes by at most $L$ per unit of x.
        momentum: $\mu$, from 0 (gradient descent) to 1. For convex energies the schedule `lambda k: k / (k + 3)`
            brings the energy down as $1/k^2$.
        **options: `dtype`, `device`, `precision`.

    Note:
        No noise is drawn, and a temperature changes nothing. The energy may rise on the way: momentum overshoots. One
        gradient a step, and one at the start.

    References: Nesterov (1983), Soviet Mathematics Doklady 27, 372-376; Sutskever et al. (2013),
    https://proceedings.mlr.press/v28/sutskever13.html

    Example:
        >>> valley = lambda x: x[:, 0].square() + 0.01 * x[:, 1].square()
        >>> x = torch.ones(1, 2)
        >>> fast = NesterovDescent(valley, step_size=0.5, momentum=0.8).sample(x, n_steps=100)
        >>> slow = GradientDescent(valley, step_size=0.5).sample(x, n_steps=100)
        >>> bool(valley(fast) < 1e-4 * valley(slow))
        True
    """

    can_reject = False
    steps_per_block = 16

    step_size = Scheduled(above=0.0)
    momentum = Momentum()

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.01,
                 momentum: float | BaseScheduler | Callable[[int], float] = 0.9,
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.momentum = momentum

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Moving:
        return Moving(x, torch.zeros_like(x))

    def refresh(self, state: Moving, target: Target) -> Moving:
        return state

    def noise(self, x: Tensor, n: int) -> tuple[()]:
        return ()

    def step(self, state: Moving, noise: tuple[()], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor, momentum: float | Tensor) -> tuple[Moving, Info]:  # fmt: skip
        carried = per_chain(momentum, state.x) * state.velocity
        velocity = add_scaled(carried, -per_chain(step_size, state.x), target.gradient(state.x + carried))
        x = state.x + velocity
        return Moving(x, velocity), Info(x)
