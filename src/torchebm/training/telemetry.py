"""What is measured while a model trains: sums on the device, read once per line of metrics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.random import generator_for, uniform

from .guards import Line

__all__ = ["GAP_LINES", "Window", "running_gap", "uniform_noise", "written"]

GAP_LINES = 10  # over which the running mean of the energy gap is taken
_SQUARES = {"energy_gap": "energy_gap squared", "energy_gap_error": "energy_gap_error squared"}


class Window:
    """The figures of the updates since the last line of metrics: their sums, as tensors, until someone reads them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.n = 0

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Takes the figures of one update."""
        squares = {_SQUARES[name]: figures[name].square() for name in _SQUARES if name in figures}
        for name, figure in {**figures, **squares}.items():
            self.sums[name] = self.sums[name] + figure if name in self.sums else figure
        self.n += 1

    def clear(self) -> None:
        """Begins anew."""
        self.sums, self.n = {}, 0

    def means(self) -> dict[str, float]:
        r"""Means over the updates, and two figures of the energy gap $g = \bar E_- - \bar E_+$ in units of its noise.

        `gap_ratio` is its root mean square, $r^2 = \sum g^2 / \sum \sigma^2$, and `gap_fluctuation` its standard
        deviation from update to update, $f^2 = n \widehat{\mathrm{Var}}(g) / \sum \sigma^2$. σ is the standard error
        that the gap of a batch has where negatives and data are independent draws of one density. So 1 is as good as
        can be for both, whatever the scale of the energies.
        """
        if not self.n:
            return {}
        sums = {name: float(total) for name, total in self.sums.items()}
        squares = [sums.pop(name) for name in _SQUARES.values() if name in sums]
        means = {name: value / self.n for name, value in sums.items()}
        if len(squares) == len(_SQUARES):
            gap, error = squares
            spread = max(0.0, gap - self.n * means["energy_gap"] ** 2) * self.n / max(1, self.n - 1)
            known = error > 0 and math.isfinite(gap)
            means["gap_ratio"] = math.sqrt(gap / error) if known else math.nan
            means["gap_fluctuation"] = math.sqrt(spread / error) if known and self.n > 1 else math.nan
        return means

    def state_dict(self) -> dict[str, Tensor]:
        """The sums."""
        return {name: torch.as_tensor(total) for name, total in self.sums.items()}

    def load(self, sums: Mapping[str, Tensor], n: int) -> None:
        """Restores sums over `n` updates."""
        self.sums, self.n = dict(sums), n


def running_gap(lines: Sequence[Line], gap: float) -> float:
    """The mean energy gap of the last lines, the one at hand with gap `gap` included."""
    earlier = [line["energy_gap"] for line in lines[1 - GAP_LINES :] if line.get("energy_gap") is not None]
    return (sum(earlier) + gap) / (len(earlier) + 1)


def uniform_noise(box: tuple[Tensor, Tensor], n: int, key: tuple[int | str, ...]) -> Float[Tensor, " n *event"]:
    """Points that are uniform in a box, from a stream of their own, so that training draws what it would have drawn."""
    low, high = box
    generator = generator_for(*key, device=low.device)
    u = uniform((n, *low.shape), generator=generator, dtype=low.dtype, device=low.device)
    return low + (high - low) * u


def written(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line as JSON can hold it: what is not finite is `None`."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()
    }
