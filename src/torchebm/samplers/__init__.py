"""Samplers, one transition a file."""

from torchebm.core.divergence import SamplingDivergenceWarning

from .batches import batch_sample_chain
from .denoising import denoise
from .hmc import HamiltonianMonteCarlo
from .langevin import LangevinDynamics
from .metropolis_hastings import MetropolisHastings

__all__ = [
    "HamiltonianMonteCarlo",
    "LangevinDynamics",
    "MetropolisHastings",
    "SamplingDivergenceWarning",
    "batch_sample_chain",
    "denoise",
]
