"""Samples of a model beside real data, and beside the simplest model there is."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchebm.core.random import randn

from .distances import classifier_two_sample, nearest_distance, sliced_wasserstein_ratio

__all__ = ["class_shares", "compare", "fitted_gaussian"]

ENOUGH = 10  # points in each set, for a classifier to be tried on


def compare(samples: Float[Tensor, " n *event"], train: Float[Tensor, " m *event"],
            held_out: Float[Tensor, " k *event"], labels: Int[Tensor, " m"] | None = None, *,
            generator: torch.Generator | None = None) -> dict[str, Any]:  # fmt: skip
    """Judges samples against held-out data, beside as many draws of the simplest model.

    That is a Gaussian with the training data's mean and covariance. All in the units given; for columns of different
    units, divide by their standard deviations first.

    Args:
        samples: From a model.
        train: What the model was trained on.
        held_out: What it was not.
        labels: Classes of the training data, if it has any.
        generator: Source of randomness.

    Returns:
        `sw2_ratio` (`sliced_wasserstein_ratio`; 1 is as good as real data), `nearest_ratio` (median distance to the
        nearest training point, over that of held-out points; far below 1 means memorised data), `c2st`
        (`classifier_two_sample` against held-out data; 0.5 is best, NaN for less than ten points), `class_shares` where
        there are labels; and, under `gaussian`, the same of the Gaussian.

    Example:
        >>> data, generator = torch.randn(300, 2), torch.Generator().manual_seed(0)
        >>> figures = compare(torch.randn(100, 2), data[:200], data[200:], generator=generator)
        >>> sorted(figures)
        ['c2st', 'gaussian', 'n_samples', 'nearest_ratio', 'sw2_ratio']
    """
    gaussian = fitted_gaussian(train, len(samples), generator=generator)
    figures = [_judge(these, train, held_out, labels, generator) for these in (samples, gaussian)]
    return {"n_samples": len(samples), **figures[0], "gaussian": figures[1]}


def class_shares(samples: Float[Tensor, " n *event"], train: Float[Tensor, " m *event"],
                 labels: Int[Tensor, " m"]) -> list[float]:  # fmt: skip
    """The share of samples that a support vector classifier, trained on real data, puts in each class."""
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError('classifying samples needs scikit-learn: pip install "torchebm[data]".') from error
    classifier = SVC().fit(train.flatten(1).cpu().numpy(), labels.cpu().numpy())
    predicted = torch.as_tensor(classifier.predict(samples.flatten(1).cpu().numpy()))
    return (torch.bincount(predicted, minlength=int(labels.max()) + 1) / len(samples)).tolist()


def fitted_gaussian(data: Float[Tensor, " m *event"], n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """`n` draws of the Gaussian with the mean and the full covariance of the data, `[n, *event]`."""
    flat = data.flatten(1).double().cpu()
    values, vectors = torch.linalg.eigh(flat.T.cov().reshape(flat.shape[1], -1))
    root = vectors * values.clamp(min=0).sqrt()
    draws = flat.mean(0) + randn((n, flat.shape[1]), generator=generator, dtype=torch.float64) @ root.T
    return draws.to(data).reshape(n, *data.shape[1:])


def _judge(samples: Tensor, train: Tensor, held_out: Tensor, labels: Tensor | None,
           generator: torch.Generator | None) -> dict[str, Any]:  # fmt: skip
    near = nearest_distance(samples, train).median() / nearest_distance(held_out, train).median()
    enough = min(len(samples), len(held_out)) >= ENOUGH
    figures = {
        "sw2_ratio": sliced_wasserstein_ratio(samples, train, held_out, generator=generator),
        "nearest_ratio": float(near),
        "c2st": classifier_two_sample(samples, held_out) if enough else float("nan"),
    }
    return figures if labels is None else {"class_shares": class_shares(samples, train, labels), **figures}
