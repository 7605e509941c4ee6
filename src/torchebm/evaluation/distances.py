"""Distances between two sets of samples."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer
from torchebm.core.random import randn, randperm

__all__ = [
    "classifier_two_sample",
    "nearest_distance",
    "projections",
    "sliced_wasserstein",
    "sliced_wasserstein_ratio",
]


def projections(d: int, n: int = 256, *, generator: torch.Generator | None = None) -> Float[Tensor, "d n"]:
    """`n` directions drawn uniformly from the unit sphere in d dimensions, as columns."""
    directions = randn((d, n), generator=generator, dtype=torch.float64)
    return directions / directions.norm(dim=0)


def sliced_wasserstein(a: Float[Tensor, " n *event"], b: Float[Tensor, " n *event"],
                       directions: Float[Tensor, "d k"]) -> float:  # fmt: skip
    r"""Sliced Wasserstein-2 distance between two sets of one size.

    $\big(\mathbb E_\theta\, W_2^2(\theta^\top a, \theta^\top b)\big)^{1/2}$; in one dimension $W_2$ compares sorted
    values.

    Args:
        a: One set.
        b: Another, of as many points.
        directions: Unit vectors as columns; use the same ones for distances that are to be compared.

    References: Rabin et al. (2012), https://doi.org/10.1007/978-3-642-24785-9_37

    Example:
        >>> a = torch.zeros(10, 1)
        >>> sliced_wasserstein(a, a + 3.0, projections(1, 4))
        3.0
    """
    if len(a) != len(b):
        raise ValueError(
            f"the sets have {len(a)} and {len(b)} points; expected as many in each: subsample the larger one."
        )
    one, other = ((t.flatten(1).double() @ directions.to(t.device)).sort(0).values for t in (a, b))
    return float((one - other).square().mean().sqrt())


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
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}  # the other way cancels for points close to each other
    parts = [torch.cdist(part, reference.flatten(1), **exact).amin(1) for part in a.flatten(1).split(256)]
    return torch.cat(parts)


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
    n = min(len(a), len(b))
    if n < 2 * n_folds:
        raise ValueError(f"{n} points in each set are too few for {n_folds} folds: at least {2 * n_folds} are needed.")
    features = torch.cat([a[:n], b[:n]]).flatten(1).cpu().numpy()
    truth = torch.cat([torch.zeros(n), torch.ones(n)]).numpy()
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    return float(cross_val_score(KNeighborsClassifier(int(n**0.5)), features, truth, cv=folds).mean())
