"""Energies: as a landscape over the plane, as a curve over the line, and as histograms."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from torch import Tensor

from .canvas import (
    CYCLE,
    DENSITY_MAP,
    ENERGY_MAP,
    MAP_CYCLE,
    PALETTE,
    aspect,
    axes_or_new,
    bin_edges,
    draw_histogram,
    dress,
    legend_above,
    note,
    robust_interval,
)
from .inputs import as_array, boltzmann, checked_interval, evaluate, evaluate_density, paths, points

__all__ = ["energy_1d", "energy_histograms", "energy_landscape"]

Bounds = tuple[float, float]


def energy_landscape(
    model: Callable[[Tensor], Tensor],
    bounds: tuple[Bounds, Bounds] = ((-3.0, 3.0), (-3.0, 3.0)),
    *,
    samples: Float[Tensor, "n 2"] | None = None,
    trajectory: Float[Tensor, "chain draw 2"] | None = None,
    resolution: int = 200,
    density: bool = False,
    levels: int | Sequence[float] = 8,
    percentile: float = 75.0,
    ax: Axes | None = None,
) -> Axes:
    r"""Draws the energy of a two-dimensional model, or its density, with samples or trajectories over it.

    Colours follow the square root of the energy above its minimum, which grows evenly with the distance from the
    bottom of a well, and end at a percentile of the energies in the window; the values do not, and the colour bar
    says so.

    Args:
        model: An energy, `[n, 2] -> [n]`; evaluated once, on `resolution`² points, without gradients and in eval mode.
        bounds: The window, ((x low, x high), (y low, y high)).
        samples: Points to draw, `[n, 2]`.
        trajectory: Paths to draw, `[chain, draw, 2]`; a ring marks each start, a dot each end.
        resolution: Points along each axis.
        density: Whether to draw $e^{-E}/Z$ instead, with $Z$ over the window.
        levels: How many contour lines, or the values to draw them at; 0 draws none.
        percentile: Where the colours of the energy end, as a percentile of its values in the window.
        ax: Axes to draw on; without them a new pyplot figure is made.
    Returns:
        The axes; the values drawn are `ax.images[0].get_array()`, masked where the energy is not finite.
    Raises:
        ValueError: If the model does not return one energy per point, or a shape or the window is wrong.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = energy_landscape(lambda x: (x**2).sum(-1), resolution=50, ax=Figure().add_subplot())
        >>> ax.images[0].get_array().shape
        (50, 50)
    """
    x_bounds, y_bounds = checked_interval(bounds[0], "bounds[0]"), checked_interval(bounds[1], "bounds[1]")
    dots = None if samples is None else points(samples, "samples", 2)
    lines = None if trajectory is None else paths(trajectory, 2)
    if resolution < 2:
        raise ValueError(f"resolution is {resolution}; expected at least 2 points along each axis.")
    ax = axes_or_new(ax, (6.4, 5.2))

    xs = torch.linspace(*x_bounds, resolution, dtype=torch.float64)
    ys = torch.linspace(*y_bounds, resolution, dtype=torch.float64)
    energy = evaluate(model, torch.cartesian_prod(ys, xs).flip(-1)).view(resolution, resolution)  # [y, x]
    values = np.ma.masked_invalid((boltzmann(energy, ys, xs) if density else energy).numpy())
    shown = values.compressed() if values.count() else np.zeros(1)
    low, high = float(shown.min()), float(shown.max() if density else np.percentile(shown, percentile))
    high = high if high > low else low + 1.0

    half = [(b[1] - b[0]) / (resolution - 1) / 2 for b in (x_bounds, y_bounds)]  # pixels are centred on their points
    image = ax.imshow(
        values,
        origin="lower",
        extent=(x_bounds[0] - half[0], x_bounds[1] + half[0], y_bounds[0] - half[1], y_bounds[1] + half[1]),
        cmap=DENSITY_MAP if density else ENERGY_MAP,
        norm=Normalize(low, high) if density else PowerNorm(0.5, low, high),
        interpolation="nearest",
        aspect=aspect(x_bounds, y_bounds),
    )
    ax.set_facecolor(PALETTE["grid"])  # what is not drawn is not mistaken for the palest colour
    if isinstance(levels, int):
        share = np.arange(1, levels + 1) / (levels + 1)
        heights = low + (high - low) * (share if density else share**2)
    else:
        heights = np.sort(np.asarray(levels, dtype=float))
    if heights.size and values.count() and shown.max() > low:
        ax.contour(xs.numpy(), ys.numpy(), values, levels=heights, colors="white", linewidths=0.6, alpha=0.7)
    capped = shown.max() > high
    label = "density, normalised over the window" if density else "energy"
    if capped:
        label += f" (colours end at percentile {percentile:g}; the highest is {shown.max():.3g})"
    bar = ax.figure.colorbar(image, ax=ax, label=label, extend="max" if capped else "neither")
    bar.outline.set_visible(False)

    if lines is not None:
        draw_paths(ax, lines)
    if dots is not None:
        ax.scatter(*dots.T, s=9, color=PALETTE["samples"], edgecolors="white", linewidths=0.3, zorder=3)
    dress(ax, "$x_1$", "$x_2$")
    ax.grid(False)
    ax.set(xlim=x_bounds, ylim=y_bounds)
    outside = 0 if dots is None else int((~inside(dots, x_bounds, y_bounds)).sum())
    note(
        ax,
        f"{int(values.mask.sum())} of {values.size} points not finite" if values.mask.any() else "",
        f"{outside} of {len(dots)} samples outside the window" if dots is not None and outside else "",
    )
    return ax


def inside(dots: np.ndarray, x_bounds: Bounds, y_bounds: Bounds) -> np.ndarray:
    """Which points `[n, 2]` lie in the window."""
    low, high = np.array([x_bounds, y_bounds]).T
    return ((dots >= low) & (dots <= high)).all(1)


def draw_paths(ax: Axes, lines: np.ndarray) -> None:
    """Draws `[chain, draw, 2]`, with a ring at each start and a dot at each end."""
    many = len(lines) > 8  # too many to follow each
    colors = [PALETTE["samples"] if many else MAP_CYCLE[i % len(MAP_CYCLE)] for i in range(len(lines))]
    for line, color in zip(lines, colors, strict=True):
        ax.plot(*line.T, color=color, linewidth=0.9, alpha=0.4 if many else 0.85, zorder=2)
    ax.scatter(*lines[:, 0].T, s=28, facecolors="white", edgecolors=colors, linewidths=1.2, zorder=4, label="start")
    ax.scatter(*lines[:, -1].T, s=28, c=colors, edgecolors="white", linewidths=0.6, zorder=4, label="end")
    ax.legend(loc="upper right", frameon=True, framealpha=0.8, edgecolor="none")  # a map needs a ground under words


def energy_1d(
    model: Callable[[Tensor], Tensor],
    bounds: Bounds,
    *,
    data: Float[Tensor, " n *one"] | None = None,
    samples: Float[Tensor, " m *one"] | None = None,
    truth: Callable[[Tensor], Tensor] | None = None,
    density: bool = True,
    resolution: int = 400,
    ax: Axes | None = None,
) -> Axes:
    r"""Draws the energy of a one-dimensional model and, against a second axis, its density beside data and truth.

    Args:
        model: An energy, `[n, 1] -> [n]`.
        bounds: The interval drawn, (low, high).
        data: Points whose histogram to draw, `[n]` or `[n, 1]`.
        samples: Points drawn from the model, likewise.
        truth: The true density, `[n, 1] -> [n]`; `[n, 1]` is accepted, so that an elementwise formula will do.
        density: Whether to draw $e^{-E}/Z$, with $Z$ by the trapezoid rule over `bounds`.
        resolution: Points along the interval.
        ax: Axes to draw the energy on; without them a new pyplot figure is made.
    Returns:
        The axes of the energy; those of the density are the last of `ax.figure.axes`.
    Raises:
        ValueError: If the model does not return one energy per point, or a shape or the interval is wrong.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = energy_1d(lambda x: 0.5 * (x[:, 0] - 5) ** 2, (0, 10), ax=Figure().add_subplot())
        >>> [line.get_label() for line in ax.lines]
        ['energy']
    """
    low, high = checked_interval(bounds)
    given = {"data": data, "samples": samples}
    clouds = {name: points(x, name, 1) for name, x in given.items() if x is not None}
    ax = axes_or_new(ax)

    x = torch.linspace(low, high, resolution, dtype=torch.float64)
    energy = evaluate(model, x[:, None])
    (curve,) = ax.plot(x, np.where(energy.isfinite(), energy, np.nan), color=PALETTE["energy"], label="energy")
    curve.set_linewidth(2.0)
    dress(ax, "$x$", "energy")
    ax.set_xlim(low, high)
    undefined = int((~energy.isfinite()).sum())
    remarks = [f"{undefined} of {resolution} points without a finite energy"] if undefined else []

    handles = [curve]
    if density or truth is not None or clouds:
        right = ax.twinx()
        ax.set_zorder(right.get_zorder() + 1)  # the energy is drawn over the histograms
        ax.patch.set_visible(False)
        ax.grid(False)
        edges = bin_edges(np.concatenate([*clouds.values(), np.zeros(0)]), (low, high), None)
        remarks += [draw_histogram(right, c, edges, color=PALETTE[name], label=name) for name, c in clouds.items()]
        if density:
            right.plot(x, boltzmann(energy, x), color=PALETTE["samples"], label="density of the model")
        if truth is not None:
            right.plot(x, evaluate_density(truth, x), color=PALETTE["truth"], linestyle="--", label="true density")
        right.set_ylabel("density")
        right.set_ylim(bottom=0)
        right.spines["top"].set_visible(False)
        handles += right.get_legend_handles_labels()[0]
    legend_above(ax, *remarks, handles=handles)
    return ax


def energy_histograms(energies: Mapping[str, Float[Tensor, " n"]], *, bins: int | None = None,
                      ax: Axes | None = None) -> Axes:  # fmt: skip
    """Draws histograms of energies, say of data, samples and noise, in shared bins: what training has to set apart.

    The axis spans the middle 99 % of all energies but those named "noise", which may lie anywhere; what falls outside
    is counted in a note above it, and heights are shares of all the values, not of those on the axis.

    Args:
        energies: Energies by name, each `[n]`; "data", "samples" and "noise" have colours of their own.
        bins: How many bins; chosen from the values by default.
        ax: Axes to draw on; without them a new pyplot figure is made.
    Raises:
        ValueError: If there is nothing to draw or some energies are not `[n]`.

    Example:
        >>> from matplotlib.figure import Figure
        >>> energies = {"data": torch.randn(500), "noise": torch.randn(500) + 9}
        >>> ax = energy_histograms(energies, ax=Figure().add_subplot())
    """
    if not energies:
        raise ValueError('energies is empty; expected at least one entry, such as {"data": model(x)}.')
    arrays = {name: as_array(energy) for name, energy in energies.items()}
    for name, array in arrays.items():
        if array.ndim != 1 or array.size == 0:
            raise ValueError(
                f"energies[{name!r}] has shape {list(array.shape)}; expected [n] with n > 0, one energy per point."
            )
    ax = axes_or_new(ax)
    known = [array for name, array in arrays.items() if name != "noise"] or list(arrays.values())
    edges = bin_edges(np.concatenate(known), robust_interval(np.concatenate(known)), bins)
    spare = iter(CYCLE[2:] * len(arrays))
    remarks = [
        draw_histogram(ax, array, edges, color=PALETTE[name] if name in PALETTE else next(spare), label=name)
        for name, array in arrays.items()
    ]
    dress(ax, "energy", "density")
    ax.set_xlim(edges[0], edges[-1])
    ax.legend(frameon=False)
    note(ax, *remarks)
    return ax
