"""What a warm-up estimates with: dual averaging, a search for a first step size, moments of all chains."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "DualAveraging",
    "PooledMoments",
    "find_step_size",
    "finite_rates",
    "is_live",
    "mean_over",
    "renewed_covariance",
    "wide",
]


class DualAveraging:
    r"""Moves the logarithm of a step size until a statistic, the acceptance rate, meets its target.

    $\bar g_t = (1 - \tfrac1{t + t_0}) \bar g_{t-1} + \tfrac1{t + t_0} (\delta - a_t)$, then
    $\log h_t = \mu - \tfrac{\sqrt t}{\gamma} \bar g_t$, and $\log \bar h_t$ averages them with weights
    $t^{-\kappa}$; δ is the target, $a_t$ what transition t reached, μ the value that it is drawn to.

    A rate for each chain, `[chain]`, makes it one step size for each.

    Args:
        step_size: Where to start.
        target: $\delta$.
        like: A tensor on the device of the chains.

    References: Hoffman & Gelman (2014), https://jmlr.org/papers/v15/hoffman14a.html; Nesterov (2009),
    https://doi.org/10.1007/s10107-007-0149-x
    """

    gamma, t0, kappa = 0.05, 10.0, 0.75
    boldness = 10.0  # large steps cost less to try than small ones, so it is drawn to larger ones than the first

    def __init__(self, step_size: float, target: float, like: Tensor) -> None:
        self.target, self.t = target, 0
        self.mu = math.log(self.boldness * step_size)
        self.mean_error = torch.zeros((), dtype=wide(like), device=like.device)
        self.log_step = self.mean_error + math.log(step_size)
        self.log_average = self.log_step

    def update(self, acceptance: Float[Tensor, "*chain"]) -> None:
        """Takes note of one transition at `step_size`."""
        self.t += 1
        share = 1 / (self.t + self.t0)
        self.mean_error = (1 - share) * self.mean_error + share * (self.target - acceptance)
        self.log_step = self.mu - math.sqrt(self.t) / self.gamma * self.mean_error
        weight = self.t**-self.kappa
        self.log_average = weight * self.log_step + (1 - weight) * self.log_average

    @property
    def step_size(self) -> Float[Tensor, "*chain"]:
        """For the next transition."""
        return self.log_step.exp()

    @property
    def average(self) -> Float[Tensor, "*chain"]:
        """For all transitions after the last."""
        return self.log_average.exp()


def find_step_size(acceptance: Callable[[float], float], start: float, target: float) -> float:
    """The largest of `start * 2**k` that is accepted at the target rate, by doubling or halving.

    Args:
        acceptance: Of one trial with a step size; NaN counts as a rejection.
        start: Where to begin.
        target: The rate to keep above.

    Raises:
        ValueError: If every step is accepted, or none.
    """
    step_size, grows = start, acceptance(start) > target
    for _ in range(100):
        trial = 2 * step_size if grows else step_size / 2
        if (acceptance(trial) > target) != grows:
            return step_size if grows else trial
        step_size = trial
    raise ValueError(
        f"warm-up found no step size between {start:g} and {step_size:g} that is accepted at the rate {target:g}"
        + (": every one is accepted more often. The energy seems to be flat, or unbounded below."
           if grows else ": every one is rejected more often. The energy seems not to be a function of x alone.")
    )  # fmt: skip


class PooledMoments:
    """Mean and second moments of the draws of all chains, one transition at a time, without keeping the draws.

    Args:
        x: The chains, for event shape and device.
        dense: Whether covariances are wanted, or only variances.

    References: Chan, Golub & LeVeque (1983), https://doi.org/10.1080/00031305.1983.10483115
    """

    def __init__(self, x: Float[Tensor, " chain *event"], dense: bool = False) -> None:
        d = x.shape[1:].numel()
        options = {"dtype": wide(x), "device": x.device}
        self.count, self.mean = torch.zeros((), **options), torch.zeros(d, **options)
        self.sum = torch.zeros(d, d, **options) if dense else torch.zeros(d, **options)

    def add(self, x: Float[Tensor, " chain *event"], live: Bool[Tensor, " chain"]) -> None:
        """Takes note of the chains where `live` holds."""
        x, weight = x.reshape(len(x), -1).to(self.mean), live.to(self.mean)
        n = weight.sum()
        mean = weight @ x / n.clamp(min=1)
        off, centred = mean - self.mean, (x - mean) * weight.unsqueeze(1)
        total = (self.count + n).clamp(min=1)
        if self.sum.ndim == 2:
            self.sum = self.sum + centred.T @ centred + torch.outer(off, off) * (self.count * n / total)
        else:
            self.sum = self.sum + (centred * centred).sum(0) + off * off * (self.count * n / total)
        self.mean, self.count = self.mean + off * (n / total), self.count + n

    @property
    def covariance(self) -> Tensor:
        """`[d, d]`, or the variances `[d]`."""
        return self.sum / (self.count - 1).clamp(min=1)


def renewed_covariance(moments: PooledMoments, slopes: PooledMoments | None, variance: Float[Tensor, " d"]) -> Tensor:
    r"""What a window of draws says of the covariance, `[d, d]`, or the variances, `[d]`.

    Stan's shrinkage, towards a thousandth of the variances in force, so that the units of x do not matter.

    Args:
        moments: Those of x.
        slopes: Those of the gradient, for the first guess: $\sqrt{\mathrm{var}\,x / \mathrm{var}\,\nabla E}$.
        variance: In force, and kept where a first guess cannot be made.
    """
    covariance, n = moments.covariance, moments.count
    if slopes is not None:
        ratio = (covariance / slopes.covariance).sqrt()
        return torch.where(ratio.isfinite() & (ratio > 0), ratio, variance)
    floor = 1e-3 * variance * 5 / (n + 5)
    return covariance * (n / (n + 5)) + (floor.diag() if covariance.ndim == 2 else floor)


def mean_over(live: Bool[Tensor, " chain"], values: Float[Tensor, " chain"]) -> Float[Tensor, ""]:
    """The mean over the chains where `live` holds."""
    return torch.where(live, values, 0.0).to(wide(values)).sum() / live.sum().clamp(min=1)


def finite_rates(info: Any) -> Float[Tensor, " chain"]:
    """Acceptance rates in the dtype for sums; one that is not finite is a rejection."""
    rates = info.acceptance_rate.to(wide(info.acceptance_rate))
    return torch.where(rates.isfinite(), rates, 0.0)


def is_live(state: Any) -> Bool[Tensor, " chain"]:
    """Where the energy is finite: elsewhere a chain may be unable to move, and tells nothing."""
    return state.energy.isfinite()


def wide(x: Tensor) -> torch.dtype:
    """The dtype for sums over many draws."""
    return torch.float32 if x.device.type == "mps" else torch.float64
