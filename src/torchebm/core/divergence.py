"""Chains that are not finite: noticed without a host sync in the loop, reported once after it."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .checks import warn_caller

__all__ = ["DivergenceWatch", "SamplingDivergenceWarning"]

_WINDOW = 64  # transitions that are collected before they are searched
_MOST_NOTES = 1 << 20  # numbers, in a window of them
_SMALL = 1 << 14  # entries of all chains, up to which keeping a window of them costs less than a mean of each


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
        self.stuck = stuck
        self.n_stuck = 0 if stuck is None else int(stuck.sum())
        self._event, self._device = x.shape[1:].numel(), x.device
        self._notes: list[Tensor] = []  # of the window: whatever is finite, for each chain, where the chain is
        self._shares: Tensor | None = None
        if x.device.type != "cpu" or x.numel() > _SMALL:
            self._shares = x.new_full((self._event,), 1 / self._event)  # a mean, since a sum may overflow in float16
        a_note = max(1, x.numel() if self._shares is None else len(x))
        self._length = max(1, min(_WINDOW, n_steps, _MOST_NOTES // a_note))
        self._n_sound = 0  # notes before the window, if all of them were finite
        self._whole: Tensor | None = None  # [chain], once one was not: those that were finite so far
        self._sound: Tensor | None = None  # [chain], and their notes until they were not
        self._done = 0
        self._steps: list[int] = []  # the last transition before each note

    def __call__(self, n: int, state: Any) -> None:
        """Takes note of n transitions, by the points themselves while they are small, else by the mean over each."""
        self._done += n
        self._steps.append(self._done - 1)
        x = state.x if self._shares is None else torch.mv(state.x.reshape(-1, self._event), self._shares)
        self._notes.append(x)
        if len(self._notes) == self._length:
            self._close_window()

    def first_steps(self) -> Tensor:
        """`[chain]`: the first transition after which a chain was seen not finite, -1 where there is none."""
        self._close_window()
        if self._sound is None:
            return torch.full((self.n_chains,), -1, device=self._device)
        steps = torch.tensor([*self._steps, -1], device=self._device)
        return steps[self._sound]

    def report(self, advice: str) -> None:
        """Warns, once, if there is something to say."""
        self._close_window()
        if self._sound is None and not self.n_stuck:
            return
        first = self.first_steps()
        diverged = first[(first >= 0) & (~self.stuck if self.stuck is not None else True)]
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
        if not self._notes:
            return
        notes, self._notes = torch.stack(self._notes), []
        finite = notes.isfinite()
        if self._sound is None and self._device.type == "cpu" and bool(finite.all()):  # a look costs nothing there
            self._n_sound += len(notes)
            return
        finite = finite.reshape(len(notes), self.n_chains, -1).all(2)  # [note, chain]
        if self._whole is None or self._sound is None:
            self._whole = torch.ones(self.n_chains, dtype=torch.bool, device=self._device)
            self._sound = torch.full((self.n_chains,), self._n_sound, device=self._device)
        self._sound += torch.where(self._whole, finite.to(torch.uint8).cummin(0).values.sum(0), 0)
        self._whole &= finite.all(0)
