"""log Z without sampling: on grids in up to three dimensions, and by counting states."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.model import BaseModel, evaluating

from .estimates import LogZ

__all__ = ["log_z_by_enumeration", "log_z_by_grid"]

_POINTS = {1: 16_384, 2: 1024, 3: 160}  # along each axis, by dimension
_AT_ONCE = 1 << 18


@torch.no_grad()
def log_z_by_grid(model: BaseModel, low: Float[Tensor, " d"] | Sequence[float],
                  high: Float[Tensor, " d"] | Sequence[float], *, n_points: int | None = None, margin: float = 0.25,
                  tolerance: float = 1e-3) -> LogZ:  # fmt: skip
    r"""log Z in up to three dimensions, by the midpoint rule over a box and a margin around it.

    $\log \sum_c e^{-E(x_c)} v$ over cells of volume v with centres $x_c$. The mass in the margin tells whether the box
    was large enough: it must be negligible.

    Args:
        model: An energy of vectors of length 1, 2 or 3.
        low: The lower corner of the box.
        high: The upper corner.
        n_points: Cells along each axis of the box; an even number.
        margin: Width of the margin on each side, as a share of the box.
        tolerance: In nats: what the margin may add to log Z, and what halving the number of cells may change.

    Returns:
        The estimate; its interval is as wide as the sum of these two.

    Raises:
        ValueError: If the margin or the cells' width matter more than that. Mass beyond the margin cannot be seen.

    Example:
        >>> from torchebm.core import GaussianModel
        >>> model = GaussianModel(torch.zeros(2), torch.eye(2))
        >>> found = log_z_by_grid(model, [-6.0, -6.0], [6.0, 6.0], n_points=100)
        >>> abs(found.estimate - model.log_z.item()) < 1e-6
        True
    """
    low, high = (torch.as_tensor(t, dtype=torch.float64, device="cpu") for t in (low, high))
    if low.ndim != 1 or low.shape != high.shape or not 1 <= len(low) <= 3 or not bool((low < high).all()):
        raise ValueError("a grid needs corners low < high of 1 to 3 coordinates; got "
                         f"low={low.tolist()}, high={high.tolist()}.")  # fmt: skip
    d = len(low)
    n = _POINTS[d] if n_points is None else integer("n_points", n_points, at_least=4)
    if n % 2:
        raise ValueError(f"n_points must be even, so that half of it is a grid too; got {n}.")
    n_margin = math.ceil(number("margin", margin, above=0.0) * n / 2) * 2
    tolerance = number("tolerance", tolerance, above=0.0)
    with evaluating(model):
        inside, outside = _grid_sum(model, low, high, n, n_margin)
        coarse = _grid_sum(model, low, high, n // 2, 0)[0]
    total = math.log(math.exp(inside - max(inside, outside)) + math.exp(outside - max(inside, outside)))
    total += max(inside, outside)
    if not math.isfinite(inside):
        raise ValueError(f"the model has no mass in the box, or energies in it are NaN or -inf: {inside}.")
    at_edge, by_width = total - inside, abs(inside - coarse)
    if not at_edge <= tolerance:
        raise ValueError(
            f"{-math.expm1(-at_edge):.2g} of the mass lies in the margin around the box, so that there is more beyond: "
            f"widen low and high, now {low.tolist()} and {high.tolist()}. If widening does not help, the model has no "
            "normaliser."
        )
    if not by_width <= tolerance:
        raise ValueError(f"halving n_points={n} changes log Z by {by_width:.2g} nats: give more points.")
    error = at_edge + by_width
    return LogZ(inside, (inside - error, inside + error), f"a grid of {n}{'' if d == 1 else f'^{d}'} cells")


@torch.no_grad()
def log_z_by_enumeration(
    model: BaseModel,
    dim: int,
    values: Sequence[float] = (0.0, 1.0),
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> LogZ:
    r"""$\log \sum_x e^{-E(x)}$ over all states of a discrete model.

    Args:
        model: An energy of vectors of length `dim`, or of events with as many entries if it knows their shape.
        dim: Entries of a state.
        values: What each may be.
        dtype: Of the states that the model is given.
        device: Where.

    Raises:
        ValueError: If there are more than 2^26 states.

    Example:
        >>> from torchebm.core import EnergyModel
        >>> log_z_by_enumeration(EnergyModel(lambda x: x.sum(-1)), dim=3).estimate  # 3 log(1 + 1/e)
        0.9397...
    """
    dim, k = integer("dim", dim, at_least=1), len(values)
    n_states = k**dim
    if n_states > 2**26:
        raise ValueError(f"{k} values in {dim} entries make {n_states:.2g} states; at most 2^26 can be enumerated.")
    shape = model.event_shape or torch.Size([dim])
    if shape.numel() != dim:
        raise ValueError(f"the model is one of events of shape {list(shape)}; got dim={dim}.")
    choice = torch.tensor(list(values), dtype=dtype, device=device)
    place = k ** torch.arange(dim, device=device)
    parts = []
    with evaluating(model):
        for start in range(0, n_states, _AT_ONCE):
            number_of = torch.arange(start, min(start + _AT_ONCE, n_states), device=device)
            states = choice[number_of.unsqueeze(1) // place % k]
            parts.append((-model(states.reshape(-1, *shape)).double()).logsumexp(0))
    total = float(torch.stack(parts).logsumexp(0))
    if not math.isfinite(total):
        raise ValueError(f"energies are not finite numbers: their sum of exponentials has logarithm {total}.")
    return LogZ(total, (total, total), f"enumeration of {n_states} states")


def _grid_sum(model: BaseModel, low: Tensor, high: Tensor, n: int, n_margin: int) -> tuple[float, float]:
    """Logarithms of the sums over cells in the box, and over those in the margin."""
    tensor = next((t for t in itertools.chain(model.parameters(), model.buffers()) if t.is_floating_point()), None)
    dtype, device = (torch.get_default_dtype(), None) if tensor is None else (tensor.dtype, tensor.device)
    d, width = len(low), (high - low) / n
    n_all = n + 2 * n_margin
    inside, outside = [torch.tensor(-torch.inf, dtype=torch.float64)], [torch.tensor(-torch.inf, dtype=torch.float64)]
    for start in range(0, n_all**d, _AT_ONCE):
        cell = torch.arange(start, min(start + _AT_ONCE, n_all**d))
        at = cell.unsqueeze(1) // n_all ** torch.arange(d) % n_all - n_margin  # [cell, d]
        x = (low + (at + 0.5) * width).to(device=device, dtype=dtype)
        log_p = -model(x).double().cpu()
        if log_p.shape != cell.shape:
            raise ValueError(f"the model returned energies of shape {list(log_p.shape)} for {list(x.shape)}.")
        within = ((at >= 0) & (at < n)).all(1)
        for sums, some in ((inside, within), (outside, ~within)):
            sums.append(log_p[some].logsumexp(0))
    volume = float(width.log().sum())
    return tuple(float(torch.stack(sums).logsumexp(0)) + volume for sums in (inside, outside))  # pyrefly: ignore[bad-return]
