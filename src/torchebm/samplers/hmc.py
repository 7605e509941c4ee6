"""Hamiltonian Monte Carlo."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.checks import integer, number
from torchebm.core.model import BaseModel
from torchebm.core.random import normal_
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import per_chain, select
from torchebm.core.target import Target

from .acceptance import Evaluated, accepts, proposal_noise
from .hamiltonian import HamiltonianSampler, kinetic, leapfrog, lost, radical_inverse, whiten
from .warmup import MassKind, Warmup, check_mass_kind, check_target_acceptance, tunable

__all__ = ["HamiltonianMonteCarlo"]


class TrajectoryInfo(NamedTuple):
    """What a transition reports."""

    acceptance_rate: Float[Tensor, " chain"]
    """Probability with which the end of the trajectory was accepted."""
    diverging: Bool[Tensor, " chain"]
    """Whether its energy error was too large, or not finite."""
    n_steps: Int[Tensor, " chain"]
    """Leapfrog steps."""


class Moving(NamedTuple):
    """Where the chains stand, with the momentum that a partial refresh keeps."""

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
    info: TrajectoryInfo


class PathWarmup(Warmup):
    """Varies the length of paths in the warm-up too, which else stays at the first values of what varies."""

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"n_leapfrog_steps": self.sampler.path_steps(self.n_done)}


class TrajectorySampler(HamiltonianSampler):
    """Leapfrog steps from a random momentum, and an accept test where they end: how many, subclasses say."""

    divergence_advice = "a smaller step_size"
    tuned_parameter = "step_size"

    target_acceptance: Any = Setting(check_target_acceptance)
    adapt_mass: Any = Setting(check_mass_kind)

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Any:
        self.metric(x)  # a mass that does not fit is refused before the model is evaluated
        return Evaluated(x, *target(x))

    def refresh(self, state: Any, target: Target) -> Any:
        energy, gradient = target(state.x)
        return state._replace(energy=energy, gradient=gradient)

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        return proposal_noise(x, n)

    def propose(self, state: Evaluated | Moving, z: Tensor, u: Tensor, target: Target, temperature: float | Tensor,
                step_size: float | Tensor, n_steps: int) -> Proposal:  # fmt: skip
        """A trajectory that begins with the momentum $M^{1/2} z$, and the accept test at its end."""
        metric = self.metric(state.x)
        p = metric.momentum(z)
        step_size = per_chain(step_size, state.x)
        kick = step_size / per_chain(temperature, state.x)
        x, q, energy, gradient = leapfrog(state.x, p, state.gradient, target, metric, step_size, kick, n_steps)
        gain = kinetic(metric, q, u.dtype) - kinetic(metric, p, u.dtype)
        log_ratio = ((state.energy - energy) / temperature - gain).to(u.dtype)
        accepted, rate = accepts(log_ratio, u, state.energy, energy)
        info = TrajectoryInfo(rate, lost(log_ratio), torch.full_like(accepted, n_steps, dtype=torch.int64))
        return Proposal(Evaluated(x, energy, gradient), q, accepted, info)


class HamiltonianMonteCarlo(TrajectorySampler):
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
            follows from the number of the transition; 0 makes every path one of L steps.
        momentum_refresh: The share $r$ of the momentum that is new, $p \leftarrow \sqrt{1-r}\,p + \sqrt r\,
            M^{1/2} \xi$. Below 1 a chain keeps its direction over several short trajectories, and turns back where a
            proposal is rejected.
        target_acceptance: The rate that a warm-up (`n_warmup`, `warm_up`) tunes $h$ to; `None` leaves $h$ as it is,
            and so does a schedule of its own; the mass is found all the same.
        adapt_mass: What a warm-up makes of the mass: `"diagonal"`, `"dense"`, or `None` to leave it. It begins with
            the mass given, and keeps a dense one dense.
        **options: `dtype`, `device`, `precision`.

    Note:
        Exact: $e^{-E}$ is invariant at any step size. L gradients a transition at most, and three quarters of that in
        the mean. A path length near a period of the dynamics returns to where it began. That is likeliest after a
        warm-up, when all directions have one period, and why L varies. `ChEESHamiltonianMonteCarlo` finds the length.

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

    step_size = Scheduled(above=0.0)
    n_leapfrog_steps: Any = Setting(lambda value: integer("n_leapfrog_steps", value, at_least=1))
    jitter: Any = Setting(lambda value: number("jitter", value, at_least=0.0, at_most=1.0))
    path_jitter: Any = Setting(lambda value: number("path_jitter", value, at_least=0.0, at_most=1.0))
    momentum_refresh: Any = Setting(lambda value: number("momentum_refresh", value, above=0.0, at_most=1.0))

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.1, n_leapfrog_steps: int = 10,
                 mass: float | Float[Tensor, "..."] | None = None, *, jitter: float = 0.0, path_jitter: float = 0.5,
                 momentum_refresh: float = 1.0, target_acceptance: float | None = 0.8,
                 adapt_mass: MassKind | None = "diagonal", **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.n_leapfrog_steps = n_leapfrog_steps
        self.mass = mass
        self.jitter = jitter
        self.path_jitter = path_jitter
        self.momentum_refresh = momentum_refresh
        self.target_acceptance = target_acceptance
        self.adapt_mass = adapt_mass

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        return PathWarmup(self, n_warmup, self.adapt_mass) if self.adapt_mass or tunable(self) else None

    def parameter_table(self, start: int, n_steps: int) -> dict[str, list[Any]]:
        table = super().parameter_table(start, n_steps)
        if self.path_jitter:
            table["n_leapfrog_steps"] = [self.path_steps(start + k) for k in range(n_steps)]
        return table

    @property
    def steps_per_block(self) -> int | None:  # pyrefly: ignore[bad-override]
        """Some 20 leapfrog steps; with a path jitter the host decides how long a trajectory is."""
        return None if self.path_jitter else max(1, 20 // self.n_leapfrog_steps)

    def path_steps(self, k: int) -> int:
        """Leapfrog steps of transition k; those of the first are L."""
        return max(1, round(self.n_leapfrog_steps * (1 - self.path_jitter * radical_inverse(k))))

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Evaluated | Moving:
        state: Evaluated = super().init(x, target, generator)
        if self.momentum_refresh == 1:
            return state
        return Moving(*state, normal_(x.new_empty(x.shape), generator))

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        return *super().noise(x, n), *((x.new_empty(n, len(x)),) if self.jitter else ())

    def step(self, state: Evaluated | Moving, noise: tuple[Tensor, ...], target: Target, *,
             temperature: float | Tensor = 1.0, step_size: float | Tensor,
             n_leapfrog_steps: int | None = None) -> tuple[Evaluated | Moving, TrajectoryInfo]:  # fmt: skip
        if self.jitter:
            step_size = step_size * (1 + self.jitter * (2 * noise[2] - 1))
        n_steps = int(n_leapfrog_steps or self.n_leapfrog_steps)
        if self.momentum_refresh == 1:
            end, _, accepted, info = self.propose(state, noise[0], noise[1], target, temperature, step_size, n_steps)
            return select(accepted, end, state), info
        state = cast(Moving, state)
        z = (1 - self.momentum_refresh) ** 0.5 * state.momentum + self.momentum_refresh**0.5 * noise[0]
        end, p, accepted, info = self.propose(state, z, noise[1], target, temperature, step_size, n_steps)
        there, back = Moving(*end, whiten(self.metric(state.x), p)), state._replace(momentum=-z)
        return select(accepted, there, back), info
