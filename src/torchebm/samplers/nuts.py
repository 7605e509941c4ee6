"""The no-U-turn sampler: Hamiltonian trajectories that end where they turn back."""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.checks import integer
from torchebm.core.model import BaseModel
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import per_chain, select, sum_event
from torchebm.core.target import Target

from .acceptance import Evaluated
from .hamiltonian import MAX_ENERGY_ERROR, HamiltonianSampler, kinetic, leapfrog
from .warmup import MassKind, Warmup, check_mass_kind, check_target_acceptance, tunable

__all__ = ["NoUTurnSampler"]


class TreeInfo(NamedTuple):
    """What a transition reports of its trajectory."""

    acceptance_rate: Float[Tensor, " chain"]
    r"""Mean of $\min(1, e^{-\Delta H})$ over the leapfrog steps: what a step size is tuned by."""
    diverging: Bool[Tensor, " chain"]
    """Whether a point had too large an energy error or was not finite, or the chain stood where the energy is not."""
    n_steps: Int[Tensor, " chain"]
    """Leapfrog steps, those of a stretch that was given up included."""
    tree_depth: Int[Tensor, " chain"]
    """Doublings that were completed."""


class Phase(NamedTuple):
    """A point of a trajectory; momenta are those of forward time, whichever way the walk goes."""

    x: Float[Tensor, " chain *event"]
    p: Float[Tensor, " chain *event"]
    velocity: Float[Tensor, " chain *event"]
    gradient: Float[Tensor, " chain *event"]


class Stretch(NamedTuple):
    """Neighbouring points of a trajectory, in the order of the walk, reduced to what decisions about them need."""

    first: Phase
    last: Phase
    rho: Float[Tensor, " chain *event"]
    """Sum of the momenta."""
    log_weight: Float[Tensor, " chain"]
    r"""$\log \sum e^{H_0 - H}$ over the points."""
    chosen: Evaluated
    """One of the points, drawn by weight."""


class NoUTurnSampler(HamiltonianSampler):
    r"""Hamiltonian Monte Carlo that finds its own path length; the choice for smooth densities, if in doubt.

    From a random momentum $p \sim N(0, M)$ a trajectory of leapfrog steps is doubled again and again, at a random one
    of its two ends, until it turns back on itself: until $v \cdot \rho \le 0$ at one of its ends, with the velocity
    $v = M^{-1} p$ there and the sum $\rho$ of all its momenta. The next state is one of its points, drawn with weights
    $e^{-H}$, $H = E(x) + \tfrac12 p^\top M^{-1} p$, and a preference for the half that was added last.

    Args:
        model: The energy.
        step_size: $h$ of the leapfrog steps.
        max_tree_depth: Doublings at most, so that a transition takes no more than $2^{\text{depth}} - 1$ steps.
        mass: $M$: a positive number, a tensor of the event's shape (diagonal), or a matrix over the flattened event
            (dense). Best near the inverse covariance. Identity if left out.
        target_acceptance: The acceptance rate that a warm-up (`n_warmup`, `warm_up`) tunes $h$ to; raise it if chains
            diverge. `None` leaves $h$ as it is, and so does a schedule of its own; the mass is found all the same.
        adapt_mass: What a warm-up makes of the mass: `"diagonal"`, `"dense"`, or `None` to leave it. It begins with
            the mass given, and keeps a dense one dense.
        **options: `dtype`, `device`, `precision`.

    Note:
        Exact: $e^{-E}$ is invariant at any step size. From 1 to $2^{\text{max\_tree\_depth}} - 1$ gradients a
        transition, `diagnostics["n_steps"]` of them. All chains walk in lockstep, so a transition of many takes as
        long as the longest trajectory among them; chains that have finished stand still meanwhile. To see whether any
        has not is the one time that the host waits for the device: before every step on a CPU, every 8th elsewhere.

    References: Hoffman & Gelman (2014), https://arxiv.org/abs/1111.4246; Betancourt (2017), appendix A,
    https://arxiv.org/abs/1701.02434; Phan, Pradhan & Jankowiak (2019), https://arxiv.org/abs/1912.11554

    Example:
        >>> from torchebm.core import GaussianModel
        >>> sampler = NoUTurnSampler(GaussianModel(torch.zeros(2), torch.eye(2)), step_size=0.5)
        >>> x, diagnostics = sampler.sample(n_samples=50, n_steps=20, return_diagnostics=True)
        >>> bool(diagnostics["acceptance_rate"].mean() > 0.9), bool(diagnostics["n_steps"].float().mean() < 10)
        (True, True)
    """

    divergence_advice = "a smaller step_size, or a higher target_acceptance in the warm-up"
    tuned_parameter = "step_size"

    steps_per_block = None

    step_size = Scheduled(above=0.0)
    max_tree_depth: Any = Setting(lambda value: integer("max_tree_depth", value, at_least=1))
    target_acceptance: Any = Setting(check_target_acceptance)
    adapt_mass: Any = Setting(check_mass_kind)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.1, max_tree_depth: int = 10,
                 mass: float | Float[Tensor, "..."] | None = None, *,
                 target_acceptance: float | None = 0.8, adapt_mass: MassKind | None = "diagonal",
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.max_tree_depth = max_tree_depth
        self.mass = mass
        self.target_acceptance = target_acceptance
        self.adapt_mass = adapt_mass

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        return TreeWarmup(self, n_warmup, self.adapt_mass) if self.adapt_mass or tunable(self) else None

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Evaluated:
        self.metric(x)  # a mass that does not fit is refused before the model is evaluated
        return Evaluated(x, *target(x))

    def refresh(self, state: Evaluated, target: Target) -> Evaluated:
        return Evaluated(state.x, *target(state.x))

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """For the momentum; and for each doubling one uniform for the direction, one for the choices."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return x.new_empty(n, *x.shape), x.new_empty(n, len(x), 2, self.max_tree_depth, dtype=wide)

    def step(self, state: Evaluated, noise: tuple[Tensor, Tensor], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor,
             max_tree_depth: int | None = None) -> tuple[Evaluated, TreeInfo]:  # fmt: skip
        # A binary counter builds the trees. Point n of the walk, the start being 0, completes as many stretches as n
        # has trailing ones: at n = 5 = 101b those of points 4-5, at 7 = 111b those of 6-7, 4-7 and 0-7. Waiting
        # stretches lie on a stack, one for each bit of n that is set, the longest at the bottom: the trajectory so far.
        #
        # One uniform a level serves all choices at that level, which is exact. The outcome is read from the top: of
        # the doublings the last one that was taken, within it a half, of this half a half, ... down to one point. On
        # this way each level decides once, by its own uniform, and independent of the trajectory; what it decides off
        # the way is not seen. Hence the probability of a point is the product of the shares along the way.
        xi, u = noise
        metric, n_chains = self.metric(state.x), len(state.x)
        sign = torch.where(u[:, 0] < 0.5, -1.0, 1.0).to(state.x.dtype)  # [chain, depth]
        log_u = torch.log1p(-u[:, 1])  # [chain, depth]

        p = metric.momentum(xi)
        velocity = metric.velocity(p)
        started = kinetic(metric, p, u.dtype, velocity)
        # A chain at a point that is not finite has no weight to keep, and no energy to lose: any finite point will do.
        stranded = ~state.energy.isfinite()
        origin = torch.where(stranded, 0.0, state.energy)
        lowest = u.new_full((n_chains,), -MAX_ENERGY_ERROR).masked_fill(stranded, -torch.inf)
        here = Phase(state.x, p, velocity, state.gradient)
        waiting = [Stretch(here, here, p, u.new_zeros(n_chains).masked_fill(stranded, -torch.inf), state)]

        walking, diverging = torch.ones_like(stranded), stranded
        rates = u.new_zeros(n_chains)
        n_steps = tree_depth = torch.zeros_like(stranded, dtype=torch.int64)
        sync_every = 1 if u.device.type == "cpu" else 8
        for n in range(1, 2 ** (max_tree_depth or self.max_tree_depth)):
            if n % sync_every == 0 and not bool(walking.any()):
                break
            depth = n.bit_length() - 1
            if n == 2**depth > 1:  # all points are one stretch, to be doubled at either end
                whole, turns_round = waiting[0], sign[:, depth] != sign[:, depth - 1]
                first, last = select(turns_round, whole.last, whole.first), select(turns_round, whole.first, whole.last)
                waiting, here = [whole._replace(first=first, last=last)], last

            h = step_size * (sign[:, depth] * walking)  # [chain], zero for those that have finished
            kick = (h / temperature).to(h.dtype)
            x, p, energy, gradient = leapfrog(
                here.x, here.p, here.gradient, target, metric, per_chain(h, here.x), per_chain(kick, here.x), 1
            )
            velocity = metric.velocity(p)
            here = Phase(x, p, velocity, gradient)
            gain = kinetic(metric, p, u.dtype, velocity) - started
            log_weight = ((origin - energy) / temperature - gain).to(u.dtype)
            sound = (log_weight > lowest) & (log_weight < torch.inf)  # NaN compares false
            n_steps = n_steps + walking
            diverging = diverging | (walking & ~sound)
            walking = walking & sound
            rates = rates + torch.where(walking, log_weight.clamp(max=0).exp(), 0.0)

            new = Stretch(here, here, p, log_weight, Evaluated(x, energy, gradient))
            level = 0
            while n >> level & 1:
                old = waiting.pop()
                rho = old.rho + new.rho
                total = torch.logaddexp(old.log_weight, new.log_weight)
                if waiting:  # within the new half: by weight
                    takes_new = log_u[:, level] < new.log_weight - total
                else:  # between the halves: the new one, if it is sound, with a preference that keeps the balance
                    takes_new = walking & (log_u[:, level] < new.log_weight - old.log_weight)
                    tree_depth = tree_depth + walking
                walking = walking & goes_on(old, new, rho, between=level > 0)
                new = Stretch(old.first, new.last, rho, total, select(takes_new, new.chosen, old.chosen))
                level += 1
            waiting.append(new)
        # The bottom of the stack is the trajectory; what lies above it was not finished. Of chains that stopped within
        # a doubling only the chosen point has a meaning by now.
        rates = torch.where(stranded, (tree_depth > 0).to(rates.dtype), rates / n_steps)
        return waiting[0].chosen, TreeInfo(rates, diverging, n_steps, tree_depth)


class TreeWarmup(Warmup):
    """Bounds the trees of the fast phase: with a mass that may be far off, a long walk gets no further than a short."""

    max_tree_depth = 6

    def parameters(self) -> dict[str, Any]:
        bound = {"max_tree_depth": min(self.max_tree_depth, self.sampler.max_tree_depth)} if self.in_fast_phase else {}
        return super().parameters() | bound


def goes_on(a: Stretch, b: Stretch, rho: Tensor, between: bool) -> Bool[Tensor, " chain"]:
    r"""Whether neighbouring stretches, of momentum `rho` together, move on at both ends: $v \cdot \rho > 0$.

    `between` asks the same of each of them with the nearest point of the other: two halves that each turn by nearly a
    full circle are noticed there, where the ends of the whole do not show it. For single points it says nothing new.
    """
    start, end = a.first.velocity, b.last.velocity
    if not between:
        return (sum_event(rho * start) > 0) & (sum_event(rho * end) > 0)
    sums = torch.stack([rho, a.rho + b.first.p, a.last.p + b.rho])  # [3, chain, *event]
    starts = torch.stack([start, start, a.last.velocity])
    ends = torch.stack([end, b.first.velocity, end])
    return ((_dots(sums, starts) > 0) & (_dots(sums, ends) > 0)).all(0)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).reshape(*a.shape[:2], -1).sum(-1)
