"""Hamiltonian Monte Carlo."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchebm.core.adaptation import Adaptation
from torchebm.core.checks import integer, number
from torchebm.core.model import BaseModel
from torchebm.core.random import normal_, uniform_
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import per_chain, select
from torchebm.core.target import Target

from .acceptance import AcceptInfo, accepts
from .hamiltonian import HamiltonianSampler, leapfrog, radical_inverse, whiten
from .warmup import MassKind, Warmup, check_mass_kind, check_target_acceptance, tunable

__all__ = ["HamiltonianMonteCarlo"]

MAX_ENERGY_ERROR = 1000.0  # beyond it the integrator has lost the trajectory; Stan's figure


class Evaluated(NamedTuple):
    """Where the chains stand, with what the next transition needs of that point."""

    x: Float[Tensor, " chain *event"]
    energy: Float[Tensor, " chain"]
    gradient: Float[Tensor, " chain *event"]


class Moving(NamedTuple):
    """The same, with the momentum that a partial refresh keeps."""

    x: Float[Tensor, " chain *event"]
    energy: Float[Tensor, " chain"]
    gradient: Float[Tensor, " chain *event"]
    momentum: Float[Tensor, " chain *event"]
    """$M^{-1/2} p$: standard normal whatever the mass, which may change between transitions."""


class Proposal(NamedTuple):
    """Where a trajectory ends, and whether the chain goes there."""

    end: Evaluated
    p: Float[Tensor, " chain *event"]
    accepted: Bool[Tensor, " chain"]
    info: AcceptInfo


class HamiltonianMonteCarlo(HamiltonianSampler):
    r"""Gives each chain a random momentum, follows the dynamics, and accepts or rejects where it arrives.

    $p \sim N(0, M)$; L leapfrog steps of size h of $\dot x = M^{-1} p,\ \dot p = -\nabla E(x)$; accept with probability
    $\min(1, e^{-\Delta H})$, $H = E(x) + \tfrac12 p^\top M^{-1} p$. The choice for smooth densities in many dimensions.

    Args:
        model: The energy.
        step_size: $h$; the energy error grows with $h^2$, and diverges beyond twice the shortest length scale.
        n_leapfrog_steps: $L$; the path length is $h L$ and should reach across the distribution.
        mass: $M$: a positive number, a tensor of the event's shape (diagonal), or a matrix over the flattened event
            (dense). Best near the inverse covariance. Identity if left out.
        jitter: Each transition of each chain has a step size drawn evenly from $h (1 \pm \text{jitter})$, so that no
            path length is a period of the dynamics for long.
        path_jitter: L varies from transition to transition, evenly between (1 - path_jitter) L and L, in an order that
            follows from the number of the transition.
        momentum_refresh: The share $r$ of the momentum that is new, $p \leftarrow \sqrt{1-r}\,p + \sqrt r\,
            M^{1/2} \xi$. Below 1 a chain keeps its direction over several short trajectories, and turns back where a
            proposal is rejected.
        target_acceptance: The rate that a warm-up (`n_warmup`, `warm_up`) tunes $h$ to; `None` for one that tunes
            nothing. A step size that is on a schedule is not tuned.
        adapt_mass: What a warm-up makes of the mass: `"diagonal"`, `"dense"`, or `None` to leave it. It begins with
            the mass given, and keeps a dense one dense.
        **options: `dtype`, `device`, `precision`.

    Note:
        Exact: $e^{-E}$ is invariant at any step size. L gradients a transition. A path length near a period of the
        dynamics returns to where it began. That is likeliest after a warm-up, when all directions have one period: give
        `path_jitter` or `jitter` with it, or use `ChEESHamiltonianMonteCarlo`, which finds the length.

    References: Neal (2011), https://arxiv.org/abs/1206.1901; for partial refreshment Horowitz (1991),
    https://doi.org/10.1016/0370-2693(91)90812-5

    Example:
        >>> from torchebm.core import GaussianModel
        >>> model = GaussianModel(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
        >>> sampler = HamiltonianMonteCarlo(model, step_size=0.3, n_leapfrog_steps=5, mass=torch.linalg.inv(model.cov))
        >>> x, diagnostics = sampler.sample(n_samples=50, n_steps=20, return_diagnostics=True)
        >>> bool(diagnostics["acceptance_rate"].mean() > 0.9)
        True
    """

    divergence_advice = "a smaller step_size"
    tuned_parameter = "step_size"

    step_size = Scheduled(above=0.0)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.1, n_leapfrog_steps: int = 10,
                 mass: float | Float[Tensor, "..."] | None = None, *, jitter: float = 0.0, path_jitter: float = 0.0,
                 momentum_refresh: float = 1.0, target_acceptance: float | None = 0.8,
                 adapt_mass: MassKind | None = "diagonal", **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.n_leapfrog_steps = integer("n_leapfrog_steps", n_leapfrog_steps, at_least=1)
        self.mass = mass
        self.jitter = number("jitter", jitter, at_least=0.0, at_most=1.0)
        self.path_jitter = number("path_jitter", path_jitter, at_least=0.0, at_most=1.0)
        self.momentum_refresh = number("momentum_refresh", momentum_refresh, above=0.0, at_most=1.0)
        self.target_acceptance = check_target_acceptance(target_acceptance)
        self.adapt_mass = check_mass_kind(adapt_mass)

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        return Warmup(self, n_warmup, self.adapt_mass) if tunable(self) else None

    def parameter_table(self, start: int, n_steps: int) -> dict[str, list[Any]]:
        table = super().parameter_table(start, n_steps)
        if self.path_jitter:
            shares = [1 - self.path_jitter * radical_inverse(k + 1) for k in range(start, start + n_steps)]
            table["n_leapfrog_steps"] = [max(1, round(self.n_leapfrog_steps * share)) for share in shares]
        return table

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Evaluated | Moving:
        self.metric(x)  # a mass that does not fit is refused before the model is evaluated
        state = Evaluated(x, *target(x))
        if self.momentum_refresh == 1:
            return state
        return Moving(*state, normal_(x.new_empty(x.shape), generator))

    def refresh(self, state: Evaluated | Moving, target: Target) -> Evaluated | Moving:
        energy, gradient = target(state.x)
        return state._replace(energy=energy, gradient=gradient)

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        wide = torch.promote_types(x.dtype, torch.float32)
        jitter = (x.new_empty(n, len(x)),) if self.jitter else ()
        return x.new_empty(n, *x.shape), x.new_empty(n, len(x), dtype=wide), *jitter

    def draw(self, out: tuple[Tensor, ...], generator: torch.Generator | None) -> None:
        normal_(out[0], generator)
        for uniform in out[1:]:
            uniform_(uniform, generator)

    def step(self, state: Evaluated | Moving, noise: tuple[Tensor, ...], target: Target, *,
             temperature: float | Tensor = 1.0, step_size: float | Tensor,
             n_leapfrog_steps: int | None = None) -> tuple[Evaluated | Moving, AcceptInfo]:  # fmt: skip
        if self.jitter:
            step_size = step_size * (1 + self.jitter * (2 * noise[2] - 1))
        n_steps = n_leapfrog_steps or self.n_leapfrog_steps
        if self.momentum_refresh == 1:
            end, _, accepted, info = self.propose(state, noise[0], noise[1], target, temperature, step_size, n_steps)
            return select(accepted, end, state), info
        state = cast(Moving, state)
        z = (1 - self.momentum_refresh) ** 0.5 * state.momentum + self.momentum_refresh**0.5 * noise[0]
        end, p, accepted, info = self.propose(state, z, noise[1], target, temperature, step_size, n_steps)
        there, back = Moving(*end, whiten(self.metric(state.x), p)), state._replace(momentum=-z)
        return select(accepted, there, back), info

    def propose(self, state: Evaluated | Moving, z: Tensor, u: Tensor, target: Target, temperature: float | Tensor,
                step_size: float | Tensor, n_steps: int) -> Proposal:  # fmt: skip
        """A trajectory that begins with the momentum $M^{1/2} z$, and the accept test at its end."""
        metric = self.metric(state.x)
        p = metric.momentum(z)
        step_size = per_chain(step_size, state.x)
        kick = step_size / per_chain(temperature, state.x)
        x, q, energy, gradient = leapfrog(state.x, p, state.gradient, target, metric, step_size, kick, n_steps)
        log_ratio = ((state.energy - energy) / temperature + metric.kinetic(p) - metric.kinetic(q)).to(u.dtype)
        accepted, rate = accepts(log_ratio, u, state.energy, energy)
        diverging = ~((log_ratio > -MAX_ENERGY_ERROR) & log_ratio.isfinite())
        return Proposal(Evaluated(x, energy, gradient), q, accepted, AcceptInfo(rate, diverging))
