"""Sums over all pairs of points, a few rows of the matrix at a time: it is computed once and never held whole."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchebm.core.random import randperm

from .points import draws_on

__all__ = ["distances", "gaussian_mixture", "labelled_sums", "median_distance", "quadratic_forms", "row_blocks"]

ENTRIES = 2**22  # of a matrix that are held at a time: 32 MB
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median distance, for kernels that see small and large differences
MEDIAN_POINTS = 1000  # half a million pairs tell a median well enough
MAX_EXACT = 32  # components up to which differences are taken one by one; then a matrix product is much faster

Rows = Callable[[slice], Float[Tensor, "rows n"]]


def distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Euclidean distances between rows in float64, near the origin."""
    mode = "donot_use_mm" if x.shape[1] <= MAX_EXACT else "use_mm"
    return torch.cdist(x, y, compute_mode=f"{mode}_for_euclid_dist")


def row_blocks(n: int, width: int) -> list[slice]:
    """Slices of n rows such that each block of a matrix of that width is of a bounded size."""
    size = max(1, ENTRIES // max(1, width))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def quadratic_forms(rows: Rows, weights: Tensor) -> tuple[Float[Tensor, " k"], Float[Tensor, " n"]]:
    """`w' K w` for each column w, and the sums of the rows of K, for a symmetric matrix that is given by its rows.

    Args:
        rows: The rows of K in a slice, in float64. Each is asked for once, however many columns there are.
        weights: `[n, k]`, of any dtype; a part at a time is made float64.
    """
    n, k = weights.shape
    device = weights.device
    forms = torch.zeros(k, dtype=torch.float64, device=device)
    sums = torch.empty(n, dtype=torch.float64, device=device)
    for part in row_blocks(n, max(n, min(k, 256))):
        block = rows(part)  # [rows, n]
        sums[part] = block.sum(1)
        for columns in row_blocks(k, n):
            w = weights[:, columns].double()  # [n, columns]
            forms[columns] += (w[part] * (block @ w)).sum(0)
    return forms, sums


def labelled_sums(x: Float[Tensor, "n d"], entry: Callable[[Tensor], Tensor],
                  labels: Bool[Tensor, "n k"]) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Sums of a function of the distance over the ordered pairs of two different points, for k divisions in two sets.

    Args:
        x: The points of both sets.
        entry: Of distances, entry by entry.
        labels: True for the points of the first set, one column for each division.

    Returns:
        Pairs in the first set, between the sets (each once), and in the second, each `[k]`.
    """

    def rows(part: slice) -> Tensor:
        block = entry(distances(x[part], x))
        block[:, part].fill_diagonal_(0.0)
        return block

    first, sums = quadratic_forms(rows, labels)
    linear = torch.cat([labels[:, part].double().mT @ sums for part in row_blocks(labels.shape[1], len(x))])
    between = linear - first
    return first, between, sums.sum() - linear - between


def median_distance(x: Float[Tensor, "n d"], generator: torch.Generator | None = None) -> float:
    """The median distance between two points that differ, of at most 1000 that are drawn at random; 1 if none do."""
    if len(x) > MEDIAN_POINTS:
        x = x[randperm(len(x), generator=generator, device=draws_on(x, generator))[:MEDIAN_POINTS].to(x.device)]
    apart = torch.nn.functional.pdist(x)
    apart = apart[apart > 0]
    return float(apart.median()) if len(apart) else 1.0


def gaussian_mixture(bandwidth: float) -> Callable[[Tensor], Tensor]:
    r"""The mean of five Gaussian kernels $e^{-r^2 / 2 s^2}$, s from a quarter to four times the bandwidth."""

    def entry(distance: Tensor) -> Tensor:
        squared = distance.square().mul_(-0.5 / bandwidth**2)
        total = torch.zeros_like(squared)
        for factor in FACTORS:
            total += (squared / factor**2).exp_()
        return total.div_(len(FACTORS))

    return entry
