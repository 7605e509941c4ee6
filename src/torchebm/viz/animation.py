"""Particles in motion: an animation of chains flowing to their target, and the file it is saved in."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from torch import Tensor

from .canvas import PALETTE, aspect, axes_or_new, bin_edges, dress, heights, robust_interval
from .energies import energy_landscape
from .inputs import boltzmann, checked_interval, evaluate, paths

__all__ = ["animate_flow", "save_animation"]

Bounds = tuple[float, float]


def animate_flow(
    trajectory: Float[Tensor, "chain draw dimension"],
    model: Callable[[Tensor], Tensor] | None = None,
    *,
    interval: float = 60.0,
    bounds: Bounds | tuple[Bounds, Bounds] | None = None,
    ax: Axes | None = None,
) -> FuncAnimation:
    """Animates particles flowing to their target: over the landscape of the energy, or as a histogram on the line.

    Keep the animation in a variable until it is shown or saved: matplotlib stops the ones nobody holds.

    Args:
        trajectory: Positions `[chain, draw, 2]`, `[chain, draw, 1]` or `[chain, draw]`; a frame per draw.
        model: An energy, `[n, dimension] -> [n]`: its landscape is drawn behind points, its density over histograms.
        interval: Milliseconds between frames.
        bounds: The window, ((x low, x high), (y low, y high)), or on the line (low, high); by default where the
            middle 99 % of the positions are.
        ax: Axes to draw on; without them a new pyplot figure is made.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from matplotlib.figure import Figure
        >>> flow = animate_flow(torch.randn(100, 3, 2), ax=Figure().add_subplot())
        >>> with TemporaryDirectory() as folder:
        ...     save_animation(flow, folder + "/flow.gif").name
        'flow.gif'
    """
    positions = paths(trajectory, 2, 1)
    if positions.shape[2] == 2:
        return animate_points(positions, model, interval, bounds, ax)
    return animate_histogram(positions[:, :, 0], model, interval, bounds, ax)


def animate_points(positions: np.ndarray, model: Callable | None, interval: float, bounds: tuple | None,
                   ax: Axes | None) -> FuncAnimation:  # fmt: skip
    """Points in the plane, `[chain, draw, 2]`."""
    if bounds is None:
        x_bounds, y_bounds = (robust_interval(positions[:, :, i]) for i in range(2))
    elif np.shape(bounds) == (2, 2):
        x_bounds, y_bounds = (checked_interval(pair) for pair in bounds)
    else:
        raise ValueError(f"bounds is {bounds!r}; expected ((x low, x high), (y low, y high)) for points in the plane.")
    ax = axes_or_new(ax, (6.4, 5.2))
    if model is not None:
        energy_landscape(model, (x_bounds, y_bounds), ax=ax)
    else:
        dress(ax, "$x_1$", "$x_2$")
        ax.set(xlim=x_bounds, ylim=y_bounds, aspect=aspect(x_bounds, y_bounds))
    dots = ax.scatter(*positions[:, 0].T, s=10, color=PALETTE["samples"], edgecolors="white", linewidths=0.3, zorder=3)
    title = ax.set_title("step 0", loc="left", fontsize="medium")

    def draw(step: int) -> tuple:
        dots.set_offsets(positions[:, step])
        title.set_text(f"step {step}")
        return dots, title

    return FuncAnimation(ax.figure.canvas.figure, draw, frames=positions.shape[1], interval=interval)


def animate_histogram(positions: np.ndarray, model: Callable | None, interval: float, bounds: tuple | None,
                      ax: Axes | None) -> FuncAnimation:  # fmt: skip
    """Histograms of positions on the line, `[chain, draw]`."""
    span = robust_interval(positions) if bounds is None else checked_interval(bounds)
    ax = axes_or_new(ax)
    edges = bin_edges(positions[:, -1], span, None)
    frames = [heights(column, edges) for column in positions.T]
    bars = ax.stairs(frames[0], edges, fill=True, color=PALETTE["samples"], alpha=0.45, label="particles")
    top = max(float(frame.max()) for frame in frames[len(frames) // 2 :])
    if model is not None:
        x = torch.linspace(*span, 400, dtype=torch.float64)
        curve = boltzmann(evaluate(model, x[:, None]), x)
        ax.plot(x, curve, color=PALETTE["truth"], linestyle="--", label="density of the model")
        top = max(top, float(curve.nan_to_num().max()))
    dress(ax, "$x$", "density")
    # Particles that start at one point make a spike: the axis is scaled to the second half of the flow.
    ax.set(xlim=span, ylim=(0, 1.15 * top or 1.0))
    ax.legend(frameon=False, loc="upper right")
    title = ax.set_title("step 0", loc="left", fontsize="medium")

    def draw(step: int) -> tuple:
        bars.set_data(frames[step])
        title.set_text(f"step {step}")
        return bars, title

    return FuncAnimation(ax.figure.canvas.figure, draw, frames=len(frames), interval=interval)


def save_animation(animation: FuncAnimation, path: str | PathLike, *, dpi: float = 100.0) -> Path:
    """Writes an animation to a .gif, at the pace it was made with, and returns the path.

    Args:
        animation: What `animate_flow` returned.
        path: Where to write; the name ends in .gif.
        dpi: Pixels per inch of the figure.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(
            f"path is {str(path)!r}; expected a name that ends in .gif: {path.with_suffix('.gif').name!r}."
        )
    animation.save(str(path), writer="pillow", dpi=dpi)
    return path
