"""Samplers for energies that sum over data: each step sees a minibatch."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.random import normal_
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import add_scaled, add_scaled_, per_chain
from torchebm.core.target import Target

from .langevin import Info, Position

__all__ = ["StochasticGradientHMC", "StochasticGradientLangevin"]

Data = Tensor | tuple[Tensor, ...]


class MinibatchSampler(MarkovSampler):
    """What the two samplers share: data, of which each chain sees a minibatch of its own at every step.

    The model's `forward(x, batch=...)` returns an unbiased estimate of each chain's energy, as the energy of the prior
    plus N times the mean over the batch. `batch` is `[chain, batch_size, *item]`, rows of the data drawn with
    replacement; where all the data count, for diagnostics and for the check of the starting points, it is
    `[1, N, *item]`. If the data are a tuple of tensors, as inputs and labels, so is the batch.
    """

    can_reject = False
    steps_per_block = 8
    divergence_advice = "a smaller step_size, or a larger batch_size"

    def __init__(self, model: BaseModel | Callable[..., Tensor], data: Data | None, batch_size: int | None,
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.data = None if data is None else _check_data(data)
        if (self.data is None) != (batch_size is None):
            raise TypeError("give data and batch_size, or neither: then every step sees the whole energy.")
        self.n_data = 0 if self.data is None else len(_tensors(self.data)[0])
        self.batch_size = 0 if batch_size is None else integer("batch_size", batch_size, at_least=1)
        if self.batch_size > self.n_data:
            raise ValueError(f"batch_size must be at most {self.n_data}, the rows of data; got {batch_size}.")

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        noise = super().noise(x, n)
        if self.data is None:
            return noise
        return *noise, x.new_empty(n, len(x), self.batch_size, dtype=torch.float64)  # float32 cannot number 2^24 rows

    def estimate(self, x: Float[Tensor, " chain *event"], noise: tuple[Tensor, ...], target: Target) -> Tensor:
        """The gradient as the minibatch that `noise` picks shows it."""
        if self.data is None:
            return target.gradient(x)
        rows = (noise[1] * self.n_data).long()  # [chain, batch_size]
        return self._given(target, _each(self.data, lambda t: t[rows])).gradient(x)

    def energy(self, state: Any, target: Target) -> Float[Tensor, " chain"]:
        return self.whole(target).energy(state.x)

    def whole(self, target: Target) -> Target:
        return target if self.data is None else self._given(target, _each(self.data, lambda t: t.unsqueeze(0)))

    def _given(self, target: Target, batch: Data) -> Target:
        if "batch" in target.model_kwargs:
            raise ValueError("model_kwargs holds 'batch', which the sampler takes from its data: leave it out.")
        return Target(target.model, {**target.model_kwargs, "batch": batch}, self.precision)


class StochasticGradientLangevin(MinibatchSampler):
    r"""Langevin steps on minibatches; the simplest sampler where one pass over the data is too much for a step.

    $x' = x - h \nabla \tilde E(x) + \sqrt{2h}\,\xi$ with step size h, standard normal ξ, and $\tilde E$ the energy as
    a minibatch shows it.

    Args:
        model: The energy; its `forward(x, batch=...)` scales the batch up to the data, as in the example.
        step_size: $h$, in units of $x^2$. A schedule as `lambda k: 0.01 / (1 + k) ** 0.55` lets the bias vanish.
        data: `[N, *item]`, or a tuple of such tensors. Left out, the model is evaluated as it is.
        batch_size: Rows that each chain sees at a step, drawn with replacement.
        **options: `dtype`, `device`, `precision`.

    Note:
        Biased by O(h), from the steps and from the noise of the gradient: where that has the variance V, the variance
        of a Gaussian with curvature k is $(1 + hV/2) / (k (1 - hk/2))$ instead of $1/k$, so h must be small against
        $2/V$. One gradient on a minibatch a step. The energies in diagnostics, and one gradient at the start, take all
        the data.

    References: Welling & Teh (2011), https://icml.cc/2011/papers/398_icmlpaper.pdf; Vollmer, Zygalakis & Teh (2016),
    https://jmlr.org/papers/v17/15-494.html

    Example:
        >>> class Location(BaseModel):  # the mean of a normal law, after data of variance 1, with a flat prior
        ...     def forward(self, x, batch):  # x is [chain], batch is [chain, rows]
        ...         return 1000 * 0.5 * (x.unsqueeze(1) - batch).square().mean(1)
        >>> data = torch.randn(1000) + 3
        >>> sampler = StochasticGradientLangevin(Location(), step_size=1e-4, data=data, batch_size=20)
        >>> x = sampler.sample(torch.zeros(50), n_steps=200)
        >>> bool((x.mean() - data.mean()).abs() < 0.1)
        True
    """

    step_size = Scheduled(above=0.0)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.01, data: Data | None = None,
                 batch_size: int | None = None, **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, data, batch_size, **options)
        self.step_size = step_size

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Position:
        return Position(x)

    def refresh(self, state: Position, target: Target) -> Position:
        return state

    def step(self, state: Position, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor) -> tuple[Position, Info]:  # fmt: skip
        h, spread = per_chain(step_size, state.x), per_chain((2 * step_size * temperature) ** 0.5, state.x)
        x = add_scaled_(add_scaled(state.x, -h, self.estimate(state.x, noise, target)), spread, noise[0])
        return Position(x), Info(x)


class Moving(NamedTuple):
    """Where the chains stand and how they move."""

    x: Float[Tensor, " chain *event"]
    momentum: Float[Tensor, " chain *event"]


class StochasticGradientHMC(MinibatchSampler):
    r"""Langevin dynamics with inertia on minibatches, whose friction soaks up the noise of the gradient.

    $p' = (1 - h\gamma)\,p - h \nabla \tilde E(x) + \sqrt{2h\gamma - h^2 \hat V}\,\xi$, $x' = x + h p'$ with step size
    h, friction γ, standard normal ξ, $\tilde E$ the energy as a minibatch shows it, and $\hat V$ an estimate of the
    variance of its gradient: noise that the gradient brings along need not be added. The choice over
    `StochasticGradientLangevin` where scales differ, since momentum carries a chain along the wide directions.

    Args:
        model: The energy; its `forward(x, batch=...)` scales the batch up to the data, as in the example.
        step_size: $h$, in units of x; unstable beyond twice the shortest length scale.
        friction: $\gamma$; $h \gamma$ is the part of the momentum that is lost at a step, and must exceed
            $h^2 \hat V / 2$.
        gradient_noise: $\hat V$, a number or a tensor of the event's shape; 0 if nothing is known.
        data: `[N, *item]`, or a tuple of such tensors. Left out, the model is evaluated as it is.
        batch_size: Rows that each chain sees at a step, drawn with replacement.
        **options: `dtype`, `device`, `precision`.

    Note:
        Biased by O(h) from the noise of the gradient as far as $\hat V$ misses it, and even with the true variance,
        since the noise is taken to be normal and alike everywhere; from the steps by O(h²), where positions are
        concerned. One gradient on a minibatch a step. The energies in diagnostics, and one gradient at the start, take
        all the data.

    References: Chen, Fox & Guestrin (2014), https://proceedings.mlr.press/v32/cheni14.html

    Example:
        >>> class Location(BaseModel):  # the mean of a normal law, after data of variance 1, with a flat prior
        ...     def forward(self, x, batch):  # x is [chain], batch is [chain, rows]
        ...         return 1000 * 0.5 * (x.unsqueeze(1) - batch).square().mean(1)
        >>> data = torch.randn(1000) + 3
        >>> model, noise = Location(), 1000**2 * data.var() / 20  # of the gradient, over batches of 20 rows
        >>> sampler = StochasticGradientHMC(model, step_size=0.002, friction=60.0, gradient_noise=noise, data=data,
        ...                                 batch_size=20)
        >>> x = sampler.sample(torch.zeros(50), n_steps=400)
        >>> bool((x.mean() - data.mean()).abs() < 0.1)
        True
    """

    step_size = Scheduled(above=0.0)
    friction = Scheduled(above=0.0)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.01,
                 friction: float | BaseScheduler | Callable[[int], float] = 1.0,
                 gradient_noise: float | Float[Tensor, "*event"] = 0.0, data: Data | None = None,
                 batch_size: int | None = None, **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, data, batch_size, **options)
        self.step_size = step_size
        self.friction = friction
        self.gradient_noise, self._largest_noise = _check_variance(gradient_noise)

    def parameter_table(self, start: int, n_steps: int) -> dict[str, list[float]]:
        table = super().parameter_table(start, n_steps)
        for h, friction in set(zip(table["step_size"], table["friction"], strict=True)):
            if h * self._largest_noise > 2 * friction:
                raise ValueError(
                    f"at step_size {h:g} a gradient_noise of {self._largest_noise:g} brings more noise than a friction "
                    f"of {friction:g} takes out: step_size * gradient_noise must not exceed 2 * friction. Usual fixes: "
                    "a smaller step_size, a larger friction or batch_size."
                )
        return table

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Moving:
        noise = self.gradient_noise
        if isinstance(noise, Tensor) and noise.shape != x.shape[1:]:
            raise ValueError(
                f"gradient_noise has shape {list(noise.shape)}; expected a number or {list(x.shape[1:])}, one for each "
                f"component of a point, because x has shape {list(x.shape)} = [chain, *event]."
            )
        return Moving(x, normal_(x.new_empty(x.shape), generator))

    def refresh(self, state: Moving, target: Target) -> Moving:
        return state

    def step(self, state: Moving, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor, friction: float | Tensor) -> tuple[Moving, Info]:  # fmt: skip
        x, p = state
        h, lost = per_chain(step_size, x), per_chain(step_size * friction, x)
        kick = per_chain(step_size / temperature, x)  # momenta are those of temperature 1
        spread = (2 * lost - kick * kick * self._variance(x)) ** 0.5
        p = add_scaled((1 - lost) * p, -kick, self.estimate(x, noise, target)) + spread * noise[0]
        x = add_scaled(x, h, p)
        return Moving(x, p), Info(x)

    def _variance(self, x: Tensor) -> float | Tensor:
        noise = self.gradient_noise
        return noise.to(x) if isinstance(noise, Tensor) else noise


def _check_data(data: Data) -> Data:
    tensors = _tensors(data)
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError(f"data must be a tensor [N, *item] or a tuple of such tensors; got {type(data).__name__}.")
    if any(t.ndim == 0 for t in tensors) or len({len(t) for t in tensors}) != 1 or len(tensors[0]) == 0:
        shapes = ", ".join(str(list(t.shape)) for t in tensors)
        raise ValueError(f"data must have N rows, at least one, and the same number in every tensor; got {shapes}.")
    return data


def _check_variance(noise: float | Tensor) -> tuple[float | Tensor, float]:
    """The variance as a number or a tensor with axes, and its largest entry."""
    if not isinstance(noise, Tensor) or noise.ndim == 0:
        noise = number("gradient_noise", noise, at_least=0.0)
        return noise, noise
    if noise.is_complex() or noise.dtype == torch.bool:
        raise TypeError(f"gradient_noise must hold real numbers; got {noise.dtype}.")
    smallest, largest = float(noise.min()), float(noise.max())
    if not (smallest >= 0 and math.isfinite(largest)):
        raise ValueError("gradient_noise must be finite and at least 0 in every entry.")
    return noise.clone(), largest


def _tensors(data: Data) -> tuple[Tensor, ...]:
    return data if isinstance(data, tuple) else (data,)


def _each(data: Data, change: Callable[[Tensor], Tensor]) -> Data:
    return tuple(change(t) for t in data) if isinstance(data, tuple) else change(data)
