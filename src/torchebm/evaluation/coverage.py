"""Are samples where data is, and is data where samples are? Figures of neighbourhoods, and of known modes."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer

from .kernels import distances, row_blocks
from .points import as_sets

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "mode_total_variation", "precision_recall"]


class PrecisionRecall(NamedTuple):
    """Two shares."""

    precision: float
    """Of the samples, those near data: low if samples look like no data."""
    recall: float
    """Of the data, those near samples: low if kinds of data are missing."""


class DensityCoverage(NamedTuple):
    """What takes the place of precision and recall where outliers spoil them."""

    density: float
    """How many neighbourhoods of data a sample lies in, over what data would; about 1, and above if samples crowd."""
    coverage: float
    """Of the data, those with a sample in their neighbourhood."""


def precision_recall(samples: Float[Tensor, " n *event"], data: Float[Tensor, " m *event"],
                     k: int = 3) -> PrecisionRecall:  # fmt: skip
    """Whether samples lie where data does, and the other way round: quality and variety apart.

    A point is near a set if it lies within the distance of one of its points to that point's k-th neighbour in the set.

    Args:
        samples: From a model.
        data: As many, if figures are to be compared: more points have smaller neighbourhoods.
        k: Neighbour that sets the radius; the authors' 3.

    Raises:
        ValueError: If there are no more than k points in a set, or points are not finite or of different shapes.

    Note:
        A single outlier of either set has a neighbourhood that holds much; `density_coverage` minds that less. Draws of
        the data's own density do not reach 1: compute the figures of held-out data as well. For images, distances
        between features say more than those between pixels.

    References: Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991

    Example:
        >>> one, two = torch.randn(2, 200, 2, generator=torch.Generator().manual_seed(0))
        >>> data = torch.cat([one - 5, two + 5])
        >>> precision, recall = precision_recall(data[:200] + 0.01, data)  # one of two clusters
        >>> precision == 1.0, recall < 0.6
        (True, True)
    """
    one, other = as_sets(samples, data, ("samples", "data"), integer("k", k, at_least=1) + 1)
    precise = _inside(one, other, _radii(other, k)).any
    return PrecisionRecall(precise, _inside(other, one, _radii(one, k)).any)


def density_coverage(samples: Float[Tensor, " n *event"], data: Float[Tensor, " m *event"],
                     k: int = 5) -> DensityCoverage:  # fmt: skip
    """Precision and recall that outliers do not spoil: neighbourhoods are those of the data alone, and are counted.

    Args:
        samples: From a model.
        data: Whose neighbourhoods they are.
        k: Neighbour that sets the radius of each; the authors' 5.

    Raises:
        ValueError: If there are no more than k points of data, or points are not finite or of different shapes.

    Note:
        Of draws of the data's density, as many as data, the coverage is about 1 - 2^-k, so 0.97 for k = 5; it grows
        with the number of samples.

    References: Naeem et al. (2020), https://arxiv.org/abs/2002.09797

    Example:
        >>> a, b = torch.randn(2, 500, 2, generator=torch.Generator().manual_seed(0))
        >>> density, coverage = density_coverage(a, b)
        >>> 0.85 < density < 1.15, coverage > 0.93
        (True, True)
    """
    one, other = as_sets(samples, data, ("samples", "data"))
    if len(data) <= integer("k", k, at_least=1):
        raise ValueError(f"data holds {len(data)} points, which have no {k} neighbours each: at least {k + 1}.")
    found = _inside(one, other, _radii(other, k))
    return DensityCoverage(found.count / (k * len(samples)), found.covered)


def mode_total_variation(samples: Float[Tensor, " n *event"], centres: Float[Tensor, " mode *event"],
                         weights: Float[Tensor, " mode"] | None = None) -> float:  # fmt: skip
    r"""How far the shares of the modes are off, where it is known where the modes are.

    $\tfrac12 \sum_k |\hat w_k - w_k|$: the mass that lies in a wrong mode. Each sample counts for the nearest centre.

    Args:
        samples: From a model.
        centres: One point for each mode.
        weights: Their true shares; equal ones if left out.

    Note:
        Of n exact draws it is about $\sum_k \sqrt{w_k (1 - w_k) / 2 \pi n}$, 0.03 for a thousand draws of eight modes.
        `mmd` and `energy_distance` square a small error of the weights, and the kernel Stein discrepancy does not see
        it at all.

    Example:
        >>> samples = torch.tensor([[-1.0], [-1.1], [-0.9], [1.0]])
        >>> mode_total_variation(samples, torch.tensor([[-1.0], [1.0]]))
        0.25
    """
    points, places = as_sets(samples, centres, ("samples", "centres"))
    if weights is None:
        weights = torch.full((len(places),), 1 / len(places), dtype=torch.float64)
    true = weights.to(points)
    if true.shape != places.shape[:1] or not bool((true >= 0).all()) or abs(float(true.sum()) - 1) > 1e-4:
        raise ValueError(
            f"weights must be one share for each of {len(places)} centres, none negative, that sum to 1; got shape "
            f"{list(weights.shape)} with sum {float(true.sum()):g}."
        )
    nearest = torch.cat([distances(points[part], places).argmin(1) for part in row_blocks(len(points), len(places))])
    shares = torch.bincount(nearest, minlength=len(places)) / len(points)
    return float(0.5 * (shares.to(true) - true).abs().sum())


class _Inside(NamedTuple):
    any: float
    """Share of the points that lie in some ball."""
    count: int
    """Pairs of a point and a ball that it lies in."""
    covered: float
    """Share of the balls that hold a point."""


def _inside(points: Tensor, centres: Tensor, radii: Tensor) -> _Inside:
    """Which points lie in which balls, their surfaces included."""
    some = count = 0
    held = torch.zeros(len(centres), dtype=torch.bool, device=points.device)
    for part in row_blocks(len(points), len(centres)):
        within = distances(points[part], centres) <= radii
        some += int(within.any(1).sum())
        count += int(within.sum())
        held |= within.any(0)
    return _Inside(some / len(points), count, float(held.double().mean()))


def _radii(x: Tensor, k: int) -> Tensor:
    """The distance of each point to its k-th neighbour among the others."""
    found = []
    for part in row_blocks(len(x), len(x)):
        block = distances(x[part], x)
        block[:, part].fill_diagonal_(torch.inf)
        found.append(block.kthvalue(k, 1).values)
    return torch.cat(found)
