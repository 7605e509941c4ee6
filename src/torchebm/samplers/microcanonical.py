"""Microcanonical Langevin dynamics, unadjusted and adjusted."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.checks import integer, number
from torchebm.core.model import BaseModel
from torchebm.core.random import normal_
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import per_chain, select, sum_event
from torchebm.core.target import Target

from .acceptance import Evaluated, accepts, proposal_noise
from .hamiltonian import HamiltonianSampler, Mass, decay, lost, radical_inverse, whiten
from .microcanonical_tuning import MicrocanonicalWarmup
from .warmup import check_target_acceptance

__all__ = ["MicrocanonicalLangevin", "isokinetic_leapfrog", "turn"]


class Heading(NamedTuple):
    """Where the chains stand and where they go, with energy and gradient there, so that a step costs one gradient."""

    x: Float[Tensor, " chain *event"]
    energy: Float[Tensor, " chain"]
    gradient: Float[Tensor, " chain *event"]
    direction: Float[Tensor, " chain *event"]
    """$u$, of length 1, in at least float32."""


class FlowInfo(NamedTuple):
    """What a step without an accept test reports."""

    x: Float[Tensor, " chain *event"]
    """Where it ended."""
    energy_error: Float[Tensor, " chain"]
    """The change of energy over temperature, potential and kinetic, which the exact dynamics keeps at 0."""

    @property
    def diverging(self) -> Bool[Tensor, " chain"]:
        """Whether the chain is not finite; computed when it is asked for."""
        return ~self.x.isfinite().flatten(1).all(1)


class TrajectoryInfo(NamedTuple):
    """What a trajectory with an accept test reports."""

    acceptance_rate: Float[Tensor, " chain"]
    diverging: Bool[Tensor, " chain"]
    energy_error: Float[Tensor, " chain"]
    """The change of energy over temperature, potential and kinetic: minus the logarithm of the accept ratio."""
    n_steps: Int[Tensor, " chain"]


class MicrocanonicalLangevin(HamiltonianSampler):
    r"""Moves at one speed in a direction that gradients turn and noise blurs: for smooth densities of many variables.

    $\dot x = u$, $\dot u = -(1 - u u^\top) \nabla E(x) / (d - 1)$ with a direction u of length 1 in d dimensions, whose
    density is $e^{-E(x)}$, with u uniform on the sphere. However steep the energy, a step is one step long. It is a
    leapfrog step: u turns for h / 2, $x \mathrel{+}= h u$, u turns for h / 2. With $e = -\nabla E / |\nabla E|$ and
    $\delta = \tfrac h2 |\nabla E| / (d - 1)$, a turn changes the angle θ between u and e and the kinetic energy by
    $\tan \tfrac{\theta'}2 = e^{-\delta} \tan \tfrac\theta2$,
    $\Delta K = (d - 1) \log(\cosh \delta + \cos \theta \sinh \delta)$.

    Unadjusted, each step begins with noise, $u \leftarrow (u + \nu z) / |u + \nu z|$, $\nu^2 = (e^{2 h / L} - 1) / d$,
    so that the direction is forgotten over a distance L. Adjusted (`metropolised=True`), a transition draws u anew,
    takes n leapfrog steps without noise, and is accepted with probability $\min(1, e^{-\Delta E - \sum \Delta K})$; the
    new u needs no turning round. n is the same for all chains, and runs evenly from 1 to $2 L / h - 1$ in an order that
    follows from the number of the transition; its mean is about L / h.

    Args:
        model: The energy, of events with two components or more: with one there is no direction to turn.
        step_size: $h$, the distance a step covers, in units of $M^{1/2} x$: it grows with $\sqrt d$ times the width of
            a direction.
        decoherence_length: $L$, the distance over which a direction is forgotten, near $\sqrt d$ times the width of a
            direction; adjusted, the mean length of a trajectory.
        mass: $M$: the dynamics run in the coordinates $y = M^{1/2} x$. A positive number, a tensor of the event's shape
            (diagonal), or a matrix over the flattened event (dense). Best near the inverse covariance. Identity if left
            out.
        metropolised: Whether trajectories are accepted or rejected, so that the density is exact.
        desired_energy_var: Unadjusted, the mean square of the energy error of a step, for each dimension, that a
            warm-up (`n_warmup`, `warm_up`) tunes h to; `None` leaves h as it is. The bias falls with it.
        target_acceptance: Adjusted, the rate that a warm-up tunes h to; `None` leaves h as it is.
        adapt_mass: What a warm-up makes of the mass: `"diagonal"`, or `None` to leave it. A dense one is kept.
        max_leapfrog_steps: Bound on the steps of one transition, if adjusted.
        **options: `dtype`, `device`, `precision`.

    Note:
        Unadjusted, the bias of every expectation is O(h²): the variance of a standard normal density is too large by
        $h^2 / 12 (d - 1)$ of itself where h and L are small. One gradient a step, and one at the start; the energy
        error of a step is O(h³). Adjusted it is exact: $e^{-E}$ is invariant at any step size. About L / h gradients a
        transition, and one at the start. At temperature T, E / T takes the place of E. Of the integrators leapfrog was
        chosen, since it takes one gradient a step; those with two are more precise at twice the cost.

        A warm-up tunes h, L and M from all chains alike; an h or an L on a schedule stays on it. Since the speed is
        one, chains that start many widths away take many steps to arrive: begin near, or warm up for longer.

    References: Robnik, De Luca, Silverstein & Seljak (2023), https://arxiv.org/abs/2212.08549; Robnik, Cohn-Gordon &
    Seljak (2025), https://arxiv.org/abs/2503.01707; for the turn, Ver Steeg & Galstyan (2021),
    https://arxiv.org/abs/2111.02434

    Example:
        >>> from torchebm.core import GaussianModel
        >>> model = GaussianModel(torch.zeros(2), torch.tensor([[100.0, 0.0], [0.0, 0.01]]))
        >>> sampler = MicrocanonicalLangevin(model, metropolised=True)
        >>> x = sampler.sample(n_samples=64, n_steps=10, n_warmup=200, generator=torch.Generator().manual_seed(0))
        >>> bool(5 < x[:, 0].std() < 20), bool(0.05 < x[:, 1].std() < 0.2)
        (True, True)
        >>> sampler = MicrocanonicalLangevin(model)
        >>> state = sampler.warm_up(n_samples=64, n_steps=300, generator=torch.Generator().manual_seed(0))
        >>> sorted(sampler.tuning)
        ['decoherence_length', 'energy_var', 'mass', 'n_warmup', 'step_size']
    """

    can_reject = False
    tuned_parameter = "step_size"

    constructed = ("metropolised",)

    step_size = Scheduled(above=0.0)
    decoherence_length = Scheduled(above=0.0)
    desired_energy_var: Any = Setting(
        lambda value: None if value is None else number("desired_energy_var", value, above=0.0)
    )
    target_acceptance: Any = Setting(check_target_acceptance)
    adapt_mass: Any = Setting(lambda value: _diagonal_or_none(value))
    max_leapfrog_steps: Any = Setting(lambda value: integer("max_leapfrog_steps", value, at_least=1))

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.1,
                 decoherence_length: float | BaseScheduler | Callable[[int], float] = 1.0,
                 mass: float | Float[Tensor, "..."] | None = None, metropolised: bool = False, *,
                 desired_energy_var: float | None = 5e-4, target_acceptance: float | None = 0.9,
                 adapt_mass: Literal["diagonal"] | None = "diagonal", max_leapfrog_steps: int = 1000,
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        if not isinstance(metropolised, bool):
            raise TypeError(f"metropolised must be True or False; got {metropolised!r}.")
        self.step_size = step_size
        self.decoherence_length = decoherence_length
        self.mass = mass
        self.can_reject = metropolised
        if metropolised and desired_energy_var not in (None, 5e-4):
            raise TypeError("desired_energy_var is for metropolised=False; give target_acceptance.")
        if not metropolised and target_acceptance not in (None, 0.9):
            raise TypeError("target_acceptance is for metropolised=True; give desired_energy_var.")
        self.desired_energy_var = None if metropolised else desired_energy_var
        self.target_acceptance = target_acceptance if metropolised else None
        self.adapt_mass = adapt_mass
        self.max_leapfrog_steps = max_leapfrog_steps

    @property
    def metropolised(self) -> bool:
        """Whether trajectories are accepted or rejected."""
        return self.can_reject

    @property
    def steps_per_block(self) -> int | None:  # pyrefly: ignore[bad-override]
        """Trajectories with an accept test have lengths that the host decides."""
        return None if self.metropolised else 8

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        warmup = MicrocanonicalWarmup(self, n_warmup)
        return warmup if warmup.tuned_names() or warmup.tunes_mass else None

    def parameter_table(self, start: int, n_steps: int) -> dict[str, list[Any]]:
        table: dict[str, list[Any]] = dict(super().parameter_table(start, n_steps))
        if self.metropolised:
            lengths = zip(table["decoherence_length"], table["step_size"], strict=True)
            table["n_leapfrog_steps"] = [self.trajectory_steps(start + k, L / h) for k, (L, h) in enumerate(lengths)]
        return table

    def trajectory_steps(self, k: int, mean: float) -> int:
        """The leapfrog steps of transition `k`, from 0, if there shall be `mean` of them on average."""
        return min(self.max_leapfrog_steps, math.ceil(radical_inverse(k + 1) * max(1.0, 2 * mean - 1)))

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Heading | Evaluated:
        if x.shape[1:].numel() < 2:
            raise ValueError(
                f"{type(self).__name__} turns a direction, and needs events of two components or more; got events of "
                f"shape {list(x.shape[1:])}. For one component: HamiltonianMonteCarlo or UnderdampedLangevin."
            )
        self.metric(x)  # a mass that does not fit is refused before the model is evaluated
        if self.metropolised:
            return Evaluated(x, *target(x))
        direction = normalised(_wide(normal_(x.new_empty(x.shape), generator)))
        return Heading(x, *_evaluate(x, target), direction)

    def refresh(self, state: Heading | Evaluated, target: Target) -> Heading | Evaluated:
        energy, gradient = target(state.x) if self.metropolised else _evaluate(state.x, target)
        return state._replace(energy=energy, gradient=gradient)

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        return proposal_noise(x, n) if self.metropolised else super().noise(x, n)

    def step(self, state: Any, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor, decoherence_length: float | Tensor,
             n_leapfrog_steps: int | None = None) -> tuple[Heading | Evaluated, FlowInfo | TrajectoryInfo]:  # fmt: skip
        x, z = state.x, _wide(noise[0])
        metric = self.metric(z)
        if self.metropolised:
            n = n_leapfrog_steps or max(1, round(float(decoherence_length / step_size)))
            end, _, gain, magnified = isokinetic_leapfrog(
                x, normalised(z), state.gradient, target, metric, step_size, temperature, n
            )
            # Where a path climbs straighter than rounding can tell, and far enough to be turned round, rounding decides
            # where, and the way back is another one. Such directions are about as rare as rounding errors are small.
            lost_way = magnified > -0.75 * math.log(torch.finfo(gain.dtype).eps)
            error = torch.where(lost_way, torch.inf, _energy_error(state, end, gain, temperature))
            accepted, rate = accepts(-error, noise[1], state.energy, end.energy)
            taken = torch.full((len(x),), n, device=x.device)
            return select(accepted, end, state), TrajectoryInfo(rate, lost(-error), error, taken)
        kept, gained = decay(step_size / decoherence_length)
        u = normalised(per_chain(kept, z) * state.direction + per_chain(gained * x[0].numel() ** -0.5, z) * z)
        end, u, gain, _ = isokinetic_leapfrog(
            x, u, state.gradient, _evaluated(target), metric, step_size, temperature, 1
        )
        return Heading(*end, u), FlowInfo(end.x, _energy_error(state, end, gain, temperature))


class Path(NamedTuple):
    """Where leapfrog steps lead."""

    end: Evaluated
    direction: Float[Tensor, " chain *event"]
    gain: Float[Tensor, " chain"]
    """Of kinetic energy: minus the logarithm of what the map makes of a unit of volume, on space times sphere."""
    magnified: Float[Tensor, " chain"]
    """The largest of the logarithms by which turns magnified errors of their directions."""


def isokinetic_leapfrog(x: Float[Tensor, " chain *event"], u: Float[Tensor, " chain *event"],
                        gradient: Float[Tensor, " chain *event"], target: Callable[[Tensor], tuple[Tensor, Tensor]],
                        mass: Mass, step_size: float | Tensor, temperature: float | Tensor,
                        n_steps: int) -> Path:  # fmt: skip
    r"""Integrates $\dot x = M^{-1/2} u$, $\dot u = -(1 - u u^\top) M^{-1/2} \nabla E / (d - 1) T$.

    Args:
        x: Position.
        u: Direction, of length 1, in at least float32.
        gradient: Of the energy at x, so that n steps cost n gradients.
        target: Energy and gradient.
        mass: $M$, in the dtype of u.
        step_size: $h$.
        temperature: $T$.
        n_steps: Steps.

    Note: reversible, by $u \to -u$; an energy error of O(h³) a step.
    """
    whole = step_size / ((u[0].numel() - 1) * temperature)
    u, gain, magnified = turn(u, whiten(mass, gradient.to(u.dtype)), 0.5 * whole)
    energy = gradient
    for i in range(n_steps):
        move = per_chain(step_size, u) * mass.velocity(mass.momentum(u))
        x = x + move.to(x.dtype)
        energy, gradient = target(x)
        u, more, by = turn(u, whiten(mass, gradient.to(u.dtype)), whole if i < n_steps - 1 else 0.5 * whole)
        gain, magnified = gain + more, torch.maximum(magnified, by)
    return Path(Evaluated(x, energy, gradient), u, gain, magnified)


def turn(u: Float[Tensor, " chain *event"], gradient: Float[Tensor, " chain *event"], time: float | Tensor
         ) -> tuple[Float[Tensor, " chain *event"], Float[Tensor, " chain"], Float[Tensor, " chain"]]:  # fmt: skip
    r"""Turns directions downhill for a time, at a constant gradient: exactly, and for any size of the gradient.

    $\tan \tfrac{\theta'}2 = e^{-\delta} \tan \tfrac\theta2$ for the angle θ between u and $e = -g / |g|$, where
    $\delta = t |g|$; $\Delta K = (d - 1) \log(\cosh \delta + \cos \theta \sinh \delta)$.

    Args:
        u: Directions, of length 1.
        gradient: $g$.
        time: $t$.

    Returns:
        The directions, ΔK, and the lesser of δ and $\log \tan \tfrac\theta2$: the logarithm by which the error of a
        direction that went nearly straight uphill was magnified.
    """
    size, uphill = _polar(gradient)
    e, delta = -uphill, time * size  # where there is no gradient, e is 0 and nothing turns
    ahead, behind = 0.5 * sum_event((u + e).square()), 0.5 * sum_event((u - e).square())  # 1 + cos θ, 1 - cos θ
    cosine = 0.5 * (ahead - behind)
    steep = 0.5 * (behind.log() - ahead.log())
    log_tangent = steep - delta  # of half the new angle
    sideways = _polar(u - per_chain(cosine, u) * e)[1]
    along, across = -torch.tanh(log_tangent), 1 / torch.cosh(log_tangent)
    turned = normalised(per_chain(along, u) * e + per_chain(across, u) * sideways)
    # one form is precise where it is small, the other finite where it is large
    small = torch.log1p(cosine * torch.sinh(delta) + 2 * torch.sinh(0.5 * delta).square())
    large = delta - math.log(2) + torch.logaddexp(ahead.log(), behind.log() - 2 * delta)
    return turned, (u[0].numel() - 1) * torch.where(delta < 1, small, large), torch.minimum(steep, delta)


def normalised(t: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
    """Of length 1; 0 stays 0."""
    return _polar(t)[1]


def _polar(t: Float[Tensor, " chain *event"]) -> tuple[Float[Tensor, " chain"], Float[Tensor, " chain *event"]]:
    """Length and direction; squares are taken of numbers up to 1, since those of large ones overflow."""
    largest = t.flatten(1).abs().amax(1)
    largest = torch.where(largest > 0, largest, 1.0)
    t = t / per_chain(largest, t)
    length = sum_event(t.square()).sqrt()
    return largest * length, t / per_chain(torch.where(length > 0, length, 1.0), t)


def _diagonal_or_none(kind: str | None) -> str | None:
    if kind not in ("diagonal", None):
        raise ValueError(f'adapt_mass must be "diagonal" or None; got {kind!r}.')
    return kind


def _energy_error(old: Any, new: Any, gain: Tensor, temperature: float | Tensor) -> Tensor:
    """The change of energy over temperature, in the dtype of directions."""
    return ((new.energy - old.energy) / temperature).to(gain.dtype) + gain


def _evaluate(x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Energy and gradient; without an accept test there is no slope where the energy is not finite."""
    energy, gradient = target(x)
    return energy, gradient + per_chain((energy - energy).to(x.dtype), gradient)


def _evaluated(target: Target) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda x: _evaluate(x, target)


def _wide(t: Tensor) -> Tensor:
    """In at least float32."""
    return t.to(torch.promote_types(t.dtype, torch.float32))
