"""Samples beside data: histograms, marginals of tables, points in the plane, grids of images."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from torch import Tensor

from .canvas import (
    PALETTE,
    aspect,
    axes_or_new,
    bin_edges,
    draw_histogram,
    dress,
    legend_above,
    note,
    panels,
    robust_interval,
)
from .inputs import as_array, checked_interval, evaluate_density, points

__all__ = ["histogram", "marginals", "sample_grid", "scatter"]


def histogram(
    samples: Float[Tensor, " n *one"],
    *,
    density: Callable[[Tensor], Tensor] | None = None,
    bounds: tuple[float, float] | None = None,
    bins: int | None = None,
    label: str = "samples",
    ax: Axes | None = None,
) -> Axes:
    """Draws the histogram of one-dimensional samples, of area one, and over it the density they should follow.

    Args:
        samples: The points, `[n]` or `[n, 1]`.
        density: A density, `[n, 1] -> [n]`; `[n, 1]` is accepted, so that an elementwise formula will do.
        bounds: The interval drawn; by default all the finite samples. What lies outside is counted in a note.
        bins: How many bins; chosen from the samples by default.
        label: Name of the samples in the legend; "data", "samples" and "noise" have colours of their own.
        ax: Axes to draw on; without them a new pyplot figure is made.

    Example:
        >>> from matplotlib.figure import Figure
        >>> normal = torch.distributions.Normal(5.0, 1.0)
        >>> ax = Figure().add_subplot()
        >>> histogram(normal.sample((1000,)), density=lambda x: normal.log_prob(x).exp(), ax=ax) is ax
        True
    """
    values = points(samples, "samples", 1)
    span = robust_interval(values, tail=0.0, margin=0.02) if bounds is None else checked_interval(bounds)
    ax = axes_or_new(ax)
    edges = bin_edges(values, span, bins)
    remark = draw_histogram(ax, values, edges, color=PALETTE.get(label, PALETTE["samples"]), label=label)
    if density is not None:
        x = torch.linspace(*span, 400, dtype=torch.float64)
        ax.plot(x, evaluate_density(density, x), color=PALETTE["truth"], linestyle="--", label="density")
    dress(ax, "$x$", "density")
    ax.set_xlim(span)
    ax.legend(frameon=False)
    note(ax, remark)
    return ax


def marginals(
    data: Float[Tensor, "n d"],
    samples: Float[Tensor, "m d"] | None = None,
    names: Sequence[str] | None = None,
    *,
    max_columns: int = 16,
    bins: int | None = None,
    figure: FigureBase | None = None,
) -> np.ndarray:
    """Draws, for each column of a table, the histograms of data and samples on top of each other, in the same bins.

    Args:
        data: The table, `[n, d]`; its range is the axis of each panel, and samples outside are counted in a note.
        samples: Rows drawn from a model, `[m, d]`.
        names: Names of the columns, `d` of them.
        max_columns: How many columns to draw at most, from the first; a note says how many are left out.
        bins: How many bins; chosen per column from the data by default.
        figure: Figure to make the panels in; without it a new pyplot figure is made.
    Returns:
        The axes of the panels, an array of `min(d, max_columns)`.
    Raises:
        ValueError: If data and samples are not tables of the same columns.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = marginals(torch.randn(100, 3), torch.randn(50, 3), ["a", "b", "c"], figure=Figure())
        >>> axes.shape
        (3,)
    """
    tables = {"data": as_array(data)} | ({} if samples is None else {"samples": as_array(samples)})
    d = tables["data"].shape[-1] if tables["data"].ndim == 2 else 0
    for name, table in tables.items():
        if table.ndim != 2 or table.shape[1] != d or table.size == 0:
            expected = "[n, d]" if name == "data" else f"[m, {d}], the columns of data"
            raise ValueError(
                f"{name} has shape {list(table.shape)}; expected {expected}, a row per point. "
                f"Flatten events into columns: {name}.flatten(1)."
            )
    if names is not None and len(names) != d:
        raise ValueError(f"names has {len(names)} entries; expected {d}, one for each column of data.")

    if max_columns < 1:
        raise ValueError(f"max_columns is {max_columns}; expected at least 1.")
    n_drawn = min(d, max_columns)
    axes = panels(n_drawn, min(n_drawn, 4), figure, (2.9, 2.3))
    for column, ax in enumerate(axes):
        reference = tables["data"][:, column]
        edges = bin_edges(reference, robust_interval(reference, tail=0.0), bins)
        remarks = [
            draw_histogram(ax, table[:, column], edges, color=PALETTE[name], label=name)
            for name, table in tables.items()
        ]
        dress(ax, names[column] if names is not None else f"column {column}", "")
        ax.tick_params(labelleft=False, left=False)
        ax.spines["left"].set_visible(False)
        ax.grid(False)
        if column == 0:
            legend_above(ax, *remarks)
        else:
            note(ax, *remarks)
    if n_drawn < d:
        axes[-1].set_title(f"{n_drawn} of {d} columns drawn", fontsize="small", color=PALETTE["muted"], loc="left")
    return axes


def scatter(
    data: Float[Tensor, "n 2"],
    samples: Float[Tensor, "m 2"] | None = None,
    *,
    bounds: tuple[tuple[float, float], tuple[float, float]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws two-dimensional data and, over it, samples.

    Args:
        data: Points, `[n, 2]`.
        samples: Points drawn from a model, `[m, 2]`.
        bounds: The window, ((x low, x high), (y low, y high)); by default all the data. Samples outside are counted.
        ax: Axes to draw on; without them a new pyplot figure is made.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = scatter(torch.randn(200, 2), torch.randn(200, 2), ax=Figure().add_subplot())
    """
    clouds = {"data": points(data, "data", 2)}
    if samples is not None:
        clouds["samples"] = points(samples, "samples", 2)
    window = (
        [robust_interval(v, tail=0.0) for v in clouds["data"].T] if bounds is None else map(checked_interval, bounds)
    )
    (x_low, x_high), (y_low, y_high) = window
    ax = axes_or_new(ax, (5.2, 5.2))
    remarks = []
    for name, cloud in clouds.items():
        size = float(np.clip(4000 / len(cloud), 4, 14))
        ax.scatter(*cloud.T, s=size, color=PALETTE[name], alpha=0.55, linewidths=0, label=name)
        gone = (cloud < [x_low, y_low]) | (cloud > [x_high, y_high]) | np.isnan(cloud)
        remarks.append(f"{gone.any(1).sum()} of {len(cloud)} {name} outside" if gone.any() else "")
    dress(ax, "$x_1$", "$x_2$")
    ax.set(xlim=(x_low, x_high), ylim=(y_low, y_high), aspect=aspect((x_low, x_high), (y_low, y_high)))
    ax.legend(frameon=False, markerscale=2)
    note(ax, *remarks)
    return ax


def sample_grid(
    images: Shaped[Tensor, " n *image"],
    *,
    n_columns: int | None = None,
    value_range: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws images in a grid, in reading order, with every pixel a crisp square.

    Args:
        images: Grey `[n, h, w]` or `[n, 1, h, w]`, or colour `[n, 3, h, w]`. Pixels that are not finite stay blank.
        n_columns: Images per row; about the square root of `n` by default.
        value_range: Values drawn as black and white. By default (0, 255) for bytes, otherwise the smallest and largest
            pixel of the batch; pass the same pair for samples and for data, so that they can be compared.
        ax: Axes to draw on; without them a new pyplot figure is made.
    Raises:
        ValueError: If `images` is not a batch of grey or colour images.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = sample_grid(torch.rand(10, 8, 8), n_columns=5, ax=Figure().add_subplot())
        >>> ax.images[0].get_array().shape  # rows, columns, and red, green, blue, alpha
        (17, 44, 4)
    """
    pixels = as_array(images)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(
            f"images has shape {list(images.shape)}; expected [n, h, w], [n, 1, h, w] or [n, 3, h, w]. "
            "Flat images are unfolded by images.view(-1, 1, height, width); channels go before height."
        )
    n, _, height, width = pixels.shape
    if n_columns is not None and n_columns < 1:
        raise ValueError(f"n_columns is {n_columns}; expected at least 1.")
    n_columns = min(n, n_columns or int(np.ceil(np.sqrt(n))))
    n_rows = -(-n // n_columns)
    finite = np.isfinite(pixels)
    if value_range is not None:
        low, high = checked_interval(value_range, "value_range")
    elif images.dtype == torch.uint8:
        low, high = 0.0, 255.0
    else:
        low, high = (pixels[finite].min(), pixels[finite].max()) if finite.any() else (0.0, 1.0)
    shade = np.clip((pixels - low) / ((high - low) or 1.0), 0, 1)

    gap = max(1, round(min(height, width) / 16))
    canvas = np.zeros((n_rows * (height + gap) - gap, n_columns * (width + gap) - gap, 4))  # alpha 0: gaps are blank
    for k in range(n):
        top, left = (k // n_columns) * (height + gap), (k % n_columns) * (width + gap)
        cell = canvas[top : top + height, left : left + width]
        cell[..., :3] = np.where(finite[k], shade[k], 0).transpose(1, 2, 0)
        cell[..., 3] = finite[k].all(0)
    ax = axes_or_new(ax, (min(10.0, 0.6 * n_columns + 0.4), min(10.0, 0.6 * n_rows * height / width + 0.4)))
    ax.imshow(canvas, interpolation="nearest")
    ax.set_axis_off()
    note(ax, f"blank: {int((~finite.all(1)).sum())} pixels not finite" if not finite.all() else "")
    return ax
