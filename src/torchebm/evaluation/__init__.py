"""Judging models, by their samples and by their likelihood."""

from .baselines import MixtureBaseline, gaussian_mixture_baseline
from .bridge import BridgeEstimate, bridge_sampling
from .comparison import class_shares, compare, fitted_gaussian
from .coverage import density_coverage, mode_total_variation, precision_recall
from .distances import (
    classifier_two_sample,
    energy_distance,
    mmd,
    nearest_distance,
    projections,
    sliced_wasserstein,
    sliced_wasserstein_ratio,
)
from .estimates import LogZ, NormalizerWarning, annealed_log_z, grouped_log_z, weight_ess
from .exact import log_z_by_enumeration, log_z_by_grid
from .frechet import frechet_distance
from .likelihood import Likelihood, log_likelihood
from .long_run import LongRun, long_run
from .normalizer import log_z
from .out_of_distribution import (
    OutOfDistribution,
    auroc,
    inverted,
    out_of_distribution,
    outsiders,
    shuffled,
    uniform_noise,
)
from .stein import kernel_stein_discrepancy, kernel_stein_test
from .tails import UnboundedEnergyError, check_tails
from .two_sample import HypothesisTest, two_sample_test

__all__ = [
    "BridgeEstimate",
    "HypothesisTest",
    "Likelihood",
    "LogZ",
    "LongRun",
    "MixtureBaseline",
    "NormalizerWarning",
    "OutOfDistribution",
    "UnboundedEnergyError",
    "annealed_log_z",
    "auroc",
    "bridge_sampling",
    "check_tails",
    "class_shares",
    "classifier_two_sample",
    "compare",
    "density_coverage",
    "energy_distance",
    "fitted_gaussian",
    "frechet_distance",
    "gaussian_mixture_baseline",
    "grouped_log_z",
    "inverted",
    "kernel_stein_discrepancy",
    "kernel_stein_test",
    "log_likelihood",
    "log_z",
    "log_z_by_enumeration",
    "log_z_by_grid",
    "long_run",
    "mmd",
    "mode_total_variation",
    "nearest_distance",
    "out_of_distribution",
    "outsiders",
    "precision_recall",
    "projections",
    "shuffled",
    "sliced_wasserstein",
    "sliced_wasserstein_ratio",
    "two_sample_test",
    "uniform_noise",
    "weight_ess",
]
