"""Chains: one coordinate against the draw, and particles on the line flowing to their target."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from .canvas import (
    CYCLE,
    ORDER_MAP,
    PALETTE,
    as_many,
    axes_or_new,
    bin_edges,
    draw_histogram,
    dress,
    note,
    panels,
    robust_interval,
)
from .inputs import as_array, checked_interval, evaluate_density, paths

__all__ = ["histogram_flow", "particle_flow", "trace"]


def trace(trajectory: Float[Tensor, "chain draw *event"], *, index: int | tuple[int, ...] | None = None,
          ax: Axes | None = None) -> Axes:  # fmt: skip
    """Draws one coordinate of every chain against the draw: chains that have mixed cannot be told apart.

    Args:
        trajectory: States `[chain, draw, *event]`, or a statistic of them such as the energy, `[chain, draw]`.
        index: Which coordinate of the event; the first by default.
        ax: Axes to draw on; without them a new pyplot figure is made.
    Raises:
        ValueError: If there is no chain and draw axis, or no such coordinate.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = trace(torch.randn(4, 100, 2), index=1, ax=Figure().add_subplot())
        >>> len(ax.lines), ax.get_ylabel()
        (4, '$x_{2}$')
    """
    array = as_array(trajectory)
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(
            f"trajectory has shape {list(array.shape)}; expected [chain, draw, *event], chains first. "
            "One chain becomes trajectory[None]."
        )
    event = array.shape[2:]
    place = (0,) * len(event) if index is None else (index,) if isinstance(index, int) else tuple(index)
    if len(place) != len(event) or any(not -size <= i < size for i, size in zip(place, event, strict=False)):
        raise ValueError(
            f"index is {index!r}; expected {len(event)} number(s) inside the event shape {list(event)} of a trajectory "
            f"of shape {list(array.shape)}."
        )
    ax = axes_or_new(ax, (7.6, 3.2))
    values = array[(slice(None), slice(None), *place)]  # [chain, draw]
    for chain, line in enumerate(values):
        ax.plot(line, color=CYCLE[chain % len(CYCLE)], linewidth=0.8, alpha=0.8 if len(values) <= 8 else 0.4)
    position = ",".join(str(i % size + 1) for i, size in zip(place, event, strict=True))
    dress(ax, "draw", f"$x_{{{position}}}$" if event else "value")
    ax.margins(x=0)
    undefined = int((~np.isfinite(values)).sum())
    note(ax, f"{len(values)} chains" if len(values) > 1 else "", f"{undefined} values not finite" if undefined else "")
    return ax


def particle_flow(trajectory: Float[Tensor, "chain draw 1"], *, max_particles: int = 500,
                  ax: Axes | None = None) -> Axes:  # fmt: skip
    """Draws the positions of particles on the line against the step, coloured by where each one started.

    Args:
        trajectory: Positions `[chain, draw, 1]`, or `[chain, draw]`; put the start in front for it to be step 0.
        max_particles: How many particles to draw at most, evenly taken from the chains; a note counts them.
        ax: Axes to draw on; without them a new pyplot figure is made.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = particle_flow(torch.randn(50, 16, 1).cumsum(1), ax=Figure().add_subplot())
    """
    positions = paths(trajectory, 1)[:, :, 0]  # [chain, draw]
    n, n_draws = positions.shape
    ax = axes_or_new(ax, (7.6, 4.2))
    chosen = positions[np.linspace(0, n - 1, min(n, max_particles)).round().astype(int)]
    start = np.nan_to_num(chosen[:, 0])
    rank = start.argsort().argsort() / max(len(start) - 1, 1)
    steps = np.broadcast_to(np.arange(n_draws), chosen.shape)
    lines = LineCollection(
        list(np.stack([steps, chosen], -1)),
        colors=colormaps[ORDER_MAP](rank),
        linewidths=0.9,
        alpha=float(np.clip(5 / math.sqrt(len(chosen)), 0.1, 0.9)),
    )
    ax.add_collection(lines)
    dress(ax, "step", "$x$")
    ax.set(xlim=(0, max(n_draws - 1, 1)), ylim=robust_interval(chosen, tail=0.0))
    undefined = int((~np.isfinite(chosen)).sum())
    note(
        ax,
        f"{len(chosen)} of {n} particles" if len(chosen) < n else f"{n} particles",
        "coloured by where they started",
        f"{undefined} positions not finite" if undefined else "",
    )
    return ax


def histogram_flow(
    trajectory: Float[Tensor, "chain draw 1"],
    target: Callable[[Tensor], Tensor] | None = None,
    *,
    steps: Sequence[int] | None = None,
    bounds: tuple[float, float] | None = None,
    bins: int | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draws the histogram of the particles at several steps, each with the density they flow to.

    Args:
        trajectory: Positions `[chain, draw, 1]`, or `[chain, draw]`; put the start in front for it to be step 0.
        target: The density at the end, `[n, 1] -> [n]`; `[n, 1]` is accepted, so that an elementwise formula will do.
        steps: Which draws; by default five, from the first to the last, closer together at the beginning.
        bounds: The interval drawn; by default all positions at these steps. What lies outside is counted in a note.
        bins: How many bins; chosen from the positions by default.
        axes: Axes to draw on, one for each step; without them a new pyplot figure is made.
    Returns:
        The axes, one for each step.
    Raises:
        ValueError: If a step was not recorded, or there is not one axis for each step.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = histogram_flow(torch.randn(200, 16, 1), steps=[0, 5, 15], axes=Figure().subplots(1, 3))
        >>> [ax.get_title(loc="left") for ax in axes]
        ['step 0', 'step 5', 'step 15']
    """
    positions = paths(trajectory, 1)[:, :, 0]  # [chain, draw]
    last = positions.shape[1] - 1
    if steps is None:
        steps = sorted({round(math.expm1(math.log1p(last) * k / 4)) for k in range(5)})
    if len(steps) == 0 or any(not 0 <= step <= last for step in steps):
        raise ValueError(f"steps is {list(steps)}; expected draws from 0 to {last}, the last one recorded.")
    if axes is None:
        places = panels(len(steps), len(steps), None, (2.3, 2.6), share=True)
    else:
        places = as_many(axes, steps)

    drawn = positions[:, list(steps)]
    span = robust_interval(drawn, tail=0.0, margin=0.02) if bounds is None else checked_interval(bounds)
    edges = bin_edges(drawn[:, -1], span, bins)
    x = torch.linspace(*span, 400, dtype=torch.float64)
    curve = None if target is None else evaluate_density(target, x)
    for k, (ax, step) in enumerate(zip(places, steps, strict=True)):
        remark = draw_histogram(ax, drawn[:, k], edges, color=PALETTE["samples"], label="particles")
        if curve is not None:
            ax.plot(x, curve, color=PALETTE["truth"], linestyle="--", linewidth=1.2, label="target")
        dress(ax, "$x$", "density" if k == 0 else "")
        ax.set_xlim(span)
        ax.set_title(f"step {step}", loc="left", fontsize="medium")
        note(ax, remark)
    places[0].legend(frameon=False, fontsize="small")
    return places
