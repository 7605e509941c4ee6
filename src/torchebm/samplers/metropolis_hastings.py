"""Random-walk Metropolis-Hastings."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import add_scaled, select
from torchebm.core.target import Target

from .acceptance import AcceptInfo, accepts, proposal_noise, unsound
from .warmup import Warmup, check_target_acceptance, tunable

__all__ = ["MetropolisHastings"]


class Weighed(NamedTuple):
    """Where the chains stand, and what that costs."""

    x: Float[Tensor, " chain *event"]
    energy: Float[Tensor, " chain"]


class MetropolisHastings(MarkovSampler):
    r"""Proposes Gaussian steps and accepts them with probability $\min(1, e^{E(x) - E(x')})$; needs no gradient.

    $x' = x + \sigma \xi$ with the proposal scale σ and standard normal ξ. The choice for energies that have no
    gradient, in few dimensions; elsewhere gradients pay.

    Args:
        model: The energy.
        proposal_scale: $\sigma$, in units of x; best where about a quarter of the proposals are accepted, near
            $2.4 / \sqrt d$ posterior standard deviations in d dimensions.
        target_acceptance: The rate that a warm-up (`n_warmup`, `warm_up`) tunes $\sigma$ to; `None` for one that tunes
            nothing. A scale that is on a schedule is not tuned.
        **options: `dtype`, `device`, `precision`.

    Note:
        Exact: $e^{-E}$ is invariant at any proposal scale. One energy a step.

    References: Metropolis et al. (1953), https://doi.org/10.1063/1.1699114; Roberts, Gelman & Gilks (1997),
    https://doi.org/10.1214/aoap/1034625254

    Example:
        >>> sampler = MetropolisHastings(lambda x: x.abs().sum(-1), proposal_scale=1.0)
        >>> sampler.sample(dim=1, n_samples=5, n_steps=20).shape
        torch.Size([5, 1])
    """

    needs_gradient = False
    divergence_advice = "a smaller proposal_scale"
    tuned_parameter = "proposal_scale"

    steps_per_block = 16

    proposal_scale = Scheduled(above=0.0)
    target_acceptance: Any = Setting(check_target_acceptance)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 proposal_scale: float | BaseScheduler | Callable[[int], float] = 0.1, *,
                 target_acceptance: float | None = 0.234, **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.proposal_scale = proposal_scale
        self.target_acceptance = target_acceptance

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        return Warmup(self, n_warmup) if tunable(self) else None

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Weighed:
        return Weighed(x, target.energy(x))

    def refresh(self, state: Weighed, target: Target) -> Weighed:
        return Weighed(state.x, target.energy(state.x))

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        return proposal_noise(x, n)

    def step(self, state: Weighed, noise: tuple[Tensor, Tensor], target: Target, *, temperature: float | Tensor = 1.0,
             proposal_scale: float | Tensor) -> tuple[Weighed, AcceptInfo]:  # fmt: skip
        xi, u = noise
        x = add_scaled(state.x, proposal_scale, xi)
        new = Weighed(x, target.energy(x))
        log_ratio = (state.energy - new.energy).to(u.dtype) / temperature
        accepted, rate = accepts(log_ratio, u, state.energy, new.energy)
        return select(accepted, new, state), AcceptInfo(rate, unsound(log_ratio, state.energy, new.energy))
