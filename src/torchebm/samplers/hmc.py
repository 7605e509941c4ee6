"""Hamiltonian Monte Carlo."""

from collections.abc import Callable
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.random import normal_, uniform_
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import per_chain, select
from torchebm.core.target import Target

from .acceptance import AcceptInfo, accepts
from .hamiltonian import Mass, as_mass, leapfrog

__all__ = ["HamiltonianMonteCarlo"]

MAX_ENERGY_ERROR = 1000.0  # beyond it the integrator has lost the trajectory; Stan's figure


class Evaluated(NamedTuple):
    """Where the chains stand, with what the next transition needs of that point."""

    x: Float[Tensor, " chain *event"]
    energy: Float[Tensor, " chain"]
    gradient: Float[Tensor, " chain *event"]


class HamiltonianMonteCarlo(MarkovSampler):
    r"""Gives each chain a random momentum, follows the dynamics, and accepts or rejects where it arrives.

    $p \sim N(0, M)$; L leapfrog steps of size h of $\dot x = M^{-1} p,\ \dot p = -\nabla E(x)$; accept with probability
    $\min(1, e^{-\Delta H})$, $H = E(x) + \tfrac12 p^\top M^{-1} p$. The choice for smooth densities in many dimensions.

    Args:
        model: The energy.
        step_size: $h$; the energy error grows with $h^2$, and diverges beyond twice the shortest length scale.
        n_leapfrog_steps: $L$; the path length is $h L$ and should reach across the distribution.
        mass: $M$: a positive number, a tensor of the event's shape (diagonal), or a matrix over the flattened event
            (dense). Best near the inverse covariance. Identity if left out.
        **options: `dtype`, `device`, `precision`.

    Note:
        Exact: $e^{-E}$ is invariant at any step size. L gradients a transition. A path length near a period of the
        dynamics returns to where it began; vary L or h if draws stay correlated at high acceptance.

    References: Neal (2011), https://arxiv.org/abs/1206.1901

    Example:
        >>> from torchebm.core import GaussianModel
        >>> model = GaussianModel(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
        >>> sampler = HamiltonianMonteCarlo(model, step_size=0.3, n_leapfrog_steps=5, mass=torch.linalg.inv(model.cov))
        >>> x, diagnostics = sampler.sample(n_samples=50, n_steps=20, return_diagnostics=True)
        >>> bool(diagnostics["acceptance_rate"].mean() > 0.9)
        True
    """

    divergence_advice = "a smaller step_size"

    step_size = Scheduled(above=0.0)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.1, n_leapfrog_steps: int = 10,
                 mass: float | Float[Tensor, "..."] | None = None,
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.n_leapfrog_steps = integer("n_leapfrog_steps", n_leapfrog_steps, at_least=1)
        self.mass = mass

    @property
    def mass(self) -> float | Tensor | None:
        """The mass as it was given; what is derived from it follows when it changes."""
        return self._mass

    @mass.setter
    def mass(self, mass: float | Tensor | None) -> None:
        if mass is not None and not isinstance(mass, Tensor):
            mass = number("mass", mass, above=0.0)
        self._mass = mass
        self._metric: tuple[object, Mass] | None = None

    def metric(self, x: Float[Tensor, " chain *event"]) -> Mass:
        """The mass for chains like `x`; factorised once for each mass, event shape, dtype and device."""
        version = self._mass._version if isinstance(self._mass, Tensor) else 0
        key = (version, x.shape[1:], x.dtype, x.device)
        if self._metric is None or self._metric[0] != key:
            self._metric = (key, as_mass(self._mass, x))
        return self._metric[1]

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Evaluated:
        self.metric(x)  # a mass that does not fit is refused before the model is evaluated
        return Evaluated(x, *target(x))

    def refresh(self, state: Evaluated, target: Target) -> Evaluated:
        return Evaluated(state.x, *target(state.x))

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        return x.new_empty(n, *x.shape), x.new_empty(n, len(x), dtype=torch.promote_types(x.dtype, torch.float32))

    def draw(self, out: tuple[Tensor, Tensor], generator: torch.Generator | None) -> None:
        normal_(out[0], generator)
        uniform_(out[1], generator)

    def step(self, state: Evaluated, noise: tuple[Tensor, Tensor], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor) -> tuple[Evaluated, AcceptInfo]:  # fmt: skip
        xi, u = noise
        metric = self.metric(state.x)
        p = metric.momentum(xi)
        kick = step_size / per_chain(temperature, state.x)
        x, q, energy, gradient = leapfrog(
            state.x, p, state.gradient, target, metric, step_size, kick, self.n_leapfrog_steps
        )
        log_ratio = ((state.energy - energy) / temperature + metric.kinetic(p) - metric.kinetic(q)).to(u.dtype)
        accepted, rate = accepts(log_ratio, u, state.energy, energy)
        diverging = ~((log_ratio > -MAX_ENERGY_ERROR) & log_ratio.isfinite())
        return select(accepted, Evaluated(x, energy, gradient), state), AcceptInfo(rate, diverging)
