"""Samplers, one transition a file."""

from torchebm.core.divergence import SamplingDivergenceWarning

from .annealed_importance import AnnealedImportanceSampling, AnnealedRun
from .annealing_files import load_schedule, save_schedule
from .annealing_path import AnnealingBase, gaussian_base
from .annealing_schedule import AnnealingSchedule
from .barker import BarkerProposal
from .batches import batch_sample_chain
from .chees import ChEESHamiltonianMonteCarlo
from .denoising import denoise
from .descent import GradientDescent, NesterovDescent
from .global_proposals import GlobalProposals
from .hmc import HamiltonianMonteCarlo
from .langevin import LangevinDynamics
from .mala import MetropolisAdjustedLangevin
from .metropolis_hastings import MetropolisHastings
from .microcanonical import MicrocanonicalLangevin
from .nuts import NoUTurnSampler
from .sequential_monte_carlo import SequentialMonteCarlo, SequentialRun
from .stochastic_gradient import StochasticGradientHMC, StochasticGradientLangevin
from .tempering import ParallelTempering
from .underdamped import UnderdampedLangevin

__all__ = [
    "AnnealedImportanceSampling",
    "AnnealedRun",
    "AnnealingBase",
    "AnnealingSchedule",
    "BarkerProposal",
    "ChEESHamiltonianMonteCarlo",
    "GlobalProposals",
    "GradientDescent",
    "HamiltonianMonteCarlo",
    "LangevinDynamics",
    "MetropolisAdjustedLangevin",
    "MetropolisHastings",
    "MicrocanonicalLangevin",
    "NesterovDescent",
    "NoUTurnSampler",
    "ParallelTempering",
    "SamplingDivergenceWarning",
    "SequentialMonteCarlo",
    "SequentialRun",
    "StochasticGradientHMC",
    "StochasticGradientLangevin",
    "UnderdampedLangevin",
    "batch_sample_chain",
    "denoise",
    "gaussian_base",
    "load_schedule",
    "save_schedule",
]
