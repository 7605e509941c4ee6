"""Pictures of convergence, in matplotlib alone, so that they look the same with every release of ArviZ.

Each function takes a trajectory, draws the entries asked for, and returns the axes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from torchebm.core.checks import integer

from .entries import Entries, Names, as_array, diverging_draws, per_draw, screen, worst

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

__all__ = ["autocorrelation", "energy", "pair", "rank", "trace"]

Diagnostics = Mapping[str, Shaped[Tensor, "..."] | np.ndarray]

CHAINS = ("#0072B2", "#00796B", "#8E4585", "#B8860B", "#3F3F8F", "#5A7D2A", "#56B4E9", "#7F8791")
DIVERGENCE, MARGINAL, TRANSITION, LINE, MUTED = "#D55E00", "#0072B2", "#D55E00", "#20242C", "#5F6670"
LOW_BFMI = 0.3
MAX_POINTS = 3000  # that a panel of a pair plot shows


def trace(trajectory: Float[Tensor, "chain draw *event"] | np.ndarray, diagnostics: Diagnostics | None = None, *,
          names: Names = None, entries: Sequence[str] | None = None, max_panels: int = 6,
          figure: "FigureBase | None" = None) -> np.ndarray:  # fmt: skip
    """Draws every chain against the draw, with a tick below for each draw at which one diverged.

    Chains that have mixed cannot be told apart.

    Args:
        trajectory: `[chain, draw, *event]`; an array will do.
        diagnostics: For the divergences.
        names: Names of entries or variables, as in `to_arviz`.
        entries: Labels to draw, `["x[2]"]`, or names of variables; left out, those whose chains disagree most.
        max_panels: How many to draw at most if `entries` is left out.
        figure: Where to draw; without it a new pyplot figure is made.

    Returns:
        The axes, one for each entry.

    Raises:
        ValueError: If there is no such entry, or the shapes are not chains first.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> axes = trace(torch.randn(4, 100, 3), names=["alpha", "beta", "gamma"], entries=["beta"], figure=Figure())
        >>> [ax.get_title(loc="left") for ax in axes]
        ['beta']
    """
    labels, x, diverging, remark = picked(trajectory, diagnostics, names, entries, max_panels)
    axes = panels(len(labels), 1, figure, (7.2, 1.9))
    at = np.flatnonzero(diverging.any(0))
    for ax, label, values in zip(axes, labels, x, strict=True):
        for chain, line in enumerate(values):
            ax.plot(line, color=CHAINS[chain % len(CHAINS)], linewidth=0.7, alpha=0.8 if len(values) <= 8 else 0.35)
        if len(at):
            below = {"transform": ax.get_xaxis_transform(), "clip_on": False}
            ax.plot(at, np.full(len(at), 0.02), "|", color=DIVERGENCE, label="diverging", **below)
        ax.margins(x=0)
        dress(ax, label, "", undefined(values))
    axes[-1].set_xlabel("draw")
    note(axes[0], remark, f"{diverging.sum()} divergences" if len(at) else "")
    return axes


def rank(trajectory: Float[Tensor, "chain draw *event"] | np.ndarray, *, names: Names = None,
         entries: Sequence[str] | None = None, max_panels: int = 6, bins: int = 20,
         figure: "FigureBase | None" = None) -> np.ndarray:  # fmt: skip
    """Draws the histogram of each chain's ranks among all draws: level where the chains agree.

    Arguments are those of `trace`, and `bins`. A chain that sits too low has too many small ranks; one that moves too
    little has all of its ranks in a few bins. The band holds a bin of independent draws in 99.7 % of cases; draws that
    are correlated leave it more often.

    References: Vehtari et al. (2021), https://doi.org/10.1214/20-BA1221

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> axes = rank(torch.randn(4, 200), figure=Figure())
        >>> axes.shape, len(axes[0].patches) >= 4
        ((1,), True)
    """
    bins = integer("bins", bins, at_least=2)
    labels, x, _, remark = picked(trajectory, None, names, entries, max_panels)
    axes = panels(len(labels), min(2, len(labels)), figure, (4.2, 2.4))
    n_chains, n_draws = x.shape[1:]
    edges = np.linspace(0, n_chains * n_draws, bins + 1)
    level = n_draws / bins
    band = 3 * math.sqrt(level * (1 - 1 / bins) * (1 - 1 / n_chains)) if n_chains > 1 else 0.0
    for ax, label, values in zip(axes, labels, x, strict=True):
        ranks = average_ranks(values)
        ax.axhspan(level - band, level + band, color=MUTED, alpha=0.15, linewidth=0)
        ax.axhline(level, color=LINE, linestyle="--", linewidth=0.8)
        for chain, own in enumerate(ranks):
            color = CHAINS[chain % len(CHAINS)]
            ax.stairs(np.histogram(own, edges)[0], edges, color=color, alpha=0.9 if n_chains <= 8 else 0.35)
        ax.set_ylim(bottom=0)
        ax.margins(x=0)
        dress(ax, label, f"rank among {n_chains * n_draws} draws", undefined(values))
    note(axes[0], remark)
    return axes


def autocorrelation(trajectory: Float[Tensor, "chain draw *event"] | np.ndarray, *, names: Names = None,
                    entries: Sequence[str] | None = None, max_panels: int = 6, max_lag: int | None = None,
                    figure: "FigureBase | None" = None) -> np.ndarray:  # fmt: skip
    """Draws the autocorrelation of each chain, thin, and its mean over chains: how long a chain remembers.

    Arguments are those of `trace`; `max_lag` is 100, or half the chain, if left out. Each chain is compared with its
    own mean, so chains that are stuck in different places look well here: see `rank`.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> axes = autocorrelation(torch.randn(4, 200), max_lag=30, figure=Figure())
        >>> float(axes[0].lines[-1].get_ydata()[0]), len(axes[0].lines[-1].get_xdata())
        (1.0, 31)
    """
    labels, x, _, remark = picked(trajectory, None, names, entries, max_panels)
    n_draws = x.shape[2]
    max_lag = min(100, n_draws // 2) if max_lag is None else integer("max_lag", max_lag)
    if max_lag >= n_draws:
        raise ValueError(f"max_lag must be from 0 to {n_draws - 1}, in chains of {n_draws} draws; got {max_lag!r}.")
    axes = panels(len(labels), min(2, len(labels)), figure, (4.2, 2.4))
    for ax, label, values in zip(axes, labels, x, strict=True):
        rho = autocorrelations(values)[:, : max_lag + 1]  # [chain, lag]
        known = np.isfinite(rho[:, 0])
        ax.axhline(0, color=LINE, linewidth=0.8)
        for chain in np.flatnonzero(known):
            ax.plot(rho[chain], color=CHAINS[chain % len(CHAINS)], linewidth=0.6, alpha=0.5)
        if known.any():
            ax.plot(rho[known].mean(0), color=LINE, linewidth=1.8)
        ax.set_ylim(min(-0.2, ax.get_ylim()[0]), 1.05)
        without = len(rho) - int(known.sum())
        dress(ax, label, "lag, in draws", f"{without} of {len(rho)} chains constant or not finite" if without else "")
    note(axes[0], remark)
    return axes


def energy(diagnostics: Diagnostics, *, ax: "Axes | None" = None) -> "Axes":
    r"""Draws the energies of the draws about their mean, and the changes between draws, with the E-BFMI.

    $\text{E-BFMI} = \sum_t (E_t - E_{t-1})^2 / \sum_t (E_t - \bar E)^2$, one for each chain. Where changes are narrow
    against the energies, chains climb and descend slowly, and may not have reached the tails.

    Args:
        diagnostics: What `sample(return_diagnostics=True)` returned; `energy` is read.
        ax: Axes to draw on; without them a new pyplot figure is made.

    Raises:
        ValueError: If there is no `energy` `[chain, draw]`, or it has fewer than 2 finite draws in every chain.

    Note: defined for the total energy of Hamiltonian samplers, of which below 0.3 is low. The energies recorded here
    are those of the model, for which it is 2 (1 - ρ), with ρ the autocorrelation at lag 1: 2 for independent draws, and
    0.3 where ρ is 0.85. It so depends on thinning.

    References: Betancourt (2016), https://arxiv.org/abs/1604.00695

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> ax = energy({"energy": torch.randn(4, 100)}, ax=Figure().add_subplot())
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['energy - mean', 'change between draws']
    """
    if "energy" not in diagnostics:
        raise ValueError(f"diagnostics hold {sorted(diagnostics)}, no energy: sample(return_diagnostics=True) does.")
    values = as_array(diagnostics["energy"]).astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"diagnostics['energy'] has shape {list(values.shape)}; expected [chain, draw].")
    finite = values[np.isfinite(values).all(1)]
    if 0 in finite.shape or values.shape[1] < 2:
        raise ValueError(f"energies of {len(finite)} of {len(values)} chains are finite, of {values.shape[1]} draws "
                         "each; expected at least one chain of 2.")  # fmt: skip
    ratios = bfmi(finite)
    marginal, transition = (finite - finite.mean()).ravel(), np.diff(finite, axis=1).ravel()
    ax = panels(1, 1, None, (6.4, 3.6))[0] if ax is None else ax
    reach = float(np.abs(np.concatenate([marginal, transition])).max()) or 1.0
    edges = np.linspace(-reach, reach, 61)
    for part, color, label in ((marginal, MARGINAL, "energy - mean"), (transition, TRANSITION, "change between draws")):
        heights = np.histogram(part, edges)[0] / (len(part) * np.diff(edges))
        ax.stairs(heights, edges, fill=True, color=color, alpha=0.25)
        ax.stairs(heights, edges, color=color, label=label)
    ax.legend(frameon=False, fontsize="small")
    dress(ax, "", "energy")
    known = ratios[np.isfinite(ratios)]
    low, still, left_out = int((known < LOW_BFMI).sum()), len(ratios) - len(known), len(values) - len(finite)
    note(ax, f"E-BFMI {known.min():.2f} to {known.max():.2f}" if len(known) else "",
         f"below {LOW_BFMI} in {low} of {len(values)} chains" if low else "",
         f"constant in {still}" if still else "", f"not finite in {left_out}" if left_out else "")  # fmt: skip
    return ax


def pair(trajectory: Float[Tensor, "chain draw *event"] | np.ndarray, diagnostics: Diagnostics | None = None, *,
         names: Names = None, entries: Sequence[str] | None = None, max_entries: int = 4,
         figure: "FigureBase | None" = None) -> np.ndarray:  # fmt: skip
    """Draws each pair of entries against each other, divergences on top: where they crowd, the density is hard to walk.

    Args:
        trajectory: `[chain, draw, *event]`; an array will do.
        diagnostics: For the divergences.
        names: Names of entries or variables, as in `to_arviz`.
        entries: Labels to draw, or names of variables; left out, those whose chains disagree most.
        max_entries: How many to draw at most if `entries` is left out.
        figure: Where to draw; without it a new pyplot figure is made.

    Returns:
        The axes, `[entry, entry]`: histograms on the diagonal, `None` above it.

    Raises:
        ValueError: If there are fewer than two entries to draw.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> axes = pair(torch.randn(4, 100, 2), {"diverging": torch.zeros(4, 100) > 0}, figure=Figure())
        >>> axes[1, 0].get_xlabel(), axes[1, 0].get_ylabel(), axes[0, 1]
        ('x[0]', 'x[1]', None)
    """
    labels, x, diverging, remark = picked(trajectory, diagnostics, names, entries, max_entries)
    n = len(labels)
    if n < 2:
        raise ValueError(f"a pair needs two entries; got {labels}.")
    flags = diverging.ravel()
    points = x.reshape(n, -1)  # [entry, chain * draw]
    plain = np.flatnonzero(~flags)
    shown = plain[np.linspace(0, len(plain) - 1, min(len(plain), MAX_POINTS)).astype(int)]
    figure = new_figure((2.1 * n, 2.1 * n)) if figure is None else figure
    grid: np.ndarray = figure.subplots(n, n, squeeze=False, sharex="col")
    for row, column in np.ndindex(n, n):
        ax = grid[row, column]
        if column > row:
            ax.remove()
            grid[row, column] = None
            continue
        if row == column:
            finite = points[row][np.isfinite(points[row])]
            ax.hist(finite, 40, color=MARGINAL, alpha=0.6)
            ax.set_yticks([])
        else:
            ax.plot(points[column, shown], points[row, shown], ".", color=MARGINAL, markersize=2, alpha=0.35)
            ax.plot(points[column, flags], points[row, flags], "x", color=DIVERGENCE, markersize=5, label="diverging")
            ax.set_ylabel(labels[row] if column == 0 else "")
        dress(ax, "", labels[column] if row == n - 1 else "")
    counts = f"{len(shown)} of {points.shape[1]} draws" if len(shown) < len(plain) else f"{points.shape[1]} draws"
    note(grid[0, 0], remark, counts, f"{flags.sum()} divergences" if flags.any() else "", undefined(points), left=True)
    return grid


# numbers --------------------------------------------------------------------------------------------------------------


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks among all finite values, from 0.5 on, ties at their mean; NaN where a value is not finite."""
    ranks, finite = np.full(values.shape, np.nan), np.isfinite(values)
    _, place, counts = np.unique(values[finite], return_inverse=True, return_counts=True)
    ranks[finite] = (np.cumsum(counts) - 0.5 * counts)[place]
    return ranks


def autocorrelations(values: np.ndarray) -> np.ndarray:
    """`[chain, draw] -> [chain, lag]`, each chain about its own mean; NaN where it is constant or not finite."""
    n = values.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        still = (values == values[:, :1]).all(1, keepdims=True)
        spectrum = np.fft.rfft(values - values.mean(1, keepdims=True), 2 * n)  # zeros behind: no lag wraps around
        covariance = np.fft.irfft(np.abs(spectrum) ** 2, 2 * n)[:, :n]
        return np.where(still, np.nan, covariance / covariance[:, :1])


def bfmi(values: np.ndarray) -> np.ndarray:
    """`[chain, draw] -> [chain]`; NaN where the energy is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.square(np.diff(values)).sum(1) / np.square(values - values.mean(1, keepdims=True)).sum(1)


# panels ---------------------------------------------------------------------------------------------------------------


def picked(trajectory: Any, diagnostics: Diagnostics | None, names: Names, wanted: Sequence[str] | None,
           at_most: int) -> tuple[list[str], np.ndarray, np.ndarray, str]:  # fmt: skip
    """What is to be drawn: labels, values `[entry, chain, draw]`, divergences `[chain, draw]`, and a remark."""
    at_most = integer("the number of entries to draw", at_most, at_least=1)
    entries = Entries(trajectory, names)
    stats = per_draw(diagnostics, entries.n_chains, entries.n_draws)
    if wanted is not None:
        chosen = np.array(entries.find([wanted] if isinstance(wanted, str) else wanted), dtype=int)
    elif len(entries) > at_most:
        chosen = worst(screen(entries).disagreement, at_most)
    else:
        chosen = np.arange(len(entries))
    if len(chosen) == 0:
        raise ValueError("entries is empty; expected one label at least.")
    all_shown = wanted is not None or len(chosen) == len(entries)
    remark = "" if all_shown else f"{len(chosen)} of {len(entries)} entries, whose chains disagree most"
    x = np.moveaxis(entries.values(chosen), 2, 0)
    diverging = diverging_draws(stats)
    diverging = np.zeros(x.shape[1:], bool) if diverging is None else diverging
    return [entries.labels[k] for k in chosen], x, diverging, remark


def new_figure(size: tuple[float, float]) -> "FigureBase":
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise ImportError('pictures are drawn with matplotlib: pip install "torchebm[viz]".') from error
    return plt.figure(figsize=size, layout="constrained")


def panels(n: int, n_columns: int, figure: "FigureBase | None", size: tuple[float, float]) -> np.ndarray:
    """`n` axes in reading order, on the figure given or on a new one; unused places stay empty."""
    n_rows = math.ceil(n / n_columns)
    figure = new_figure((size[0] * n_columns, size[1] * n_rows)) if figure is None else figure
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for unused in grid[n:]:
        unused.remove()
    return grid[:n]


def dress(ax: "Axes", title: str, x_label: str, remark: str = "") -> None:
    ax.set_title(title, loc="left", fontsize="medium")
    ax.set_xlabel(x_label)
    ax.spines[["top", "right"]].set_visible(False)
    note(ax, remark)


def note(ax: "Axes", *remarks: str, left: bool = False) -> None:
    """Adds to what stands above the axes about what the picture does not show."""
    where = "left" if left else "right"
    said = [remark for remark in (ax.get_title(loc=where), *remarks) if remark]
    ax.set_title("; ".join(said), loc=where, fontsize="small", color=MUTED)


def undefined(values: np.ndarray) -> str:
    n = int((~np.isfinite(values)).sum())
    return f"{n} values not finite" if n else ""
