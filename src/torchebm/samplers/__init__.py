"""Samplers, one transition a file."""

from torchebm.core.divergence import SamplingDivergenceWarning

from .barker import BarkerProposal
from .batches import batch_sample_chain
from .chees import ChEESHamiltonianMonteCarlo
from .denoising import denoise
from .descent import GradientDescent, NesterovDescent
from .hmc import HamiltonianMonteCarlo
from .langevin import LangevinDynamics
from .mala import MetropolisAdjustedLangevin
from .metropolis_hastings import MetropolisHastings
from .microcanonical import MicrocanonicalLangevin
from .nuts import NoUTurnSampler
from .stochastic_gradient import StochasticGradientHMC, StochasticGradientLangevin
from .tempering import ParallelTempering
from .underdamped import UnderdampedLangevin

__all__ = [
    "BarkerProposal",
    "ChEESHamiltonianMonteCarlo",
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
    "StochasticGradientHMC",
    "StochasticGradientLangevin",
    "UnderdampedLangevin",
    "batch_sample_chain",
    "denoise",
]
