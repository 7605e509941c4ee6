"""Training: the one loop, checkpoints, averages, recipes."""

from .ema import ExponentialMovingAverage
from .trainer import Trainer, TrainingDivergedError

__all__ = ["ExponentialMovingAverage", "Trainer", "TrainingDivergedError"]
