"""Bridge sampling: log Z from draws of the model and of a density that is known."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .estimates import student_quantile

__all__ = ["BridgeEstimate", "bridge_sampling"]

_FEWEST_CHAINS = 8
_Z = 1.959963984540054


class BridgeEstimate(NamedTuple):
    """What bridge sampling finds."""

    log_ratio: float
    """Of the normalisers, that of the model over that of the other density."""
    interval: tuple[float, float]
    """95 %."""
    ess: float
    """Of the draws of the model, as their dependence within chains counts."""


def bridge_sampling(at_model: Float[Tensor, " n"] | Float[Tensor, "chain draw"],
                    at_base: Float[Tensor, " m"]) -> BridgeEstimate:  # fmt: skip
    r"""The optimal bridge between two densities.

    With $l = \log \tilde p - \log \tilde g$, the one r with
    $r = \frac{\frac1m \sum_j e^{l_j} / (s_1 e^{l_j} + s_2 r)}{\frac1n \sum_i 1 / (s_1 e^{l_i} + s_2 r)}$, j over draws
    of the known density g, i over draws of the model p, $s_1 = n / (n + m)$.

    Args:
        at_model: l at draws of the model, `[n]` if they are independent, `[chain, draw]` of a run otherwise.
        at_base: l at independent draws of the base.

    Note: the interval is that of the relative mean-squared error of Frühwirth-Schnatter and Gronau et al., which takes
        the logarithm to be normal. Draws within a chain depend on each other: then n is their effective number, and the
        variance comes from how the means of chains scatter, with Student's quantile. The chains are taken to be
        independent, and to have reached the model.

    References: Meng & Wong (1996), https://www.jstor.org/stable/24306045; Gronau et al. (2017),
    https://doi.org/10.1016/j.jmp.2017.09.005

    Example:
        >>> from torchebm.core import GaussianModel
        >>> model, base = GaussianModel(torch.zeros(1), 4 * torch.eye(1)), GaussianModel(torch.zeros(1), torch.eye(1))
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = model.sample(1000, generator=generator), base.sample(1000, generator=generator)
        >>> found = bridge_sampling(base(x) - model(x), base(y) - model(y))
        >>> abs(found.log_ratio - math.log(2)) < 0.1
        True
    """
    chains = at_model.double() if at_model.ndim == 2 else at_model.double().unsqueeze(1)  # [chain, draw]
    if at_model.ndim == 2 and len(chains) < _FEWEST_CHAINS:
        raise ValueError(f"the error comes from how chains scatter, and {len(chains)} are too few for that: give "
                         f"{_FEWEST_CHAINS} or more, or independent draws, [n].")  # fmt: skip
    l1, l2 = chains.flatten(), at_base.double().to(chains.device)
    if not bool(l1.isfinite().all()):
        raise ValueError(f"{int((~l1.isfinite()).sum())} of {len(l1)} draws of the model lie where the base, or the "
                         "model itself, has no density.")  # fmt: skip
    if bool((l2.isnan() | (l2 == torch.inf)).any()) or not bool(l2.isfinite().any()):
        raise ValueError("the model's energy is NaN or -inf at draws of the base, or +inf at all of them.")
    log_r, ess = _fixed_point(l1, l2, len(l1)), float(len(l1))
    if at_model.ndim == 2:
        ess = _effective(chains, log_r, len(l1), len(l2))
        log_r = _fixed_point(l1, l2, ess)
    f1, f2 = _terms(l1, l2, log_r, ess)
    error = float(f1.var() / f1.mean() ** 2) / len(f1)
    means = f2.view(chains.shape).mean(1)
    error += float(means.var() / f2.mean() ** 2) / len(means)
    half = (_Z if at_model.ndim == 1 else student_quantile(len(means) - 1)) * math.sqrt(error)
    return BridgeEstimate(log_r, (log_r - half, log_r + half), ess)


def _fixed_point(l1: Tensor, l2: Tensor, n: float) -> float:
    """By bisection: with r on both sides, one side falls and the other rises."""
    low, high = (float(bound) for bound in torch.cat([l1, l2[l2.isfinite()]]).aminmax())
    low, high = low - 1.0, high + 1.0
    while high - low > 1e-10 * (1 + abs(low)):
        middle = 0.5 * (low + high)
        f1, f2 = _terms(l1, l2, middle, n)
        low, high = (middle, high) if float(f1.mean()) > float(f2.mean()) else (low, middle)
    return 0.5 * (low + high)


def _terms(l1: Tensor, l2: Tensor, log_r: float, n: float) -> tuple[Tensor, Tensor]:
    """At draws of the base, p / (s1 p + s2 g), and at those of the model, g / (s1 p + s2 g); p and g normalised."""
    s1, s2 = n / (n + len(l2)), len(l2) / (n + len(l2))
    return 1 / (s1 + s2 * torch.exp(log_r - l2)), 1 / (s1 * torch.exp(l1 - log_r) + s2)


def _effective(chains: Float[Tensor, "chain draw"], log_r: float, n: int, m: int) -> float:
    """How many independent draws would give the mean over all chains the variance that chain means show."""
    f2 = _terms(chains.flatten(), torch.zeros(m), log_r, n)[1].view(chains.shape)
    of_the_mean = float(f2.mean(1).var()) / len(f2)
    return n if of_the_mean == 0 else min(float(n), max(1.0, float(f2.flatten().var()) / of_the_mean))
