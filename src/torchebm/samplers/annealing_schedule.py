"""What annealing along a path needs besides particles: temperatures, and a kernel for each; found in a pilot run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.bijections import pull_back
from torchebm.core.checks import integer, number
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel, evaluating
from torchebm.core.progress import progress_bar
from torchebm.core.random import uniform

from .annealing_path import AnnealingBase, AnnealingPath, Parts, PathTarget, gaussian_base
from .replicas import each_leaf
from .tempering import ParallelTempering

__all__ = ["AnnealedSampler", "AnnealingSchedule", "conditional_ess", "next_beta", "resampled"]

_LEAST_LIVE = 0.01  # of the base's draws, must lie where the model has a density


@dataclass(frozen=True)
class AnnealingSchedule:
    """Temperatures along a path, and the kernel that moves at each; nothing in it depends on the run that uses it."""

    betas: tuple[float, ...]
    """β, rising from 0 to 1."""
    kernels: tuple[dict[str, Any], ...]
    """For each β but the first, the kernel's `state_dict()`."""
    acceptance: tuple[float, ...]
    """For each of them, what the pilot run accepted; NaN where nothing was tuned."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", check_betas(self.betas))
        if not len(self.kernels) == len(self.acceptance) == len(self.betas) - 1:
            raise ValueError(f"expected a kernel for each β but the first; got {len(self.betas)} values of β and "
                             f"{len(self.kernels)} kernels.")  # fmt: skip

    def __len__(self) -> int:
        """Temperatures, but for the base's."""
        return len(self.kernels)

    def refined(self, n: int) -> "AnnealingSchedule":
        """`n` temperatures instead, spaced like these: between two of them the steps in β are even.

        Each moves with the kernel of the next colder one that was tuned.
        """
        n = integer("n", n, at_least=1)
        places = [len(self) * i / n for i in range(1, n + 1)]
        below = [min(int(place), len(self) - 1) for place in places]
        betas = [
            self.betas[k] + (place - k) * (self.betas[k + 1] - self.betas[k])
            for k, place in zip(below, places, strict=True)
        ]
        above = [k if place == k else k + 1 for k, place in zip(below, places, strict=True)]
        above = [max(0, k - 1) for k in above]
        return AnnealingSchedule(
            (0.0, *betas[:-1], 1.0), tuple(self.kernels[k] for k in above), tuple(self.acceptance[k] for k in above)
        )


class AnnealedSampler:
    """What samplers along a path share: the path, the kernel, and the pilot run that finds temperatures.

    Args:
        kernel: A sampler of the model, with an accept test: it moves the particles at each temperature.
        base: Where paths begin: a model with `log_z` and `sample`, in the data's units, or what `gaussian_base`
            returns; left out, the standard normal in the coordinates that the kernel walks in.
        n_steps: Transitions of the kernel at each temperature.
        step_spread: The transitions at one temperature use step sizes from the tuned one down to it divided by this.

    Raises:
        ValueError: If the kernel does not leave the densities of the path invariant.
    """

    def __init__(self, kernel: MarkovSampler, base: BaseModel | AnnealingBase | None = None, *, n_steps: int = 1,
                 step_spread: float = 1.0) -> None:  # fmt: skip
        check_kernel(kernel)
        self.kernel = kernel
        self.n_steps = integer("n_steps", n_steps, at_least=1)
        self.step_spread = number("step_spread", step_spread, at_least=1.0)
        if self.step_spread > 1 and (self.n_steps == 1 or kernel.tuned_parameter not in kernel.schedulers):
            raise ValueError(f"step_spread needs n_steps=2 or more, and a kernel with a step size that warm-ups tune; "
                             f"got n_steps={n_steps} and a {type(kernel).__name__}.")  # fmt: skip
        if base is None:
            base = gaussian_base(kernel.model)
        self.base = base if isinstance(base, AnnealingBase) else AnnealingBase(base, kernel.model)
        self.path = AnnealingPath(self.base.energy, self.base.walks)

    @torch.no_grad()
    def tune(self, n_particles: int = 512, *, conditional_ess: float = 0.9, betas: Sequence[float] | None = None,
             n_warmup: int = 30, max_temperatures: int = 10_000, generator: torch.Generator | None = None,
             progress: bool = False) -> AnnealingSchedule:  # fmt: skip
        r"""A pilot run that finds temperatures, and tunes the kernel at each; its particles are thrown away.

        The next β is the one at which the conditional effective sample size of the step,
        $(\sum_i u_i)^2 / (n \sum_i u_i^2)$ with $u_i = e^{\Delta\beta (E_{base} - E)(x_i)}$, falls to a given share.
        The kernel's own warm-up then tunes step size and mass there. What is found is frozen: estimates made with it
        are unbiased, which those of runs that choose temperatures from their own particles are not.

        Args:
            n_particles: Particles of the pilot run.
            conditional_ess: The share; nearer to 1 means more temperatures, and weights that vary less.
            betas: Temperatures, rising from 0 to 1, that are to be kept: then the kernel alone is tuned.
            n_warmup: Transitions of the warm-up at each temperature; 20 or more to find a mass as well.
            max_temperatures: Where to give up.
            generator: Source of randomness.
            progress: Show a progress bar.

        Raises:
            ValueError: If base and model hardly overlap, or the temperatures have no end.

        References: Zhou, Johansen & Aston (2016), https://doi.org/10.1080/10618600.2015.1060885
        """
        n_particles = integer("n_particles", n_particles, at_least=2)
        share = number("conditional_ess", conditional_ess, above=0.0)
        if share >= 1:
            raise ValueError(f"conditional_ess must be less than 1; got {share:g}.")
        given = None if betas is None else check_betas(betas)
        found, kernels, acceptance = [0.0], [], []
        shown = progress_bar(progress, 100, "tuning the path")
        with evaluating(self.kernel.model), evaluating(self.path), self.lent(), shown as tick:
            x = self.draw(n_particles, generator)
            target, state = self.target(x), None
            while found[-1] < 1:
                if len(kernels) == max_temperatures:
                    raise ValueError(
                        f"after {max_temperatures} temperatures the path has come to β={found[-1]:.3g}: choose a base "
                        "that overlaps the model more, or a smaller conditional_ess."
                    )
                parts = target.parts(x, self.kernel.needs_gradient)
                if not kernels:
                    check_overlap(parts)
                gap, before = parts.gap(), found[-1]
                new = next_beta(gap, before, share) if given is None else given[len(found)]
                found.append(_rounded(new, x.dtype, before))
                log_weights = (found[-1] - before) * gap
                index = resampled(log_weights.unsqueeze(0), n_particles, "systematic", generator)[0]
                x = x[index]
                target = target.at(self.beta(found[-1], x), x, parts.gather(index))
                state = self.begin(state, x, index, target, generator)
                state = self.kernel._tune(state, 0, n_warmup, target=target, generator=generator, notice=None,
                                          held=None)  # fmt: skip
                x = state.x
                kernels.append(self.kernel.state_dict())
                acceptance.append(float((self.kernel.tuning or {}).get("acceptance_rate", float("nan"))))
                tick(round(100 * found[-1]) - round(100 * before), temperatures=str(len(kernels)))
        return AnnealingSchedule(tuple(found), tuple(kernels), tuple(acceptance))

    def untuned(self, betas: Sequence[float]) -> AnnealingSchedule:
        """Given temperatures, with the kernel as it is at each."""
        betas, state = check_betas(betas), self.kernel.state_dict()
        return AnnealingSchedule(betas, (state,) * (len(betas) - 1), (float("nan"),) * (len(betas) - 1))

    # what the runs share ----------------------------------------------------------------------------------------------

    def draw(self, n: int, generator: torch.Generator | None) -> Float[Tensor, " particle *event"]:
        """Exact draws of the base, where and as the kernel works."""
        return self.base.draw(n, generator=generator, dtype=self.kernel.dtype, device=self.kernel.device)

    def target(self, x: Tensor, beta: float = 0.0) -> PathTarget:
        """The path at β."""
        return PathTarget(self.path, self.beta(beta, x), self.kernel.precision)

    def beta(self, beta: float, x: Tensor) -> Float[Tensor, ""]:
        """β as kernels see it."""
        return torch.tensor(beta, dtype=x.dtype, device=x.device)

    def begin(self, state: Any, x: Tensor, index: Tensor | None, target: PathTarget,
              generator: torch.Generator | None) -> Any:  # fmt: skip
        """The kernel's state at a new temperature, of the particles in `index` where they were resampled."""
        wrapped = target if self.kernel.compiled is None else self.kernel.compiled.wrap(target)
        if state is None:
            return self.kernel.init(x, wrapped, generator)
        if index is not None:
            state = each_leaf(state, lambda leaf: leaf[index])._replace(x=x)
        return self.kernel.refresh(state, wrapped)

    def move(self, state: Any, kernel: dict[str, Any], target: PathTarget, start: int, n_steps: int,
             generator: torch.Generator | None, keep: list[Any] | None = None) -> tuple[Any, Tensor]:  # fmt: skip
        """Transitions at one temperature, and the mean rate at which they were accepted.

        States on the way are appended to `keep`.
        """
        self.kernel.load_state_dict(kernel)
        rates: list[Tensor] = []

        def observe(i: int, state: Any, info: Any) -> None:
            rates.append(info.acceptance_rate.mean())
            if keep is not None:
                keep.append(state)

        wrapped = target if self.kernel.compiled is None else self.kernel.compiled.wrap(target)
        table = self.kernel.parameter_table(start, n_steps)
        if self.step_spread > 1:
            last = self.n_steps - 1
            factors = [self.step_spread ** -(i % self.n_steps / last) for i in range(n_steps)]
            sizes = table[str(self.kernel.tuned_parameter)]
            table[str(self.kernel.tuned_parameter)] = [h * factor for h, factor in zip(sizes, factors, strict=True)]
        state = self.kernel.advance(state, start, n_steps, target=wrapped, generator=generator, parameters=table,
                                    observe=observe)  # fmt: skip
        return state, torch.stack(rates).mean().double()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The kernel, as it was afterwards."""
        before, untuned, tuning = self.kernel.state_dict(), self.kernel.untuned, self.kernel.tuning
        try:
            yield
        finally:
            self.kernel.load_state_dict(before)
            self.kernel.untuned, self.kernel.tuning = untuned, tuning

    def from_user(self, x: Float[Tensor, " particle *event"]) -> Float[Tensor, " particle *event"]:
        """Points in the data's units, where and as the kernel walks."""
        own = x.detach().to(device=self.kernel.device, dtype=self.kernel.dtype)
        transform = self.kernel.model.coordinates()[1]
        return own if transform is None else pull_back(transform, own)

    def to_user(self, z: Tensor) -> Tensor:
        """Particles in the data's units."""
        transform = self.kernel.model.coordinates()[1]
        return z if transform is None else transform(z).to(z.dtype)  # pyrefly: ignore[missing-attribute]


def check_kernel(kernel: object) -> None:
    """Refuses kernels under which the weights would mean nothing."""
    if not isinstance(kernel, MarkovSampler):
        raise TypeError(f"kernel must be a sampler, such as HamiltonianMonteCarlo(model); got {type(kernel).__name__}.")
    name = type(kernel).__name__
    if isinstance(kernel, ParallelTempering):
        raise ValueError(
            f"{name} cannot move particles along a path: its replicas at other temperatures would have to be drawn "
            "from densities that are not known at the start. Use the sampler inside it."
        )
    if not kernel.can_reject:
        raise ValueError(
            f"{name} has no accept test, so it does not leave the densities along the path invariant, and the weights "
            "would be of another normaliser. Use MetropolisAdjustedLangevin, HamiltonianMonteCarlo or another sampler "
            "that rejects."
        )


def check_betas(betas: Sequence[float] | Tensor) -> tuple[float, ...]:
    """Numbers that rise from 0 to 1."""
    values = tuple(number("each β", b, at_least=0.0) for b in (betas.tolist() if isinstance(betas, Tensor) else betas))
    if len(values) < 2 or values[0] != 0 or values[-1] != 1 or any(a >= b for a, b in pairwise(values)):
        shown = list(values) if len(values) < 9 else [*values[:4], "...", *values[-4:]]
        raise ValueError(f"betas must rise from 0.0 to 1.0, as [0.0, 0.2, 1.0]; got {shown}.")
    return values


def check_overlap(parts: Parts) -> None:
    """Refuses a base from whose draws the model can hardly be seen, and a model that is NaN there."""
    n = len(parts.model)
    broken = int((parts.model.isnan() | (parts.model == -torch.inf)).sum())
    if broken:
        raise ValueError(f"the model's energy is NaN or -inf at {broken} of {n} draws of the base.")
    live = int(parts.model.isfinite().sum())
    if live < max(2, _LEAST_LIVE * n):
        raise ValueError(f"the model's energy is finite at {live} of {n} draws of the base only: choose a base that "
                         "overlaps the model more, such as a Gaussian fitted to data.")  # fmt: skip


def conditional_ess(gap: Float[Tensor, " particle"], step: float) -> float:
    """Of even weights, the share that is left after a step in β; draws without a density are left out."""
    log_u = step * gap[gap.isfinite()]
    return float(torch.exp(2 * log_u.logsumexp(0) - (2 * log_u).logsumexp(0)) / len(log_u))


def next_beta(gap: Float[Tensor, " particle"], beta: float, share: float) -> float:
    """The β at which the conditional effective sample size is the given share, or 1."""
    if conditional_ess(gap, 1 - beta) >= share:
        return 1.0
    low, high = 0.0, 1 - beta
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if conditional_ess(gap, middle) >= share else (low, middle)
    return beta + low


def resampled(log_weights: Float[Tensor, "group particle"], n: int, scheme: str,
              generator: torch.Generator | None) -> Tensor:  # fmt: skip
    """`n` indices for each group, each particle expected in proportion to its weight, by inverse distribution.

    Systematic resampling uses one uniform a group, multinomial one an index.
    """
    n_groups, device = len(log_weights), log_weights.device
    edges = torch.softmax(log_weights.double(), 1).cumsum(1)
    shape = (n_groups, 1) if scheme == "systematic" else (n_groups, n)
    u = uniform(shape, generator=generator, dtype=torch.float64, device=device)
    if scheme == "systematic":
        u = (torch.arange(n, device=device) + u) / n
    index = torch.searchsorted(edges, u * edges[:, -1:], right=True)
    last = (log_weights > -torch.inf).cumsum(1).argmax(1, keepdim=True)  # of rounding at the upper end
    return torch.minimum(index, last)


def _rounded(beta: float, dtype: torch.dtype, before: float) -> float:
    """β as the chains' dtype holds it, so that weights and kernels agree."""
    value = float(torch.tensor(beta, dtype=dtype))
    if value <= before:
        raise ValueError(f"the next temperature, β={beta:.6g}, is the last one but for rounding in {dtype}: choose a "
                         "base that overlaps the model more, or sample in float64.")  # fmt: skip
    return value
