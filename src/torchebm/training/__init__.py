"""Training: the one loop, checkpoints, averages, recipes, runs."""

from .ema import ExponentialMovingAverage
from .recipes import RECIPES, Recipe, recipe
from .run import TrainedRun, load_run, train_run
from .trainer import Trainer, TrainingDivergedError

__all__ = [
    "RECIPES",
    "ExponentialMovingAverage",
    "Recipe",
    "TrainedRun",
    "Trainer",
    "TrainingDivergedError",
    "load_run",
    "recipe",
    "train_run",
]
