"""Densities that a model should beat: Gaussian mixtures, their size chosen on data that they were not fitted to."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer
from torchebm.core.random import randperm

__all__ = ["MixtureBaseline", "gaussian_mixture_baseline"]

SIZES = (1, 2, 3, 5, 8, 12, 20, 30, 50)
FLOORS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)


class MixtureBaseline(NamedTuple):
    """A Gaussian mixture, and what it gives to points that it never saw."""

    log_likelihood: float
    """Mean over those points, in nats."""
    n_components: int
    """Chosen on the part of the data that was kept for it."""
    floor: float
    """Added to every variance, in units of the mean variance of a component of the data; chosen likewise."""


def gaussian_mixture_baseline(train: Float[Tensor, " m *event"], x: Float[Tensor, " n *event"], *,
                              n_components: Sequence[int] = SIZES, floors: Sequence[float] = FLOORS,
                              generator: torch.Generator | None = None) -> MixtureBaseline:  # fmt: skip
    """The log-likelihood of points under the best mixture of Gaussians with full covariances.

    Every size and floor of the variances is fitted to four fifths of the data by scikit-learn; the one that gives most
    to the last fifth is fitted to all of them.

    Args:
        train: What to fit to.
        x: What to judge by.
        n_components: Sizes to try; those beyond half of the data are left out.
        floors: What to add to variances, in units of their mean over the components of the data.
        generator: Source of the split.

    Raises:
        ValueError: If there are fewer than 10 points to fit to, or shapes differ.
        ImportError: Without scikit-learn.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(1000, 1, generator=generator) + 8 * torch.randint(2, (1000, 1), generator=generator)
        >>> gaussian_mixture_baseline(x[:800], x[800:], n_components=(1, 2), generator=generator).n_components
        2
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise ImportError('the mixture needs scikit-learn: pip install "torchebm[data]".') from error
    if len(train) < 10 or train.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"train has shape {list(train.shape)} and x {list(x.shape)}: at least 10 points to fit to are needed, and "
            "points of one shape in both."
        )
    flat, judged = (t.flatten(1).double().cpu() for t in (train, x))
    unit = float(flat.var(0).mean().sqrt())
    flat, judged = flat / unit, judged / unit
    order = randperm(len(flat), generator=generator)
    kept, fitted = flat[order[: len(flat) // 5]].numpy(), flat[order[len(flat) // 5 :]].numpy()
    sizes = [k for k in n_components if integer("n_components", k, at_least=1) <= len(fitted) // 2]

    def fit(k: int, floor: float, points: object) -> GaussianMixture:
        return GaussianMixture(k, reg_covar=floor, random_state=0).fit(points)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what was reached is judged on other data
        tried = {(k, floor): fit(k, floor, fitted).score(kept) for k in sizes for floor in floors}
        k, floor = max(tried, key=lambda setting: tried[setting])
        best = fit(k, floor, flat.numpy())
    return MixtureBaseline(float(best.score(judged.numpy())) - flat.shape[1] * math.log(unit), k, floor)
