"""Judging models by their samples."""

from .comparison import class_shares, compare, fitted_gaussian
from .distances import (
    classifier_two_sample,
    nearest_distance,
    projections,
    sliced_wasserstein,
    sliced_wasserstein_ratio,
)

__all__ = [
    "class_shares",
    "classifier_two_sample",
    "compare",
    "fitted_gaussian",
    "nearest_distance",
    "projections",
    "sliced_wasserstein",
    "sliced_wasserstein_ratio",
]
