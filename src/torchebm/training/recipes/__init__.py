"""Recipes: named, complete configurations that train an energy on a kind of data."""

import difflib

from .base import Kind, LossSettings, ModelSettings, Purpose, Recipe, SamplerSettings, TrainingSettings
from .density import DensityRecipe, Images, Tabular
from .diffusion import DiffusionRecovery
from .improved import ImprovedCD
from .joint import Jem, JemDensity
from .langevin import LangevinRecipe
from .published import Convergent, ConvergentImages, Igebm, Mnist, ShortRun
from .toy_2d import Toy2D
from .whole_values import Digits

__all__ = [
    "RECIPES",
    "Convergent",
    "ConvergentImages",
    "DensityRecipe",
    "DiffusionRecovery",
    "Digits",
    "Igebm",
    "Images",
    "ImprovedCD",
    "Jem",
    "JemDensity",
    "Kind",
    "LangevinRecipe",
    "LossSettings",
    "Mnist",
    "ModelSettings",
    "Purpose",
    "Recipe",
    "SamplerSettings",
    "ShortRun",
    "Tabular",
    "Toy2D",
    "TrainingSettings",
    "recipe",
]

RECIPES: dict[str, Recipe] = {
    each.name: each
    for each in (
        Toy2D(),
        Tabular(),
        Digits(),
        Images(),
        JemDensity(),
        Mnist(),
        Jem(),
        Igebm(),
        ShortRun(),
        Convergent(),
        ConvergentImages(),
        ImprovedCD(),
        DiffusionRecovery(),
    )
}
"""The recipes by name. One of your own joins by `RECIPES["name"] = MyRecipe()`, and can then be loaded again, too."""


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}.{hint}")
    return RECIPES[name]
