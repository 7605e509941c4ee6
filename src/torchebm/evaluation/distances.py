"""Distances between two sets of samples."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.random import randn, randperm

from .kernels import gaussian_mixture, labelled_sums, median_distance
from .points import as_points, as_sets

__all__ = [
    "classifier_two_sample",
    "energy_distance",
    "mmd",
    "nearest_distance",
    "projections",
    "sliced_wasserstein",
    "sliced_wasserstein_ratio",
]


def projections(d: int, n: int = 256, *, generator: torch.Generator | None = None) -> Float[Tensor, "d n"]:
    """`n` directions drawn uniformly from the unit sphere in d dimensions, as columns, where the generator lives."""
    device = None if generator is None else generator.device
    directions = randn((d, n), generator=generator, dtype=torch.float64, device=device)
    return directions / directions.norm(dim=0)


def mmd(a: Float[Tensor, " n *event"], b: Float[Tensor, " m *event"], *, bandwidth: float | None = None,
        generator: torch.Generator | None = None) -> float:  # fmt: skip
    r"""Squared maximum mean discrepancy: how far apart two densities are to a kernel that sees several scales.

    $\mathbb E\,k(x, x') + \mathbb E\,k(y, y') - 2\,\mathbb E\,k(x, y)$ over independent pairs, with k the mean of the
    Gaussian kernels $e^{-r^2 / 2 s^2}$ whose s is a quarter, a half, one, two and four times the bandwidth.

    Args:
        a: One set, two points or more.
        b: Another.
        bandwidth: The median distance between two points of either set if left out.
        generator: Source of randomness, for the median of more than a thousand points.

    Note:
        The estimate has no bias, so that sets of different sizes can be compared with each other, and it is below zero
        about as often as above if the densities are the same. Its size depends on the bandwidth: `two_sample_test` says
        whether it is large. O((n + m)^2) time, O(n + m) memory.

    References: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> a, b = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
        >>> abs(mmd(a, b)) < 0.01 < mmd(a, b + 1.0)
        True
    """
    first, second = as_sets(a, b, at_least=2)
    x, labels = _labelled(first, second)
    if bandwidth is None:
        bandwidth = median_distance(x, generator)
    sums = labelled_sums(x, gaussian_mixture(number("bandwidth", bandwidth, above=0.0)), labels)
    return float(mean_contrast(*sums, len(a), len(b), unbiased=True))


def energy_distance(a: Float[Tensor, " n *event"], b: Float[Tensor, " m *event"]) -> float:
    r"""Energy distance: zero for equal densities only, without anything to choose.

    $2\,\mathbb E\|x - y\| - \mathbb E\|x - x'\| - \mathbb E\|y - y'\|$, each the mean over all pairs, those of a point
    with itself included. In units of x; in one dimension twice the squared distance between distribution functions.

    Args:
        a: One set.
        b: Another.

    Note:
        Never negative. Draws of one density are $(1/n + 1/m)\,\mathbb E\|x - x'\|$ apart on average: compare it with
        distances between sets of the same sizes. O((n + m)^2) time, O(n + m) memory.

    References: Székely & Rizzo (2013), https://doi.org/10.1016/j.jspi.2013.03.018

    Example:
        >>> energy_distance(torch.zeros(5, 1), torch.full((7, 1), 3.0))
        6.0
    """
    x, labels = _labelled(*as_sets(a, b))
    sums = labelled_sums(x, torch.neg, labels)
    return float(mean_contrast(*sums, len(a), len(b), unbiased=False))


def mean_contrast(within: Tensor, between: Tensor, other: Tensor, n: int, m: int, *, unbiased: bool) -> Tensor:
    """The mean over pairs in each of two sets, less twice that over pairs between them, from `labelled_sums`.

    Args:
        within: Sums over ordered pairs in the first set, of n points.
        between: Over pairs between the sets.
        other: Over ordered pairs in the second set, of m points.
        n: Points of the first set.
        m: Points of the second.
        unbiased: Whether pairs of a point with itself, which added nothing to the sums, are left out of the counts.
    """
    one = int(unbiased)
    return within / (n * (n - one)) + other / (m * (m - one)) - 2 * between / (n * m)


def sliced_wasserstein(a: Float[Tensor, " n *event"], b: Float[Tensor, " m *event"],
                       directions: Float[Tensor, "d k"] | None = None, *,
                       generator: torch.Generator | None = None) -> float:  # fmt: skip
    r"""Sliced Wasserstein-2 distance between two sets.

    $\big(\mathbb E_\theta\, W_2^2(\theta^\top a, \theta^\top b)\big)^{1/2}$; in one dimension $W_2$ compares sorted
    values, or quantiles where the sizes of the sets differ.

    Args:
        a: One set.
        b: Another.
        directions: Unit vectors as columns; use the same ones for distances that are to be compared. 256 random ones
            if left out.
        generator: Source of these.

    References: Rabin et al. (2012), https://doi.org/10.1007/978-3-642-24785-9_37

    Example:
        >>> a = torch.zeros(10, 1)
        >>> sliced_wasserstein(a, a + 3.0, projections(1, 4))
        3.0
    """
    first, second = as_sets(a, b)
    if directions is None:
        directions = projections(first.shape[1], generator=generator)
    if directions.ndim != 2 or len(directions) != first.shape[1]:
        raise ValueError(
            f"directions has shape {list(directions.shape)}; expected [{first.shape[1]}, k], unit vectors as columns, "
            f"because a point has {first.shape[1]} entries: projections({first.shape[1]})."
        )
    one, other = ((x @ directions.to(x)).mT.sort(1).values for x in (first, second))
    return float(coupled_squares(one, other).mean().sqrt())


def coupled_squares(one: Float[Tensor, "*line n"], other: Float[Tensor, "*line m"]) -> Float[Tensor, "*line"]:
    r"""$W_2^2 = \int_0^1 (F^{-1}(u) - G^{-1}(u))^2 du$ between sorted values, in each row."""
    n, m = one.shape[-1], other.shape[-1]
    if n == m:
        return (one - other).square().mean(-1)
    # quantile functions are steps, at multiples of 1/n and of 1/m; in whole numbers, which do not round
    edges = torch.cat([torch.arange(n) * m, torch.arange(1, m + 1) * n]).unique().to(one.device)  # of 0 to n m
    lows = edges[:-1]
    weights = edges.diff().double() / (n * m)
    return (one[..., lows // m] - other[..., lows // n]).square() @ weights


def sliced_wasserstein_ratio(samples: Float[Tensor, " n *event"], train: Float[Tensor, " m *event"],
                             held_out: Float[Tensor, " k *event"], n_splits: int = 20, n_directions: int = 256, *,
                             generator: torch.Generator | None = None) -> float:  # fmt: skip
    """How far samples are from held-out data, in units of how far training data is from it; 1 is as good as real data.

    Each split compares as many samples as training points with all held-out points, or as many as there are of the
    scarcest; the mean over splits of one distance is divided by that of the other, both over the same directions.

    Args:
        samples: From a model.
        train: What the model was trained on.
        held_out: What it was not.
        n_splits: Random subsets to average over.
        n_directions: Projections.
        generator: Source of randomness.
    """
    n = min(len(samples), len(train), len(held_out))
    directions = projections(train[0].numel(), n_directions, generator=generator)
    far = near = 0.0
    for _ in range(integer("n_splits", n_splits, at_least=1)):
        some = [t[randperm(len(t), generator=generator)[:n]] for t in (samples, train, held_out)]
        far += sliced_wasserstein(some[0], some[2], directions)
        near += sliced_wasserstein(some[1], some[2], directions)
    return far / near if near > 0 else float("nan")


def nearest_distance(a: Float[Tensor, " n *event"], reference: Float[Tensor, " m *event"]) -> Float[Tensor, " n"]:
    """Euclidean distance from each point to the nearest of the reference.

    Example:
        >>> nearest_distance(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [2.0]]))
        tensor([1., 3.])
    """
    as_points("a", a)
    as_points("reference", reference)
    if a.shape[1:] != reference.shape[1:]:
        raise ValueError(f"a holds points of shape {list(a.shape[1:])}, reference of {list(reference.shape[1:])}.")
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}  # the other way cancels for points close to each other
    rows, known = a.reshape(len(a), -1), reference.reshape(len(reference), -1)
    return torch.cat([torch.cdist(part, known, **exact).amin(1) for part in rows.split(256)])


def classifier_two_sample(a: Float[Tensor, " n *event"], b: Float[Tensor, " m *event"], *, n_folds: int = 5,
                          seed: int = 0) -> float:  # fmt: skip
    r"""Cross-validated accuracy of telling two sets apart by their nearest neighbours.

    0.5 if that is hopeless, 1 if it is easy. The classifier takes the vote of the $\lfloor\sqrt n\rfloor$ nearest, as
    the authors of the test do; it needs no tuning and sees what distances see.

    Args:
        a: One set.
        b: Another; the larger one is cut to the size of the smaller.
        n_folds: Folds of the cross-validation.
        seed: Of the folds.

    References: Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545
    """
    try:
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError as error:
        raise ImportError('this test needs scikit-learn: pip install "torchebm[data]".') from error
    as_sets(a, b)
    n = min(len(a), len(b))
    if n < 2 * n_folds:
        raise ValueError(f"{n} points in each set are too few for {n_folds} folds: at least {2 * n_folds} are needed.")
    features = torch.cat([a[:n], b[:n]]).reshape(2 * n, -1).cpu().numpy()
    truth = torch.cat([torch.zeros(n), torch.ones(n)]).numpy()
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    return float(cross_val_score(KNeighborsClassifier(int(n**0.5)), features, truth, cv=folds).mean())


def _labelled(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> tuple[Tensor, Tensor]:
    """Both sets in one, and a column that is true for the first."""
    x = torch.cat([a, b])
    return x, (torch.arange(len(x), device=x.device) < len(a)).unsqueeze(1)
