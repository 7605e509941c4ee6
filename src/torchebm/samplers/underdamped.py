"""Underdamped Langevin dynamics."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.model import BaseModel
from torchebm.core.random import normal_
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import add_scaled, per_chain, select
from torchebm.core.target import Target

from .acceptance import AcceptInfo, accepts, proposal_noise
from .hamiltonian import HamiltonianSampler, Mass, decay, kinetic, leapfrog, lost
from .langevin import Info
from .warmup import Warmup, check_target_acceptance, tunable

__all__ = ["UnderdampedLangevin"]


class Moving(NamedTuple):
    """Where the chains stand and how they move, with energy and gradient there, so that a step costs one gradient."""

    x: Float[Tensor, " chain *event"]
    momentum: Float[Tensor, " chain *event"]
    energy: Float[Tensor, " chain"]
    gradient: Float[Tensor, " chain *event"]


class UnderdampedLangevin(HamiltonianSampler):
    r"""Langevin dynamics with inertia, which keeps its direction and so crosses wide densities in fewer steps.

    $\dot x = M^{-1} p,\ \dot p = -\nabla E(x) - \gamma p + \sqrt{2 \gamma M}\,\dot W$, whose density is
    $e^{-E(x)} N(p; 0, M)$. A step is the splitting BAOAB: half a kick $p \mathrel{-}= \tfrac h2 \nabla E$, half a drift
    $x \mathrel{+}= \tfrac h2 M^{-1} p$, friction and noise $p \leftarrow e^{-\gamma h} p + \sqrt{1 - e^{-2 \gamma h}}\,
    M^{1/2} \xi$, half a drift, half a kick. Of the unadjusted samplers the one with the smallest bias at its cost.

    Metropolised, a step is friction and noise, then one leapfrog step that is accepted with probability
    $\min(1, e^{-\Delta H})$, $H = E(x) + \tfrac12 p^\top M^{-1} p$; where it is rejected, the momentum turns round.

    Args:
        model: The energy.
        step_size: $h$; unstable beyond twice the shortest length scale (in units of $M^{1/2} x$). Metropolised it
            should be smaller, for acceptance above 95 %: every rejection sends a chain back where it came from.
        friction: $\gamma$, the rate at which the momentum is forgotten. Best near the frequency of the slowest
            direction, 1 over its standard deviation at mass 1. A large one makes it a walk without inertia, with
            the drift of `LangevinDynamics` at steps $h^2 / 2$.
        mass: $M$: a positive number, a tensor of the event's shape (diagonal), or a matrix over the flattened event
            (dense). Best near the inverse covariance. Identity if left out.
        metropolised: Whether steps are accepted or rejected, so that the density is exact.
        target_acceptance: The rate that a warm-up (`n_warmup`, `warm_up`) tunes $h$ to, if steps are metropolised, and
            high, so that a chain keeps its direction for some twenty steps; mass and friction stay as they are. `None`
            leaves $h$ as it is, and so does a schedule of its own.
        **options: `dtype`, `device`, `precision`.

    Note:
        Unadjusted the bias of every expectation is O(h²); that of the positions vanishes for normal densities, and is
        O(h⁴) in the limit of large friction. Metropolised it is exact: $e^{-E(x)} N(p; 0, M)$ is invariant at any step
        size. One gradient a step, and one at the start. The momentum is part of the state, so that runs continue.

    References: Leimkuhler & Matthews (2013), https://doi.org/10.1093/amrx/abs010; Horowitz (1991),
    https://doi.org/10.1016/0370-2693(91)90812-5

    Example:
        >>> from torchebm.core import GaussianModel
        >>> model = GaussianModel(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
        >>> x = UnderdampedLangevin(model, step_size=0.3, friction=1.0).sample(n_samples=5, n_steps=20)
        >>> sampler = UnderdampedLangevin(model, step_size=0.1, metropolised=True)
        >>> x, diagnostics = sampler.sample(n_samples=50, n_steps=20, return_diagnostics=True)
        >>> bool(diagnostics["acceptance_rate"].mean() > 0.95)
        True
    """

    can_reject = False
    steps_per_block = 8
    tuned_parameter = "step_size"

    constructed = ("metropolised",)

    step_size = Scheduled(above=0.0)
    friction = Scheduled(above=0.0)
    target_acceptance: Any = Setting(check_target_acceptance)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.1,
                 friction: float | BaseScheduler | Callable[[int], float] = 1.0,
                 mass: float | Float[Tensor, "..."] | None = None, metropolised: bool = False, *,
                 target_acceptance: float | None = 0.95, **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        if not isinstance(metropolised, bool):
            raise TypeError(f"metropolised must be True or False; got {metropolised!r}.")
        self.step_size = step_size
        self.friction = friction
        self.mass = mass
        self.can_reject = metropolised
        if not metropolised and target_acceptance not in (None, 0.95):
            raise TypeError("target_acceptance is for metropolised=True: unadjusted steps are all accepted.")
        self.target_acceptance = target_acceptance if metropolised else None

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        return Warmup(self, n_warmup) if self.metropolised and tunable(self) else None

    @property
    def metropolised(self) -> bool:
        """Whether steps are accepted or rejected."""
        return self.can_reject

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Moving:
        momentum = self.metric(x).momentum(normal_(x.new_empty(x.shape), generator))
        return Moving(x, momentum, *self._evaluate(x, target))

    def refresh(self, state: Moving, target: Target) -> Moving:
        return Moving(state.x, state.momentum, *self._evaluate(state.x, target))

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        return proposal_noise(x, n) if self.metropolised else super().noise(x, n)

    def step(self, state: Moving, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor, friction: float | Tensor) -> tuple[Moving, Info | AcceptInfo]:  # fmt: skip
        x, p, _, gradient = state
        metric = self.metric(x)
        h, kick = per_chain(step_size, x), per_chain(step_size / temperature, x)  # momenta are those of temperature 1
        kept, gained = decay(step_size * friction)
        fresh = per_chain(gained, x) * metric.momentum(noise[0])
        kept = per_chain(kept, x)
        if self.metropolised:
            p = kept * p + fresh
            return self._accept(state, p, noise[1], target, metric, h, kick, temperature)
        p = add_scaled(p, -0.5 * kick, gradient)
        x = add_scaled(x, 0.5 * h, metric.velocity(p))
        p = kept * p + fresh
        x = add_scaled(x, 0.5 * h, metric.velocity(p))
        energy, gradient = self._evaluate(x, target)
        p = add_scaled(p, -0.5 * kick, gradient)
        return Moving(x, p, energy, gradient), Info(x)

    def _accept(self, state: Moving, p: Tensor, u: Tensor, target: Target, metric: Mass, h: float | Tensor,
                kick: float | Tensor, temperature: float | Tensor) -> tuple[Moving, AcceptInfo]:  # fmt: skip
        """One leapfrog step from (x, p), or (x, -p): both are reversible up to the sign of the momentum."""
        x, q, energy, gradient = leapfrog(state.x, p, state.gradient, target, metric, h, kick, 1)
        gain = kinetic(metric, q, u.dtype) - kinetic(metric, p, u.dtype)
        log_ratio = ((state.energy - energy) / temperature - gain).to(u.dtype)
        accepted, rate = accepts(log_ratio, u, state.energy, energy)
        turned = state._replace(momentum=-p)
        return select(accepted, Moving(x, q, energy, gradient), turned), AcceptInfo(rate, lost(log_ratio))

    def _evaluate(self, x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Energy and gradient; without an accept test there is no slope where the energy is not finite."""
        energy, gradient = target(x)
        if not self.metropolised:
            gradient = gradient + per_chain((energy - energy).to(x.dtype), gradient)
        return energy, gradient
