"""Hamiltonian Monte Carlo with a path length that is learned across chains."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.checks import integer
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler, ConstantScheduler
from torchebm.core.shapes import select, sum_event
from torchebm.core.target import Target

from .acceptance import Evaluated
from .estimation import is_live, wide
from .hamiltonian import radical_inverse, squared_length
from .hmc import TrajectorySampler
from .warmup import MassKind, Warmup, tunable

__all__ = ["ChEESHamiltonianMonteCarlo"]


class PathInfo(NamedTuple):
    """What a transition reports, with the end of its trajectory, which the path length is learned from."""

    acceptance_rate: Float[Tensor, " chain"]
    diverging: Bool[Tensor, " chain"]
    n_steps: Int[Tensor, " chain"]
    """Leapfrog steps."""
    x: Float[Tensor, " chain *event"]
    """The proposal, accepted or not."""
    p: Float[Tensor, " chain *event"]
    """Its momentum."""


class ChEESHamiltonianMonteCarlo(TrajectorySampler):
    r"""Hamiltonian Monte Carlo that finds its own path length: the choice for many chains in lockstep.

    Transition k integrates for $u_k T$ with $u_k = \tfrac12, \tfrac14, \tfrac34, \tfrac18, \dots$ (Halton's sequence),
    in $\lceil u_k T / h \rceil$ leapfrog steps, the same for all chains. A warm-up maximises over T the change in the
    estimator of the expected square, $\tfrac14\, \mathrm E (\lVert x' - \mathrm E x \rVert^2 - \lVert x - \mathrm E x
    \rVert^2)^2$ with distances in units of the mass, by stochastic gradient ascent over all chains, while it tunes step
    size and mass.

    Args:
        model: The energy.
        step_size: $h$.
        path_length: $T$, the longest path, in units where the mass is 1; half of it is the mean.
        mass: $M$, as for `HamiltonianMonteCarlo`.
        max_leapfrog_steps: Bound on the steps of one transition.
        target_acceptance: The rate that a warm-up tunes $h$ to: the harmonic mean over chains; `None` leaves $h$ as it
            is.
        adapt_mass: What a warm-up makes of the mass: `"diagonal"`, `"dense"` or `None` to leave it.
        **options: `dtype`, `device`, `precision`.

    Note:
        Exact, at any h and T, once the warm-up is over. About T / 2h gradients a transition. A warm-up needs two chains
        or more, some dozens as a rule; it reads two numbers on the host for each transition. Without one, h and T stay
        as given, and so does, with one, what is on a schedule: the warm-up runs at the schedule's first value.

    References: Hoffman, Radul & Sountsov (2021), http://proceedings.mlr.press/v130/hoffman21a.html

    Example:
        >>> from torchebm.core import GaussianModel
        >>> model = GaussianModel(torch.zeros(2), torch.tensor([[100.0, 0.0], [0.0, 0.01]]))
        >>> sampler = ChEESHamiltonianMonteCarlo(model)
        >>> x = sampler.sample(n_samples=64, n_steps=10, n_warmup=200, generator=torch.Generator().manual_seed(0))
        >>> bool(5 < x[:, 0].std() < 20), bool(0.05 < x[:, 1].std() < 0.2)
        (True, True)
    """

    step_size = Scheduled(above=0.0)
    path_length = Scheduled(above=0.0)
    max_leapfrog_steps: Any = Setting(lambda value: integer("max_leapfrog_steps", value, at_least=1))

    steps_per_block = None

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.1,
                 path_length: float | BaseScheduler | Callable[[int], float] = 1.0,
                 mass: float | Float[Tensor, "..."] | None = None, *, max_leapfrog_steps: int = 1000,
                 target_acceptance: float | None = 0.8, adapt_mass: MassKind | None = "diagonal",
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.path_length = path_length
        self.mass = mass
        self.max_leapfrog_steps = max_leapfrog_steps
        self.target_acceptance = target_acceptance
        self.adapt_mass = adapt_mass

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        something = self.adapt_mass or tunable(self) or learnable(self)
        return PathLengthWarmup(self, n_warmup, self.adapt_mass) if something else None

    def parameter_table(self, start: int, n_steps: int) -> dict[str, list[Any]]:
        table = super().parameter_table(start, n_steps)
        longest = table["path_length"]
        table["path_length"] = [radical_inverse(start + k + 1) * longest[k] for k in range(n_steps)]
        return table

    def step(self, state: Evaluated, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor, path_length: float,
             n_leapfrog_steps: int | None = None) -> tuple[Evaluated, PathInfo]:  # fmt: skip
        n_steps = n_leapfrog_steps or min(self.max_leapfrog_steps, max(1, math.ceil(path_length / step_size)))
        end, p, accepted, info = self.propose(state, noise[0], noise[1], target, temperature, step_size, n_steps)
        return select(accepted, end, state), PathInfo(*info, end.x, p)


class PathLengthWarmup(Warmup):
    r"""Learns the path length with step size and mass.

    The gradient of the criterion with respect to $\log T$ is estimated by the mean over chains, weighted by their
    acceptance rates, of $\tau\,(\lVert x' - \bar x' \rVert_M^2 - \lVert x - \bar x \rVert_M^2)\,(x' - \bar x')^\top p'$
    for a path of length τ, and followed by Adam, which sees only its sign and relative size.
    """

    rate, decay = 0.025, 0.95  # of Adam, without momentum
    quarter = math.pi / 2  # a quarter period where the density is normal and the mass fits

    def __init__(self, sampler: MarkovSampler, n_warmup: int, mass: MassKind | None = None) -> None:
        self.tunes_path = learnable(sampler)
        super().__init__(sampler, n_warmup, mass)

    def begin(self, state: Any, target: Target, generator: torch.Generator | None) -> tuple[Any, dict[str, Any]]:
        if len(state.x) < 2 and self.tunes_path:
            raise ValueError(
                f"{type(self.sampler).__name__} learns its path length across chains, and needs two or more of them in "
                f"its warm-up, some dozens as a rule; got {len(state.x)}. For one chain: NoUTurnSampler."
            )
        self._write(self._given)
        self._i, self._x = 0, state.x
        scaled = self.tunes_path and self.mass is not None and self._given["mass"] is None
        first = self.quarter if scaled else self.sampler.schedulers["path_length"].value(0)
        self._square = torch.zeros((), dtype=wide(state.x), device=state.x.device)
        self._log_length = self._log_average = self._square + math.log(first)
        return super().begin(state, target, generator)

    def update(self, i: int, state: Any, info: Any) -> tuple[Any, dict[str, Any]]:
        self._i = i + 1
        self._climb(state, info)
        state, parameters = super().update(i, state, info)
        self._x = state.x
        return state, parameters

    def acceptance(self, info: Any, live: Bool[Tensor, " chain"]) -> Float[Tensor, ""]:
        """The harmonic mean over chains, times the share that did not diverge: it heeds the worst chains.

        Before the final phase it would heed nothing but those that are not yet where the others are.
        """
        if self._ends:
            return super().acceptance(info, live)
        going = live & ~info.diverging
        n = going.sum()
        harmonic = n / torch.where(going, 1 / info.acceptance_rate, 0.0).to(wide(self._x)).sum()
        return torch.where(n > 0, harmonic * n / live.sum(), 0.0)

    def parameters(self) -> dict[str, Any]:
        if self.in_fast_phase:  # short trajectories: the mass may be far off, and long ones lead in the wrong direction
            most = min(20, self.sampler.max_leapfrog_steps)
            return super().parameters() | {"n_leapfrog_steps": math.ceil(radical_inverse(self._i + 1) * most)}
        log_step = self.dual.log_step if self.tunes_step else torch.full_like(self._square, math.log(self.first_step))
        h, longest = torch.stack([log_step, self._log_length]).exp().tolist()  # the host's one look
        self._path = radical_inverse(self._i + 1) * min(longest, self.sampler.max_leapfrog_steps * h)
        path = {"path_length": self._path}
        if not self.tunes_step:
            return path
        if not self._ends:
            return path | {self.name: h}
        return path | {self.name: self.step_size, "n_leapfrog_steps": max(1, math.ceil(self._path / h))}

    def found(self) -> dict[str, ConstantScheduler]:
        return {"path_length": ConstantScheduler(float(self._log_average.exp()))} if self.tunes_path else {}

    def tuned_names(self) -> list[str]:
        return [*super().tuned_names(), *(["path_length"] if self.tunes_path else [])]

    def _restart(self, state: Any, step_size: float) -> None:
        super()._restart(state, step_size)
        self._n, self._square = 0, torch.zeros_like(self._square)
        self._shortest = math.log(self.first_step)

    def _climb(self, state: Any, info: Any) -> None:
        """One step of Adam on the logarithm of the path length."""
        if self.in_fast_phase or not self.tunes_path:
            return
        gradient, self._n = self._gradient(info, is_live(state) & ~self.apart), self._n + 1
        self._square = self.decay * self._square + (1 - self.decay) * gradient * gradient
        scale = (self._square / (1 - self.decay**self._n)).sqrt()
        moved = self._log_length + self.rate * torch.where(scale > 0, gradient / scale, 0.0)
        self._log_length = moved.clamp(self._shortest, self._shortest + math.log(self.sampler.max_leapfrog_steps))
        weight = self._n**-0.5
        self._log_average = weight * self._log_length + (1 - weight) * self._log_average

    def _gradient(self, info: Any, live: Bool[Tensor, " chain"]) -> Float[Tensor, ""]:
        """Of the criterion, with respect to the logarithm of the path length, up to a factor."""
        metric, dtype = self.sampler.metric(self._x), wide(self._x)
        weight = torch.where(live & ~info.diverging, info.acceptance_rate, 0.0).to(dtype)  # [chain]
        used = weight > 0
        weight = weight / weight.sum().clamp(min=torch.finfo(dtype).tiny)

        def centred(x: Tensor, share: Tensor) -> Tensor:  # [chain, *event]
            flat = torch.where(used.unsqueeze(1), x.reshape(len(x), -1).to(dtype), 0.0)
            return (flat - share @ flat).view_as(x)

        start = centred(self._x, used.to(dtype) / used.sum().clamp(min=1))
        end = centred(info.x, weight)
        grown = squared_length(metric, end) - squared_length(metric, start)
        slope = sum_event(end * info.p)
        return self._path * torch.where(used, weight * grown * slope, 0.0).sum()


def learnable(sampler: MarkovSampler) -> bool:
    """Whether the path length is not on a schedule of its own."""
    return isinstance(sampler.schedulers["path_length"], ConstantScheduler)
