"""Estimates of log Z: what they say, and where their intervals come from."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.analytic import UniformModel
from torchebm.core.random import randint

__all__ = [
    "Bound",
    "LogZ",
    "NormalizerWarning",
    "annealed_bound",
    "annealed_log_z",
    "grouped_log_z",
    "student_quantile",
    "weight_ess",
]

_RESAMPLES = 2000
_Z = 1.959963984540054  # the 97.5 % quantile of the normal density


class NormalizerWarning(UserWarning):
    """An estimate of log Z that should not be relied upon, with the reason."""


class Bound(NamedTuple):
    """A number that bounds log Z in expectation, with its 95 % interval."""

    estimate: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class LogZ:
    """An estimate of the logarithm of a normaliser, in nats; printing it shows all that is known of it."""

    estimate: float
    interval: tuple[float, float]
    """95 %."""
    method: str
    lower: Bound | None = None
    """In expectation at most log Z: the forward run."""
    upper: Bound | None = None
    """In expectation at least log Z if it started from draws of the model: the reverse run."""
    ess: float | None = None
    """Effective sample size of the weights that the estimate is a mean of."""
    n_particles: int | None = None
    n_temperatures: int | None = None
    notes: tuple[str, ...] = ()
    """What the figures rest on, and what is wrong with them."""
    box: UniformModel | None = field(default=None, compare=False)
    """Where the integral is over a box."""

    @property
    def gap(self) -> float | None:
        """Upper minus lower bound; `None` if one of them was not computed."""
        return None if self.lower is None or self.upper is None else self.upper.estimate - self.lower.estimate

    @property
    def standard_error(self) -> float:
        """Half the interval, in units of the normal density's."""
        return (self.interval[1] - self.interval[0]) / (2 * _Z)

    def as_dict(self) -> dict[str, Any]:
        """All of it, in plain numbers, strings and lists."""
        bounds = {
            name: None if bound is None else {"estimate": bound.estimate, "interval": list(bound.interval)}
            for name, bound in (("lower", self.lower), ("upper", self.upper))
        }
        return {
            "estimate": self.estimate, "interval": list(self.interval), "method": self.method, **bounds,
            "gap": self.gap, "ess": self.ess, "n_particles": self.n_particles,
            "n_temperatures": self.n_temperatures, "notes": list(self.notes),
        }  # fmt: skip

    def __float__(self) -> float:
        return self.estimate

    def __str__(self) -> str:
        lines = [f"log Z = {_written(self.estimate, self.interval)}, by {self.method}"]
        if self.lower is not None:
            lines.append(f"  at least {_written(*self.lower)}, in expectation (forward)")
        if self.upper is not None:
            lines.append(f"  at most  {_written(*self.upper)}, in expectation (reverse)")
        if self.gap is not None:
            lines.append(f"  gap      {self.gap:.3f} nats")
        counts = []
        if self.n_particles is not None:
            counts.append(f"{self.n_particles} particles")
        if self.n_temperatures is not None:
            counts.append(f"{self.n_temperatures} temperatures")
        if self.ess is not None:
            counts.append(f"weight ESS {self.ess:.0f}")
        lines += ["  " + ", ".join(counts)] if counts else []
        return "\n".join([*lines, *(f"  ! {note}" for note in self.notes)])


def weight_ess(log_weights: Float[Tensor, " particle"]) -> float:
    r"""$(\sum w)^2 / \sum w^2$: how many particles of even weights would be worth as much.

    Example:
        >>> round(weight_ess(torch.zeros(8)), 3), weight_ess(torch.tensor([0.0, -100.0]))
        (8.0, 1.0)
    """
    log_weights = log_weights.double()
    return float((2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp())


def annealed_bound(log_weights: Float[Tensor, " particle"], log_z_base: float, *, reverse: bool = False,
                   n_chains: int | None = None, generator: torch.Generator | None = None) -> Bound:  # fmt: skip
    r"""The bound on log Z that weights of an annealed run give, with a bootstrap interval.

    Forward: $\log Z_{base} + \log \tfrac1n \sum_i w_i$; in reverse: $\log Z_{base} - \log \tfrac1n \sum_i w_i$.

    Args:
        log_weights: Of all particles; those of several runs, as on several devices, may be joined.
        log_z_base: Of the density at the other end.
        reverse: Whether the run started from draws of the model.
        n_chains: For weights `[chain * draw]` whose draws within a chain depend on each other: chains are resampled.
        generator: Of the bootstrap.
    """
    log_w = log_weights.double()
    if n_chains is not None:
        log_w = log_w.view(n_chains, -1)
        log_w = log_w.logsumexp(1) - math.log(log_w.shape[1])  # [chain], the mean of each
    n = len(log_w)
    largest = log_w.max()
    w = torch.exp(log_w - largest)
    means = []
    per_block = max(1, 2**22 // n)  # resamples at a time
    for start in range(0, _RESAMPLES, per_block):
        shape = (min(per_block, _RESAMPLES - start), n)
        index = randint(n, shape, generator=generator, device=log_w.device if generator is None else generator.device)
        means.append(w[index.to(w.device)].mean(1))
    levels = torch.tensor([0.025, 0.975], dtype=w.dtype, device=w.device)
    low, high = (torch.cat(means).quantile(levels).log() + largest).tolist()
    middle = float(w.mean().log() + largest)
    if reverse:
        return Bound(log_z_base - middle, (log_z_base - high, log_z_base - low))
    return Bound(log_z_base + middle, (log_z_base + low, log_z_base + high))


def annealed_log_z(forward: Float[Tensor, " particle"], log_z_base: float, *,
                   reverse: Float[Tensor, " particle"] | None = None, n_chains: int | None = None,
                   n_temperatures: int | None = None, notes: tuple[str, ...] = (),
                   generator: torch.Generator | None = None) -> LogZ:  # fmt: skip
    """The estimate from log weights of annealed runs: those of several runs or devices joined, if there were several.

    Args:
        forward: Log weights of forward runs.
        log_z_base: Of the base.
        reverse: Log weights of reverse runs.
        n_chains: For reverse runs from draws `[chain * draw]` that depend on each other within a chain.
        n_temperatures: For the record.
        notes: For the record.
        generator: Of the bootstrap.
    """
    lower = annealed_bound(forward, log_z_base, generator=generator)
    upper = None
    if reverse is not None:
        upper = annealed_bound(reverse, log_z_base, reverse=True, n_chains=n_chains, generator=generator)
    return LogZ(lower.estimate, lower.interval, "annealed importance sampling", lower, upper, weight_ess(forward),
                len(forward), n_temperatures, notes)  # fmt: skip


def grouped_log_z(log_ratio: Float[Tensor, " group"], log_z_base: float) -> Bound:
    r"""The logarithm of a mean of independent, unbiased estimates, with the interval that their scatter gives.

    $\log \hat Z \pm t\, s / (\hat Z \sqrt G)$, with s the standard deviation of G estimates, and t the 97.5 % quantile
    of Student's density with G - 1 degrees of freedom.
    """
    n, log_ratio = len(log_ratio), log_ratio.double()
    if n < 2:
        raise ValueError(f"an interval needs two groups or more; got {n}.")
    largest = log_ratio.max()
    ratio = torch.exp(log_ratio - largest)
    middle = log_z_base + float(ratio.mean().log() + largest)
    half = student_quantile(n - 1) * float(ratio.std() / ratio.mean()) / math.sqrt(n)
    return Bound(middle, (middle - half, middle + half))


def student_quantile(degrees: float) -> float:
    """The 97.5 % quantile of Student's t: closed forms for 1 and 2 degrees of freedom, Hill's series otherwise.

    References: Hill (1970), https://doi.org/10.1145/355598.355600

    Example:
        >>> [round(student_quantile(n), 2) for n in (1, 2, 3, 9, 1000)]
        [12.71, 4.3, 3.18, 2.26, 1.96]
    """
    p, n = 0.05, float(degrees)  # of both tails
    if n == 1:
        return 1 / math.tan(p * math.pi / 2)
    if n == 2:
        return math.sqrt(2 / (p * (2 - p)) - 2)
    a = 1 / (n - 0.5)
    b = (48 / a) / a
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * p) ** (2 / n)
    if y > 0.05 + a:
        y = _Z**2
        x = -_Z
        if n < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return math.sqrt(n * y)


def _written(estimate: float, interval: tuple[float, float]) -> str:
    return f"{estimate:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
