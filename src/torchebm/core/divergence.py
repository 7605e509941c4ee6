"""Chains that are not finite: noticed without a host sync in the loop, reported once after it."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .checks import warn_caller

__all__ = ["DivergenceWatch", "SamplingDivergenceWarning"]

_WINDOW = 64  # transitions that are collected before they are searched


class SamplingDivergenceWarning(UserWarning):
    """Some chains are no longer finite, or started where they cannot move."""


class DivergenceWatch:
    """Keeps, for each chain of a sampler that cannot reject, the first transition after which it is not finite.

    Args:
        x: The chains, for their number and device.
        stuck: `[chain]`, true where a chain starts at a non-finite energy or gradient; `None` for none.
        n_steps: Transitions to come.
    """

    def __init__(self, x: Float[Tensor, " chain *event"], stuck: Bool[Tensor, " chain"] | None, n_steps: int) -> None:
        self.n_chains = len(x)
        self.stuck = torch.zeros(len(x), dtype=torch.bool, device=x.device) if stuck is None else stuck
        self.n_stuck = int(self.stuck.sum())
        self._event = x.shape[1:].numel()
        self._shares = x.new_full((self._event,), 1 / self._event)  # a mean, since a sum may overflow in float16
        self._window = x.new_empty(max(1, min(_WINDOW, n_steps)), len(x))
        self._rows = tuple(self._window)
        self._whole = torch.ones(len(x), dtype=torch.bool, device=x.device)  # chains that were finite so far
        self._sound = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # their notes until they were not
        self._filled = self._done = 0
        self._steps: list[int] = []  # the last transition before each note

    def __call__(self, n: int, state: Any) -> None:
        """Takes note of n transitions: the mean over a point is infinite or NaN where the point is."""
        self._done += n
        self._steps.append(self._done - 1)
        torch.mv(state.x.reshape(-1, self._event), self._shares, out=self._rows[self._filled])
        self._filled += 1
        if self._filled == len(self._rows):
            self._close_window()

    def first_steps(self) -> Tensor:
        """`[chain]`: the first transition after which a chain was seen not finite, -1 where there is none."""
        if not self._steps:
            return self._sound - 1
        self._close_window()
        steps = torch.tensor([*self._steps, -1], device=self._sound.device)
        return steps[self._sound]

    def report(self, advice: str) -> None:
        """Warns, once, if there is something to say."""
        first = self.first_steps()
        diverged = first[(first >= 0) & ~self.stuck]
        parts = []
        when = "at" if self._done == len(self._steps) else "by"  # compiled blocks are seen as a whole
        if len(diverged):
            parts.append(
                f"{len(diverged)} of {self.n_chains} chains diverged, the first {when} step {int(diverged.min())} of "
                f"this run, where they were not finite. What helps: {advice}."
            )
        if self.n_stuck:
            parts.append(
                f"{self.n_stuck} of {self.n_chains} chains started where the energy or its gradient is not finite; "
                "each stays there, flagged in diagnostics['diverging'], unless a proposal takes it away or a warm-up "
                "begins it again where others are. What helps: start them elsewhere."
            )
        if parts:
            warn_caller(" ".join(parts), SamplingDivergenceWarning)

    def _close_window(self) -> None:
        """Counts the notes of each chain before the first that was not finite."""
        window, self._filled = self._window[: self._filled], 0
        finite = window.isfinite()
        if window.device.type == "cpu" and bool(finite.all()):  # a look costs nothing there
            self._sound += torch.where(self._whole, len(window), 0)
            return
        self._sound += torch.where(self._whole, finite.to(torch.uint8).cummin(0).values.sum(0), 0)
        self._whole &= finite.all(0)
