"""Training: the one loop, guards, checkpoints, averages, recipes, runs."""

from .control import StepSizeControl
from .ema import ExponentialMovingAverage
from .guards import Guard, Remedy, TrainingDivergedError, TrainingWarning, default_guards
from .recipes import RECIPES, Recipe, recipe
from .records import read_events, read_metrics
from .run import TrainedRun, load_run, train_run
from .trainer import Trainer

__all__ = [
    "RECIPES",
    "ExponentialMovingAverage",
    "Guard",
    "Recipe",
    "Remedy",
    "StepSizeControl",
    "TrainedRun",
    "Trainer",
    "TrainingDivergedError",
    "TrainingWarning",
    "default_guards",
    "load_run",
    "read_events",
    "read_metrics",
    "recipe",
    "train_run",
]
