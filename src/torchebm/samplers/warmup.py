"""Warm-up: step size by dual averaging, mass from the moments of all chains in windows that double."""

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchebm.core.checks import number
from torchebm.core.markov import MarkovSampler
from torchebm.core.random import normal_, randint
from torchebm.core.schedulers import ConstantScheduler
from torchebm.core.target import Target

from .estimation import (
    DualAveraging,
    PooledMoments,
    find_step_size,
    finite_rates,
    is_live,
    mean_over,
    renewed_covariance,
    wide,
)
from .hamiltonian import DenseMass, kinetic, leapfrog, variances

__all__ = ["MassKind", "PreconditionerWarmup", "Tuning", "Warmup", "window_ends"]

MassKind = Literal["diagonal", "dense"]


def window_ends(n_warmup: int, n_chains: int) -> list[int]:
    """Transitions after which the mass is renewed: the end of a fast phase, then those of windows that double.

    Stan's schedule: 75 transitions for the step size alone, windows of 25, 50, 100, ... and 50 for the step size at
    the last mass. Shorter warm-ups give 15 % to each end, and 12 at least to the last, since a step size is far off
    after fewer; many chains fill a window sooner than one. Below 20 transitions there is no fast phase, and nothing to
    estimate a mass from.
    """
    if n_warmup < 20:
        return []
    fast, final = min(75, round(0.15 * n_warmup)), min(50, max(12, round(0.15 * n_warmup)))
    last = n_warmup - final
    window = min(25, max((last - fast) // 7, -(-200 // n_chains)))
    ends = [fast]
    while ends[-1] + 3 * window <= last:
        ends.append(ends[-1] + window)
        window *= 2
    return [*ends, last]


class Tuning:
    """What warm-ups share: they begin with what the user gave, and write to the sampler what they find.

    Args:
        sampler: Whose parameters.
        n_warmup: Transitions to come.
    """

    scale = "mass"
    """The attribute of the sampler that holds it."""

    def __init__(self, sampler: MarkovSampler, n_warmup: int) -> None:
        self.sampler: Any = sampler
        self.n_warmup = n_warmup
        self._before = self._values()
        self._given = {name: given(sampler, name, value) for name, value in self._before.items()}

    def abandon(self) -> None:
        self._write(self._before)

    def tuned_names(self) -> list[str]:
        """Scheduled parameters that change."""
        raise NotImplementedError

    @property
    def tunes_mass(self) -> bool:
        """Whether a mass is estimated."""
        raise NotImplementedError

    def _values(self) -> dict[str, Any]:
        scale = {self.scale: getattr(self.sampler, self.scale)} if self.tunes_mass else {}
        return {name: self.sampler.schedulers[name] for name in self.tuned_names()} | scale

    def _write(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self.sampler, name, value)

    def _keep(self, found: dict[str, ConstantScheduler], report: dict[str, Any]) -> None:
        """Writes what was found, with what was given before, and the summary."""
        self._write(found)
        made = {name: (value, self._given[name]) for name, value in self._values().items()}
        self.sampler.untuned = {**self.sampler.untuned, **made}
        values = {name: value.start_value for name, value in found.items()}
        self.sampler.tuning = values | report | {"n_warmup": self.n_warmup}


class Warmup(Tuning):
    """Tunes the parameter that a sampler names in `tuned_parameter` to its `target_acceptance`, and its mass.

    Each is tuned whatever becomes of the other: a parameter on a schedule, or without a target, stays as it is.

    All chains count alike: the acceptance rate of a transition is their mean, and the mass comes from their pooled
    draws. Chains that stand where the energy is not finite are left out. The host reads tensors at the start, where
    windows end, and at the end, not in between.

    Args:
        sampler: Whose parameters, and whose mass if it has one.
        n_warmup: Transitions to come.
        mass: What is estimated; `None` leaves the mass as it is.

    Note: A warm-up starts from what the user gave, not from what an earlier one found, so that a generator gives the
    same bits again. In the fast phase each chain has a step size of its own: chains start where the energy is steep by
    orders of magnitude more for one than for another, and a step for all of them would leave the steepest behind. The
    mass of the fast phase, renewed in its middle, is the square root of var ∇E / var x, which is right for an
    uncorrelated normal density wherever the chains are, so that a start far away, or widths that differ by many orders,
    do not spoil the windows that follow. Only the half of the chains with the lower energies counts for it: others may
    be where gradients are of another order. A chain that is in a region of next to no mass when the fast phase, or a
    window after it, ends (a minor mode, far above the others) begins again where another is; `n_restarted` counts.

    References: Carpenter et al. (2017), https://doi.org/10.18637/jss.v076.i01, and the Stan reference manual; for the
    first mass, Seyboldt, Carlson & Carpenter (2026), https://arxiv.org/abs/2603.18845
    """

    def __init__(self, sampler: MarkovSampler, n_warmup: int, mass: MassKind | None = None) -> None:
        self.mass, self.tunes_step = mass, tunable(sampler)
        self.name, self.target_acceptance = cast(str, sampler.tuned_parameter), cast(float, sampler.target_acceptance)
        super().__init__(sampler, n_warmup)

    def begin(self, state: Any, target: Target, generator: torch.Generator | None) -> tuple[Any, dict[str, Any]]:
        self._write(self._given)
        self.n_done, self._dtype = 0, state.x.dtype
        self._target, self._generator = target, generator
        ends = window_ends(self.n_warmup, len(state.x))
        self._ends = [ends[0] // 2, *(ends if self.mass else ends[:1])] if ends else []
        self._n_fast = 2 if ends else 0  # windows of the fast phase that are not over
        if self.mass:
            self.variance = self.in_force(state.x).to(wide(state.x))  # [d]
        self._arrears = torch.zeros(len(state.x), dtype=wide(state.x), device=state.x.device)
        self._comparable, self.n_restarted = comparable(target, len(state.x)), 0
        self._passed_over = self._high(state, fast=True)
        self.patience = 3 / self.target_acceptance if self.tunes_step else math.inf
        self._open_window(state)
        if self._slopes is not None and len(state.x) >= 8:
            self._note(state)
            self._renew_mass(state.x)
            self._open_window(state)
        self._restart(state, float(self.sampler.schedulers[self.name].value(0)))
        return state, self.parameters()

    def update(self, i: int, state: Any, info: Any) -> tuple[Any, dict[str, Any]]:
        live, self.n_done = is_live(state), i + 1
        closes = i + 1 in self._ends[:1]
        fast = self._n_fast > closes  # the last of its windows is closed as the later ones are
        if self._ends:
            self._passed_over = self._high(state, fast)
        if self.tunes_step and self.in_fast_phase:
            acceptance = torch.where(live, finite_rates(info), self.target_acceptance)
        else:
            acceptance = self.acceptance(info, live & ~self.apart)
        if self.tunes_step:
            self.dual.update(acceptance)
        self._reached, self._n_seen = self._reached + acceptance, self._n_seen + 1
        if self._ends:
            if self.tunes_step and not self.in_fast_phase:
                self._look_behind(info, live)
            self._note(state)
            if closes:
                del self._ends[0]
                heeded = live & ~self._passed_over
                state = state if fast else self._restart_lost(state)
                self._close_window(state, heeded)
        return state, self.parameters()

    def finish(self) -> None:
        found = {self.name: ConstantScheduler(float(self.dual.average))} if self.tunes_step else {}
        rate = float(self._reached / max(1, self._n_seen))
        report = {self.scale: self.mass, "acceptance_rate": rate, "n_restarted": self.n_restarted}
        self._keep(found | self.found(), report)

    # what a subclass may do otherwise ---------------------------------------------------------------------------------

    def acceptance(self, info: Any, live: Bool[Tensor, " chain"]) -> Float[Tensor, ""]:
        """What is steered to the target: the mean over chains; what is not finite counts as 0."""
        return mean_over(live, finite_rates(info))

    def parameters(self) -> dict[str, Any]:
        """For the next transition."""
        return {self.name: self.step_size} if self.tunes_step else {}

    def found(self) -> dict[str, ConstantScheduler]:
        """Scheduled parameters to keep, beside the step size."""
        return {}

    def tuned_names(self) -> list[str]:
        return [self.name] if self.tunes_step else []

    def in_force(self, x: Tensor) -> Float[Tensor, " d"]:
        """What the mass that was given takes for the variances of x; one that is dense is kept dense."""
        metric = self.sampler.metric(x)
        self.mass = "dense" if isinstance(metric, DenseMass) else self.mass
        return variances(metric, x)

    def as_scale(self, covariance: Tensor, event: torch.Size) -> Tensor:
        """A mass, from a covariance or variances."""
        if covariance.ndim == 2:
            return torch.cholesky_inverse(torch.linalg.cholesky(covariance)).contiguous()
        return (1 / covariance).view(event)

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def tunes_mass(self) -> bool:
        return self.mass is not None

    @property
    def in_fast_phase(self) -> bool:
        """Before the first window, while the mass is a first guess and each chain has its own step size."""
        return self._n_fast > 0

    @property
    def step_size(self) -> Float[Tensor, "*chain"]:
        """In force: one a chain, and in the final phase a number."""
        if not self._ends:
            return self.dual.step_size
        halvings = (self._arrears - self.patience).clamp(min=0)
        return (self.dual.step_size * 0.5**halvings).to(self._dtype)

    @property
    def straggling(self) -> Bool[Tensor, " chain"]:
        """Chains that are on smaller steps than the others: what they do says nothing about the step size of all."""
        return self._arrears > self.patience

    @property
    def apart(self) -> Bool[Tensor, " chain"]:
        """Chains that what all share does not heed."""
        return self.straggling | self._passed_over

    def _high(self, state: Any, fast: bool) -> Bool[Tensor, " chain"]:
        """Chains to pass over for their energy: in the fast phase the upper half, later those that are lost."""
        if not self._comparable:
            return torch.zeros(len(state.x), dtype=torch.bool, device=state.x.device)
        live = is_live(state)
        return state.energy > median_energy(state, live) if fast else lost(state, live)

    def _restart_lost(self, state: Any) -> Any:
        """Lost chains go to where others are, each to a place that is drawn at random."""
        gone = self._passed_over
        if not bool(gone.any()):
            return state
        places = (~gone).nonzero()[:, 0]
        drawn = randint(len(places), (int(gone.sum()),), generator=self._generator, device=places.device)
        index = torch.arange(len(gone), device=places.device)
        index[gone] = places[drawn]
        self.n_restarted += len(drawn)
        self._arrears = torch.where(gone, 0.0, self._arrears)
        self._passed_over = torch.zeros_like(gone)
        return type(state)(*(leaf[index] for leaf in state))

    def _look_behind(self, info: Any, live: Bool[Tensor, " chain"]) -> None:
        """Takes note of chains that accept less than three quarters of what is due, a rejection counting as 1."""
        arrears = self._arrears + (1 - finite_rates(info) / (0.75 * self.target_acceptance))
        self._arrears = torch.where(live, arrears.clamp(0, self.patience + 30), 0.0)

    def _open_window(self, state: Any) -> None:
        """Moments of x, and in the fast phase those of the gradient, unless the user knew a mass to start from."""
        dense = self.mass == "dense" and not self.in_fast_phase
        self._moments = PooledMoments(state.x, dense) if self.mass and self._ends else None
        sloped = self._moments is not None and self.in_fast_phase and self._given[self.scale] is None
        self._slopes = PooledMoments(state.x) if sloped else None

    def _close_window(self, state: Any, heeded: Bool[Tensor, " chain"]) -> None:
        if self.mass and (not self.in_fast_phase or self._slopes is not None):
            self._renew_mass(state.x)
        self._n_fast = max(0, self._n_fast - 1)
        step_size = self.first_step
        if self.tunes_step:
            average = self.dual.average
            step_size = float(average[heeded].median() if average.ndim else average)
        self._restart(state, step_size)
        self._open_window(state)

    def _note(self, state: Any) -> None:
        live = is_live(state) & ~self.apart
        if self._moments is not None:
            self._moments.add(state.x, live)
        if self._slopes is not None:
            self._slopes.add(state.gradient, live)

    def _renew_mass(self, x: Tensor) -> None:
        covariance = renewed_covariance(cast(PooledMoments, self._moments), self._slopes, self.variance)
        self.variance = covariance.diagonal() if covariance.ndim == 2 else covariance
        scale = self.as_scale(covariance, x.shape[1:])
        setattr(self.sampler, self.scale, scale.to(torch.promote_types(x.dtype, torch.float32)))

    def _restart(self, state: Any, step_size: float) -> None:
        """The search, and dual averaging from there."""
        if self.tunes_step:
            step_size = find_step_size(self._trial(state), step_size, self.target_acceptance)
            self.dual = DualAveraging(step_size, self.target_acceptance, state.x)
            if not self._ends:
                self._arrears = torch.zeros_like(self._arrears)
        self.first_step = step_size
        self._reached, self._n_seen = torch.zeros((), dtype=wide(state.x), device=state.x.device), 0

    def _trial(self, state: Any) -> Callable[[float], float]:
        """`step size -> acceptance rate` of one transition, or leapfrog, with the same noise for each."""
        sampler, target, live = self.sampler, self._target, is_live(state) & ~self._passed_over
        if hasattr(sampler, "metric"):
            metric, dtype = sampler.metric(state.x), torch.promote_types(state.x.dtype, torch.float32)
            p = metric.momentum(normal_(state.x.new_empty(state.x.shape), self._generator))

            def rate(h: float) -> Tensor:
                _, q, energy, _ = leapfrog(state.x, p, state.gradient, target, metric, h, h, 1)
                gain = kinetic(metric, q, dtype) - kinetic(metric, p, dtype)
                return (state.energy - energy - gain).clamp(max=0).exp()
        else:
            noise = tuple(buffer[0] for buffer in sampler.noise(state.x, 1))
            sampler.draw(noise, self._generator)
            others = {name: values[0] for name, values in sampler.parameter_table(0, 1).items() if name != self.name}

            def rate(h: float) -> Tensor:
                return sampler.step(state, noise, target, **{self.name: h}, **others)[1].acceptance_rate

        def acceptance(h: float) -> float:
            rates = rate(h)
            return float(mean_over(live, torch.where(rates.isfinite(), rates, 0.0)))

        return acceptance


class PreconditionerWarmup(Warmup):
    """The same, for a sampler whose `preconditioner` holds the variances of x."""

    scale = "preconditioner"

    def in_force(self, x: Tensor) -> Float[Tensor, " d"]:
        return x.new_ones(x.shape[1:].numel())

    def as_scale(self, covariance: Tensor, event: torch.Size) -> Tensor:
        return covariance.view(event)


def check_target_acceptance(rate: float | None) -> float | None:
    """A rate that can be reached from both sides, or none."""
    if rate is not None and number("target_acceptance", rate, above=0.0) >= 1:
        raise ValueError(f"target_acceptance must be less than 1; got {rate:g}.")
    return None if rate is None else float(rate)


def check_mass_kind(kind: str | None) -> MassKind | None:
    """Refuses a kind of mass that nobody estimates."""
    if kind not in ("diagonal", "dense", None):
        raise ValueError(f'adapt_mass must be "diagonal", "dense" or None; got {kind!r}.')
    return cast(MassKind | None, kind)


def comparable(target: Target, n_chains: int) -> bool:
    """Whether all chains have one target: a condition may differ from chain to chain."""
    values = target.model_kwargs.values()
    return not any(isinstance(value, Tensor) and value.ndim and len(value) == n_chains for value in values)


def median_energy(state: Any, live: Bool[Tensor, " chain"]) -> Float[Tensor, ""]:
    """Over the chains where `live` holds; the lower one of two."""
    return torch.where(live, state.energy, torch.nan).nanmedian()


def lost(state: Any, live: Bool[Tensor, " chain"]) -> Bool[Tensor, " chain"]:
    r"""Chains in regions of next to no mass, but never all of them.

    First, those where the energy is not finite, or so far above the lowest that a difference of 1 is lost in rounding.
    Then a minority of the others, with energies above their median by more than 20 + 14 d in d dimensions: a region
    weighs e^(-energy) times its volume, so that one that is wider by a factor of a million in every direction would
    still weigh $e^{-20}$ of the median's.
    """
    energy = torch.where(live, state.energy, torch.inf)
    sound = energy - energy.min() < 1 / torch.finfo(energy.dtype).eps
    above = energy > median_energy(state, sound) + 20 + 14 * state.x[0].numel()
    minority = 2 * (above & sound).sum() < sound.sum()
    return ~sound | (above & minority)


def tunable(sampler: MarkovSampler) -> bool:
    """Whether there is a parameter to tune: one with a target, that is not on a schedule of its own."""
    names = sampler.tuned_parameter, sampler.target_acceptance
    return None not in names and isinstance(sampler.schedulers[str(names[0])], ConstantScheduler)


def given(sampler: MarkovSampler, name: str, value: Any) -> Any:
    """What the user gave, where `value` is what an earlier warm-up made of it."""
    made, given = sampler.untuned.get(name, (None, None))
    return given if made is value and made is not None else value
