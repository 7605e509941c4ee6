"""Warm-up of microcanonical dynamics: step size, decoherence length, and diagonal mass, from all chains."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchebm.core.schedulers import ConstantScheduler
from torchebm.core.target import Target

from .estimation import DualAveraging, PooledMoments, find_step_size, is_live, mean_over, renewed_covariance, wide
from .hamiltonian import DenseMass, HamiltonianSampler, Mass, variances
from .warmup import Tuning, window_ends

__all__ = ["EnergyErrorControl", "MicrocanonicalWarmup", "autocorrelation_time"]


class EnergyErrorControl:
    r"""Sets a step size such that the energy error of a step has the desired mean square for each dimension.

    The error of one step is of order $h^3$, so that each observation $\xi = \Delta^2 / d v$, v being what is desired,
    estimates the step size as $h \xi^{-1/6}$. The estimate is $(\sum w \xi / h^6 \,/ \sum w)^{-1/6}$ over chains and
    transitions, with weights $w = e^{-\frac12 (\log \xi / 9)^2}$ that distrust far extrapolations, and that decay with
    the age of the transition.

    Args:
        step_size: Where to start.
        target: $v$.
        dim: $d$.
        like: The chains, for number and device.

    References: Robnik, De Luca, Silverstein & Seljak (2023), https://arxiv.org/abs/2212.08549
    """

    memory = 150.0  # in steps of one chain
    least_memory = 25.0  # in transitions, so that many chains do not follow what a few of them met just now

    def __init__(self, step_size: float, target: float, dim: int, like: Float[Tensor, " chain *event"]) -> None:
        self.scale = dim * target
        memory = max(self.least_memory, self.memory / max(1, len(like)))
        self.decay = (memory - 1) / (memory + 1)
        self.sum = torch.zeros((), dtype=wide(like), device=like.device)
        self.weight = self.sum
        self.step_size = self.sum + step_size

    def update(self, error: Float[Tensor, " chain"], live: Bool[Tensor, " chain"]) -> None:
        """Takes note of one step at `step_size`; errors that are not finite do not count."""
        xi = error.to(self.sum.dtype).square() / self.scale + 1e-8
        weight = torch.where(live & xi.isfinite(), torch.exp(-0.5 * (xi.log() / 9).square()), 0.0)
        xi = torch.where(weight > 0, xi, 0.0)
        self.sum = self.decay * self.sum + (weight * xi).sum() / self.step_size**6
        self.weight = self.decay * self.weight + weight.sum()
        self.step_size = torch.where(self.weight > 0, (self.sum / self.weight) ** (-1 / 6), self.step_size)

    @property
    def average(self) -> Float[Tensor, ""]:
        """For all steps after the last."""
        return self.step_size


class StandingStep:
    """In the place of what tunes a step size, where nothing does.

    Args:
        step_size: As it is.
    """

    def __init__(self, step_size: float) -> None:
        self.step_size = self.average = step_size

    def update(self, *observed: Tensor) -> None:
        """Learns nothing."""


class MicrocanonicalWarmup(Tuning):
    r"""Tunes the step size, the decoherence length and the diagonal mass of `MicrocanonicalLangevin`.

    The mass comes from the variances of all chains, in windows that double, as in the warm-up of Hamiltonian samplers.
    The decoherence length is first the root of the sum of the variances in the coordinates of the mass, which is
    $\sqrt d$ where the mass is tuned. Unadjusted, the step size follows the energy error throughout; over the last
    third of the warm-up it stands still, and the length becomes $0.4\,h \tau$, τ being the autocorrelation time in
    steps, averaged over the components. Adjusted, the step size is found by dual averaging to the target acceptance
    rate at a mean number of steps that is set anew, to L / h, where windows end and after 5, 10, 20, ... transitions
    more.

    Args:
        sampler: A `MicrocanonicalLangevin`.
        n_warmup: Transitions to come. From fewer than 20 only the step size is learned, and from fewer than 28 no mass
            if unadjusted.

    Note: A warm-up starts from what the user gave, not from what an earlier one found. The host reads tensors where
    windows end, and where the number of steps is set, not in between. Of an event, up to 256 components, and up to 64
    chains are kept to measure autocorrelations.

    References: Robnik, De Luca, Silverstein & Seljak (2023), https://arxiv.org/abs/2212.08549; Robnik, Cohn-Gordon &
    Seljak (2025), https://arxiv.org/abs/2503.01707; for the first mass, Seyboldt, Carlson & Carpenter (2026),
    https://arxiv.org/abs/2603.18845
    """

    share = 0.4  # of the autocorrelation length, that is the decoherence length

    def __init__(self, sampler: HamiltonianSampler, n_warmup: int) -> None:
        kernel: Any = sampler
        constant = {name: isinstance(s, ConstantScheduler) for name, s in sampler.schedulers.items()}
        wanted = kernel.target_acceptance if kernel.metropolised else kernel.desired_energy_var
        self.tunes_step = constant["step_size"] and wanted is not None
        self.tunes_length = constant["decoherence_length"]
        super().__init__(sampler, n_warmup)

    def tuned_names(self) -> list[str]:
        tuned = {"step_size": self.tunes_step, "decoherence_length": self.tunes_length}
        return [name for name in tuned if tuned[name]]

    @property
    def tunes_mass(self) -> bool:
        return self.sampler.adapt_mass is not None

    def begin(self, state: Any, target: Target, generator: torch.Generator | None) -> tuple[Any, dict[str, Any]]:
        self._write(self._given)
        sampler, x = self.sampler, state.x
        self._target, self._generator, self._dim = target, generator, x.shape[1:].numel()
        metric = sampler.metric(x)
        measures = self.tunes_length and not sampler.metropolised
        tail = round(0.3 * self.n_warmup) if measures else 0
        self._ends, self._tail = window_ends(self.n_warmup - tail, len(x)), self.n_warmup - tail
        self._renews_mass = self.tunes_mass and not isinstance(metric, DenseMass) and bool(self._ends)
        self._looks = set() if self._ends else self._later(0)
        self._draws: list[Tensor] = []
        self._alive = self._some(is_live(state))
        self._square = torch.zeros((), dtype=wide(x), device=x.device)
        self._i, self._counted = 0, 0
        self._length = float(sampler.schedulers["decoherence_length"].value(0))
        self._variance = variances(metric, x).to(wide(x))
        self._fast = True
        self._open_window(state)
        if self._slopes is not None and len(x) >= 8:
            self._note(state)
            self._renew_mass(state)
            self._open_window(state)
        self._restart(state, float(sampler.schedulers["step_size"].value(0)))
        return state, self._parameters()

    def update(self, i: int, state: Any, info: Any) -> tuple[Any, dict[str, Any]]:
        live = is_live(state)
        self._i = i + 1
        self._control(i, info, live)
        if self._ends:
            self._note(state)
            if i + 1 == self._ends[0]:
                del self._ends[0]
                self._close_window(state)
        elif self._tail <= i and self._tail < self.n_warmup:
            self._draws.append(self._some(state.x).flatten(1)[:, :: -(-self._dim // 256)].clone())
            self._alive = self._alive & self._some(live)
        if i + 1 in self._looks:
            self._mean_steps = self._length / float(self._steps.average)
        return state, self._parameters()

    def finish(self) -> None:
        h = float(self._steps.average)
        found = {"step_size": ConstantScheduler(h)} if self.tunes_step else {}
        if self.tunes_length and self.n_warmup >= 20:
            found["decoherence_length"] = ConstantScheduler(self._decoherence_length(h))
        reached = "acceptance_rate" if self.sampler.metropolised else "energy_var"
        rate = float(self._square) / max(1, self._counted)
        self._keep(found, {"mass": "diagonal" if self._renews_mass else None, reached: rate})

    # step size and length ---------------------------------------------------------------------------------------------

    def _control(self, i: int, info: Any, live: Bool[Tensor, " chain"]) -> None:
        """Takes note of one transition's acceptance rate, or energy errors."""
        if self.sampler.metropolised:
            rate = mean_over(live, torch.where(info.acceptance_rate.isfinite(), info.acceptance_rate, 0.0))
            self._steps.update(rate)
            self._square, self._counted = self._square + rate, self._counted + 1
            return
        error = info.energy_error
        if i < self._tail:
            self._steps.update(error, live)
        if i >= self._tail or self._tail == self.n_warmup:
            finite = live & error.isfinite()
            self._square = self._square + mean_over(finite, error.square()) / self._dim
            self._counted += 1

    def _parameters(self) -> dict[str, Any]:
        """For the next transition."""
        now: dict[str, Any] = {"step_size": self._steps.step_size} if self.tunes_step else {}
        if self.tunes_length:
            now["decoherence_length"] = self._length
        if self.sampler.metropolised:
            now["n_leapfrog_steps"] = self.sampler.trajectory_steps(self._i, self._mean_steps)
        return now

    def _restart(self, state: Any, step_size: float) -> None:
        """Begins anew to learn the step size, from one that is near."""
        sampler = self.sampler
        if not self.tunes_step:
            self._steps: Any = StandingStep(float(sampler.schedulers["step_size"].value(0)))
            self._mean_steps = self._length / self._steps.step_size
            return
        if not sampler.metropolised:
            self._steps = EnergyErrorControl(step_size, sampler.desired_energy_var, self._dim, state.x)
            return
        noise = tuple(buffer[0] for buffer in sampler.noise(state.x, 1))
        sampler.draw(noise, self._generator)
        live, L = is_live(state), self._length

        def acceptance(h: float) -> float:
            n = min(sampler.max_leapfrog_steps, max(1, round(L / h)))
            options = {"step_size": h, "decoherence_length": L, "n_leapfrog_steps": n}
            rates = sampler.step(state, noise, self._target, **options)[1].acceptance_rate
            return float(mean_over(live, torch.where(rates.isfinite(), rates, 0.0)))

        step_size = find_step_size(acceptance, step_size, sampler.target_acceptance)
        self._steps = DualAveraging(step_size, sampler.target_acceptance, state.x)
        self._mean_steps = L / step_size
        self._square, self._counted = torch.zeros_like(self._square), 0

    def _later(self, start: int) -> set[int]:
        """Where the number of steps follows the step size, after `start`."""
        return {start + 5 * 2**k for k in range(20)} if self.sampler.metropolised else set()

    def _decoherence_length(self, h: float) -> float:
        if not self._draws:
            return self._length
        tau = autocorrelation_time(torch.stack(self._draws)[:, self._alive].to(self._square.dtype))
        return self.share * h * tau if math.isfinite(tau) else self._length

    def _some(self, t: Tensor) -> Tensor:
        """Some of the chains, evenly chosen: enough to measure autocorrelations."""
        return t[:: max(1, -(-len(t) // 64))]

    # mass -------------------------------------------------------------------------------------------------------------

    def _open_window(self, state: Any) -> None:
        self._moments = PooledMoments(state.x)
        sloped = self._fast and bool(self._ends) and self._renews_mass and self._given["mass"] is None
        self._slopes = PooledMoments(state.x) if sloped else None

    def _note(self, state: Any) -> None:
        live = is_live(state)
        x = state.x if self._renews_mass else _rescaled(self.sampler.metric(state.x), state.x)
        self._moments.add(x, live)
        if self._slopes is not None:
            self._slopes.add(state.gradient, live)

    def _close_window(self, state: Any) -> None:
        """The mass and the length follow from the window, and the step size is learned anew."""
        h, before = float(self._steps.average), self._variance
        if not self._renews_mass:
            self._set_length(math.sqrt(float(self._moments.covariance.sum())))
        elif not self._fast or self._slopes is not None:
            self._renew_mass(state)
        if not self.sampler.metropolised:  # where coordinates are stretched, so are steps
            h *= math.sqrt(float((before / self._variance).mean()))
        self._restart(state, h)
        self._fast = False
        self._open_window(state)
        self._looks = self._later(self._i)

    def _renew_mass(self, state: Any) -> None:
        self._variance = renewed_covariance(self._moments, self._slopes, self._variance)
        self._set_length(math.sqrt(self._dim))
        dtype = torch.promote_types(state.x.dtype, torch.float32)
        self.sampler.mass = (1 / self._variance).to(dtype).view(state.x.shape[1:])

    def _set_length(self, length: float) -> None:
        """Unless it is on a schedule, or says nothing."""
        if self.tunes_length and length:
            self._length = length


def autocorrelation_time(draws: Float[Tensor, "draw chain component"]) -> float:
    r"""$\tau = 1 + 2 \sum_{t > 0} \rho_t$ in draws, averaged over the components that vary.

    Autocovariances are about the mean of all chains, and averaged over them; the sum ends where pairs of neighbouring
    lags no longer add up to something positive, and pairs are made to fall. Chains that are not finite do not count.

    References: Geyer (1992), https://doi.org/10.1214/ss/1177011137
    """
    draws = draws[:, draws.isfinite().all(2).all(0)]
    n = len(draws)
    if n < 4 or draws.shape[1] == 0:
        return math.nan
    centred = draws - draws.mean((0, 1))
    waves = torch.fft.rfft(centred, n=2 * n, dim=0)
    covariance = torch.fft.irfft(waves.abs().square(), n=2 * n, dim=0)[:n].mean(1)  # [lag, component]
    varies = covariance[0] > 0
    if not bool(varies.any()):
        return math.nan
    correlation = covariance[:, varies] / covariance[0, varies]
    pairs = correlation[: n // 2 * 2].view(n // 2, 2, -1).sum(1)
    positive = (pairs > 0).cumprod(0)
    return float((2 * (pairs.cummin(0).values * positive).sum(0) - 1).mean())


def _rescaled(metric: Mass, x: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
    r"""In the coordinates that the mass makes of x: those in which directions have one length."""
    if isinstance(metric, DenseMass):
        return (x.flatten(1) @ metric.factor).view_as(x)  # rows: (L^T x)^T
    return x * metric.momentum(torch.ones_like(x[:1]))
