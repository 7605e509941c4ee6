"""The contracts of the library: models, samplers, losses, schedules, and the one loop that runs the samplers."""

from .allocator import keep_freed_memory
from .analytic import (
    AckleyModel,
    BananaModel,
    ClosedFormModel,
    DoubleWellModel,
    FunnelModel,
    GaussianMixtureModel,
    GaussianModel,
    HarmonicModel,
    RastriginModel,
    RosenbrockModel,
    UniformModel,
)
from .bijections import Blocks, correlation_matrix, ordered
from .composite import MixtureModel, WeightedSum
from .divergence import SamplingDivergenceWarning
from .energies import NonFiniteEnergyError
from .first_generation_classes import CompositeEnergy, DoubleWellEnergy, EnergyFunction, GaussianEnergy, Loss, Sampler
from .interruption import SamplingInterruptedWarning
from .loss import BaseLoss, LossOutput
from .markov import MarkovSampler, Run
from .model import BaseModel, EnergyModel, mixture
from .sampler import BaseSampler, SamplerState, Scheduled
from .schedulers import (
    BaseScheduler,
    ConstantScheduler,
    CosineScheduler,
    ExponentialDecayScheduler,
    FunctionScheduler,
    LinearScheduler,
    MultiStepScheduler,
    TemperatureScheduler,
    WarmupScheduler,
)
from .specialised import CompilationError
from .target import Target
from .transformed import ConstrainedModel, StandardizedModel, TransformedModel

__all__ = [
    "AckleyModel",
    "BananaModel",
    "BaseLoss",
    "BaseModel",
    "BaseSampler",
    "BaseScheduler",
    "Blocks",
    "ClosedFormModel",
    "CompilationError",
    "CompositeEnergy",
    "ConstantScheduler",
    "ConstrainedModel",
    "CosineScheduler",
    "DoubleWellEnergy",
    "DoubleWellModel",
    "EnergyFunction",
    "EnergyModel",
    "ExponentialDecayScheduler",
    "FunctionScheduler",
    "FunnelModel",
    "GaussianEnergy",
    "GaussianMixtureModel",
    "GaussianModel",
    "HarmonicModel",
    "LinearScheduler",
    "Loss",
    "LossOutput",
    "MarkovSampler",
    "MixtureModel",
    "MultiStepScheduler",
    "NonFiniteEnergyError",
    "RastriginModel",
    "RosenbrockModel",
    "Run",
    "Sampler",
    "SamplerState",
    "SamplingDivergenceWarning",
    "SamplingInterruptedWarning",
    "Scheduled",
    "StandardizedModel",
    "Target",
    "TemperatureScheduler",
    "TransformedModel",
    "UniformModel",
    "WarmupScheduler",
    "WeightedSum",
    "correlation_matrix",
    "keep_freed_memory",
    "mixture",
    "ordered",
]
