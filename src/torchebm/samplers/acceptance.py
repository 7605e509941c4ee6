"""What samplers with an accept test share: the state that they keep, what they report, and the test."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["AcceptInfo", "Evaluated", "accepts", "proposal_noise", "unsound"]


class Evaluated(NamedTuple):
    """Where the chains stand, with energy and gradient there, so that the next step need not ask for them again."""

    x: Float[Tensor, " chain *event"]
    energy: Float[Tensor, " chain"]
    gradient: Float[Tensor, " chain *event"]


class AcceptInfo(NamedTuple):
    """What a transition with an accept test reports."""

    acceptance_rate: Float[Tensor, " chain"]
    """Probability with which the proposal was accepted."""
    diverging: Bool[Tensor, " chain"]
    """Whether something was not finite that should be.

    Where there are trajectories: their energy, of +inf as well, or an energy error that is too large. Where there are
    none, `unsound`: a proposal of energy +inf, outside the support of the density, is a rejection like any other.
    """


def proposal_noise(x: Float[Tensor, " chain *event"], n: int) -> tuple[Tensor, Tensor]:
    """Buffers for n proposals, `[n, chain, *event]`, and for their accept tests, `[n, chain]` in at least float32."""
    return x.new_empty(n, *x.shape), x.new_empty(n, len(x), dtype=torch.promote_types(x.dtype, torch.float32))


def accepts(log_ratio: Float[Tensor, " chain"], u: Float[Tensor, " chain"], old_energy: Float[Tensor, " chain"],
            new_energy: Float[Tensor, " chain"]) -> tuple[Bool[Tensor, " chain"], Float[Tensor, " chain"]]:  # fmt: skip
    r"""Accepts where $\log(1 - u) < \log r$: exactly, in at least float32, and never a proposal that is not finite.

    A chain that stands where the energy is not finite takes the first finite proposal: it has no probability to keep.

    Args:
        log_ratio: Logarithm of the acceptance ratio.
        u: Uniform on [0, 1).
        old_energy: Where the chains stand.
        new_energy: Where they might go.

    Returns:
        The decision and the probability of it being yes, each `[chain]`.
    """
    finite = new_energy.isfinite()
    stranded = ~old_energy.isfinite()
    accepted = finite & ((torch.log1p(-u) < log_ratio) | stranded)  # a NaN compares false: a rejection
    probability = torch.exp(log_ratio.clamp(max=0))
    return accepted, torch.where(
        finite & ~stranded, torch.where(log_ratio.isnan(), 0.0, probability), accepted.to(u.dtype)
    )


def unsound(log_ratio: Float[Tensor, " chain"], old_energy: Float[Tensor, " chain"],
            new_energy: Float[Tensor, " chain"]) -> Bool[Tensor, " chain"]:  # fmt: skip
    """Whether a single step, without a trajectory, met what no density has: `diverging` of such samplers.

    That is a ratio that is not finite, or a chain that stands where the energy is not. A proposal of energy +inf has no
    density and is plainly rejected: it says nothing against the step size, nor against the model.

    Args:
        log_ratio: Logarithm of the acceptance ratio.
        old_energy: Where the chains stand.
        new_energy: Where they might go.
    """
    return ~(log_ratio.isfinite() | (new_energy == torch.inf)) | ~old_energy.isfinite()
