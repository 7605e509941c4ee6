"""Many chains, some at a time."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer
from torchebm.core.sampler import BaseSampler

__all__ = ["batch_sample_chain"]


def batch_sample_chain(sampler: BaseSampler, dim: int | tuple[int, ...] | None = None, n_steps: int = 100,
                       n_samples: int = 1, batch_size: int = 1000,
                       **options: Any) -> Float[Tensor, " chain *event"]:  # fmt: skip
    """Runs `n_samples` chains in batches, for numbers of chains that do not fit in memory at once.

    Args:
        sampler: Runs each batch by its `sample_chain`.
        dim: Event shape; from the model if left out.
        n_steps: Transitions of each chain.
        n_samples: Chains in all.
        batch_size: Chains at a time.
        **options: Passed to `sample_chain`.

    Returns:
        The last state of each chain.

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> from torchebm.samplers import LangevinDynamics
        >>> batch_sample_chain(LangevinDynamics(HarmonicModel()), dim=2, n_steps=5, n_samples=25, batch_size=10).shape
        torch.Size([25, 2])
    """
    n_samples, batch_size = integer("n_samples", n_samples), integer("batch_size", batch_size, at_least=1)
    if any(options.get(f"return_{what}") for what in ("trajectory", "diagnostics", "state")):
        raise ValueError("batch_sample_chain returns the last states alone: for more, call sample once a batch.")
    if options.get("initial_samples") is not None:
        raise ValueError("batch_sample_chain begins its own chains: to give initial_samples, call sample once a batch.")
    sizes = [min(batch_size, n_samples - done) for done in range(0, max(n_samples, 1), batch_size)]
    return torch.cat([sampler.sample_chain(dim=dim, n_steps=n_steps, n_samples=size, **options) for size in sizes])
