"""The contract of what tunes a sampler while it warms up."""

from typing import Any, Protocol

import torch

from .target import Target

__all__ = ["Adaptation"]


class Adaptation(Protocol):
    """Tunes a sampler's parameters during its warm-up, from outside the kernel.

    The loop calls `begin` once, `update` after each transition, `finish` after the last, or `abandon` if a transition
    raised. What is tuned is shared by all chains. Between two transitions of one window `update` works on tensors and
    reads none of them on the host, unless the sampler says otherwise.
    """

    def begin(self, state: Any, target: Target, generator: torch.Generator | None) -> tuple[Any, dict[str, Any]]:
        """The state to start from, and parameters for the first transition, by the keywords that `step` takes."""
        ...

    def update(self, i: int, state: Any, info: Any) -> dict[str, Any]:
        """Parameters for transition `i + 1`, after transition `i`, counted from 0, led to `state` and told `info`."""
        ...

    def finish(self) -> None:
        """Writes what was found to the sampler, and a summary to its `tuning`."""
        ...

    def abandon(self) -> None:
        """Leaves the sampler as it was before `begin`."""
        ...
