"""The Barker proposal."""

from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import add_scaled, per_chain, select, sum_event
from torchebm.core.target import Target

from .acceptance import AcceptInfo, Evaluated, accepts, unsound
from .warmup import Warmup, check_target_acceptance, tunable

__all__ = ["BarkerProposal"]


class BarkerProposal(MarkovSampler):
    r"""A random walk whose steps turn downhill by the gradient's sign and size; robust to a wrong step size.

    $x'_i = x_i + b_i \sigma \xi_i$ with standard normal ξ; $b_i$ is 1 with probability
    $1 / (1 + e^{\sigma \xi_i \partial_i E(x)})$ and -1 otherwise. Accepted with probability
    $\min(1, e^{E(x) - E(x')} \prod_i \frac{1 + e^{\delta_i \partial_i E(x)}}{1 + e^{-\delta_i \partial_i E(x')}})$,
    $\delta = x' - x$. The gradient decides the direction of a step and never its length, so steep walls and light
    tails, where Langevin proposals overshoot, cost nothing. The choice where scales are unknown or differ from place to
    place.

    Args:
        model: The energy.
        step_size: $\sigma$, in units of x; best where about 57 % of the proposals are accepted, if there are many
            dimensions, and little worse from 40 % on.
        target_acceptance: The rate that a warm-up (`n_warmup`, `warm_up`) tunes $\sigma$ to; the figure of Vogrinc et
            al. for many dimensions. `None` for one that tunes nothing. A step size that is on a schedule is not tuned.
        **options: `dtype`, `device`, `precision`.

    Note:
        Exact: $e^{-E}$ is invariant at any step size. One gradient a step. Components flip independently, so a strongly
        correlated density is better sampled in decorrelated coordinates.

    References: Livingstone & Zanella (2022), https://doi.org/10.1111/rssb.12482; Vogrinc, Livingstone & Zanella (2023),
    https://doi.org/10.1093/biomet/asac056

    Example:
        >>> sampler = BarkerProposal(lambda x: x.pow(4).sum(-1), step_size=0.5)
        >>> far = torch.full((20, 1), 10.0)  # the gradient is 4000 here
        >>> bool(sampler.sample(far, n_steps=200).abs().max() < 5)
        True
    """

    tuned_parameter = "step_size"

    steps_per_block = 8

    step_size = Scheduled(above=0.0)
    target_acceptance: Any = Setting(check_target_acceptance)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.5, *,
                 target_acceptance: float | None = 0.574, **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.target_acceptance = target_acceptance

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        return Warmup(self, n_warmup) if tunable(self) else None

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Evaluated:
        return Evaluated(x, *target(x))

    def refresh(self, state: Evaluated, target: Target) -> Evaluated:
        return Evaluated(state.x, *target(state.x))

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        return x.new_empty(n, *x.shape), x.new_empty(n, *x.shape, dtype=wide), x.new_empty(n, len(x), dtype=wide)

    def step(self, state: Evaluated, noise: tuple[Tensor, Tensor, Tensor], target: Target, *,
             temperature: float | Tensor = 1.0, step_size: float | Tensor) -> tuple[Evaluated, AcceptInfo]:  # fmt: skip
        xi, v, u = noise
        sigma, beta = per_chain(step_size, xi), per_chain(1 / temperature, xi)
        here = beta * state.gradient.to(u.dtype)
        kept = v < torch.sigmoid(-sigma * xi * here)
        x = add_scaled(state.x, sigma, torch.where(kept, xi, -xi))
        new = Evaluated(x, *target(x))
        there = beta * new.gradient.to(u.dtype)
        move = x.to(u.dtype) - state.x.to(u.dtype)
        # log(1 + e^a) is -logsigmoid(-a), which neither overflows nor loses digits
        correction = sum_event(logsigmoid(move * there) - logsigmoid(-move * here))
        log_ratio = ((state.energy - new.energy) / temperature + correction).to(u.dtype)
        accepted, rate = accepts(log_ratio, u, state.energy, new.energy)
        return select(accepted, new, state), AcceptInfo(rate, unsound(log_ratio, state.energy, new.energy))
