"""Pictures of energies, samples, chains and runs; each function draws on the axes it is given and returns them."""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError('torchebm.viz draws with matplotlib: pip install "torchebm[viz]"') from error

from .animation import animate_flow, save_animation
from .canvas import PALETTE
from .chains import histogram_flow, particle_flow, trace
from .energies import energy_1d, energy_histograms, energy_landscape
from .samples import histogram, marginals, sample_grid, scatter
from .training import training_curves

__all__ = [
    "PALETTE",
    "animate_flow",
    "energy_1d",
    "energy_histograms",
    "energy_landscape",
    "histogram",
    "histogram_flow",
    "marginals",
    "particle_flow",
    "sample_grid",
    "save_animation",
    "scatter",
    "trace",
    "training_curves",
]
