"""What every picture shares: the palette, axes, notes about what is not drawn, and histograms."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import FigureBase

__all__ = [
    "CYCLE",
    "DENSITY_MAP",
    "ENERGY_MAP",
    "MAP_CYCLE",
    "ORDER_MAP",
    "PALETTE",
    "as_many",
    "aspect",
    "axes_or_new",
    "bin_edges",
    "draw_histogram",
    "dress",
    "heights",
    "legend_above",
    "note",
    "panels",
    "robust_interval",
]

PALETTE: Mapping[str, str] = MappingProxyType(
    {
        "data": "#0072B2",
        "samples": "#D55E00",
        "noise": "#7F8791",
        "truth": "#20242C",
        "energy": "#00796B",
        "muted": "#5F6670",
        "grid": "#E3E6EA",
    }
)
"""Colour of each role, safe for the common forms of colour blindness. What a model says is drawn as `samples`."""

CYCLE = ("#0072B2", "#D55E00", "#00796B", "#8E4585", "#B8860B", "#3F3F8F", "#A23B3B", "#5A7D2A")
"""Colours of chains and curves that have no role of their own."""

MAP_CYCLE = ("#D55E00", "#B5179E", "#20242C", "#8C1D18")
"""Colours of paths that stay visible on the energy map, its dark wells and its pale heights."""

ENERGY_MAP, DENSITY_MAP, ORDER_MAP = "YlGnBu_r", "YlGnBu", "viridis"  # probable is dark in both of the first two


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (6.4, 4.2)) -> Axes:
    """The axes given or, without them, those of a new pyplot figure, the one thing here that pyplot is used for."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def panels(n: int, n_columns: int, figure: FigureBase | None, size: tuple[float, float], *,
           share: bool = False) -> np.ndarray:  # fmt: skip
    """`n` axes in reading order, `[n]`, on the figure given or a new one; unused places of the last row stay empty."""
    n_rows = math.ceil(n / n_columns)
    if figure is None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(size[0] * n_columns, size[1] * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharex=share, sharey=share).ravel()
    for unused in grid[n:]:
        unused.remove()
    return grid[:n]


def as_many(axes: Sequence[Axes] | np.ndarray, wanted: Sequence[object]) -> np.ndarray:
    """The axes given, as a flat array, if there is one for each thing to draw."""
    flat = np.ravel(np.array(axes))
    if len(flat) != len(wanted):
        raise ValueError(f"axes has {len(flat)} entries; expected {len(wanted)}, one for each of {list(wanted)}.")
    return flat


def dress(ax: Axes, x_label: str, y_label: str) -> None:
    """Labels the axes and takes away what carries no information."""
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=PALETTE["grid"], linewidth=0.6)
    ax.set_axisbelow(True)


def note(ax: Axes, *remarks: str) -> int:
    """Writes, above the right end of the axes, what the picture does not show; returns the number of lines."""
    said = [remark for remark in remarks if remark]
    lines = ["; ".join(said)] if sum(map(len, said)) < 75 else said
    if said:
        style = {"fontsize": "small", "color": PALETTE["muted"], "ha": "right", "va": "bottom"}
        ax.annotate("\n".join(lines), (1, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", **style)
    return len(lines) if said else 0


def legend_above(ax: Axes, *remarks: str, handles: Sequence[Artist] | None = None) -> None:
    """Puts the legend in a row above the axes, and above the remarks, where it can hide nothing."""
    n_lines = note(ax, *remarks)
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(handles),
        frameon=False,
        fontsize="small",
        borderaxespad=0.1 + 1.2 * n_lines,
        borderpad=0.2,
        columnspacing=1.2,
    )


def aspect(x_bounds: tuple[float, float], y_bounds: tuple[float, float]) -> Literal["equal", "auto"]:
    """Equal units on both axes, unless one side of the window would be a sliver."""
    sides = (x_bounds[1] - x_bounds[0], y_bounds[1] - y_bounds[0])
    return "equal" if max(sides) <= 3 * min(sides) else "auto"


def robust_interval(values: np.ndarray, tail: float = 0.5, margin: float = 0.05) -> tuple[float, float]:
    """Between the `tail` and `100 - tail` percentiles of the finite values, and a margin on both sides."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return -1.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, [tail, 100 - tail]))
    # A constant has no width of its own: one is made that float64 resolves at its size.
    pad = margin * (high - low) or 0.5 * max(1.0, abs(low))
    return low - pad, high + pad


def bin_edges(values: np.ndarray, bounds: tuple[float, float], bins: int | None) -> np.ndarray:
    """Edges of equal bins; their number, unless given, by the rule of Freedman & Diaconis, between 30 and 80."""
    inside = values[(values >= bounds[0]) & (values <= bounds[1])]
    if bins is None:
        spread = np.subtract(*np.percentile(inside, [75, 25])) if inside.size else 0.0
        width = 2 * spread / max(inside.size, 1) ** (1 / 3)
        bins = int(np.clip((bounds[1] - bounds[0]) / width, 30, 80)) if width > 0 else 30
    return np.linspace(*bounds, bins + 1)


def heights(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Density per bin, a share of all the finite values: what lies outside the edges is missing, not spread inside."""
    n = max(int(np.isfinite(values).sum()), 1)
    return np.histogram(values[np.isfinite(values)], edges)[0] / (n * np.diff(edges))


def draw_histogram(ax: Axes, values: np.ndarray, edges: np.ndarray, *, color: str, label: str) -> str:
    """Draws a filled histogram and returns the remark about the values it leaves out, empty if there are none."""
    height = heights(values, edges)
    ax.stairs(height, edges, fill=True, facecolor=to_rgba(color, 0.25), edgecolor=color, linewidth=1.2, label=label)
    return left_out(values, edges[0], edges[-1], label)


def left_out(values: np.ndarray, low: float, high: float, label: str) -> str:
    """Counts the values outside [low, high] and those that are not finite; empty if there are none."""
    outside = int(((values < low) | (values > high)).sum())
    undefined = int(np.isnan(values).sum())
    counts = [f"{outside} of {values.size} {label} outside"] if outside else []
    return ", ".join(counts + ([f"{undefined} of {values.size} {label} NaN"] if undefined else []))
