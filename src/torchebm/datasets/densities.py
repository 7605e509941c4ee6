r"""The named densities, at the scale of the two-dimensional benchmark of FFJORD.

References: Grathwohl, Chen, Bettencourt, Sutskever & Duvenaud (2019), FFJORD, https://arxiv.org/abs/1810.01367
"""

import difflib
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from .curves import NoisyCurves, Rings
from .density import Density
from .mixtures import Checkerboard, GaussianMixture, Pinwheel

__all__ = ["DENSITIES", "density", "names"]

# Entropies without a closed form were integrated once, on grids; the tests integrate them again.


def gaussian_1d() -> Density:
    """One Gaussian on the line, of mean 5 and standard deviation 1."""
    return GaussianMixture("gaussian_1d", [[5.0]], sd=1.0)


def eight_gaussians() -> Density:
    r"""Eight Gaussians of deviation $0.5/\sqrt2$ on a circle of radius $4/\sqrt2$; neighbours overlap slightly."""
    angles = [k * math.pi / 4 for k in range(8)]
    centres = [[4 / math.sqrt(2) * math.cos(a), 4 / math.sqrt(2) * math.sin(a)] for a in angles]
    return GaussianMixture("eight_gaussians", centres, sd=0.5 / math.sqrt(2), entropy=2.83157836)


def twenty_five_gaussians() -> Density:
    r"""Twenty-five Gaussians of variance 0.02 on the grid $\{-4, -2, 0, 2, 4\}^2$, fourteen deviations apart."""
    ticks = (-4.0, -2.0, 0.0, 2.0, 4.0)
    return GaussianMixture("twenty_five_gaussians", [[a, b] for a in ticks for b in ticks], sd=math.sqrt(0.02))


def two_moons() -> Density:
    """Two interleaved half circles of radius 2, blurred by noise of deviation 0.2."""

    def upper(t: Tensor) -> Tensor:
        return torch.stack((2 * torch.cos(math.pi * t) - 1, 2 * torch.sin(math.pi * t) - 0.2), dim=1)

    def lower(t: Tensor) -> Tensor:
        return torch.stack((1 - 2 * torch.cos(math.pi * t), 0.8 - 2 * torch.sin(math.pi * t)), dim=1)

    return NoisyCurves("two_moons", (upper, lower), 0.2, 96, 2.39387920, (-4.25, -2.45), (4.25, 3.05))


def rings() -> Density:
    """Four circles of radii 0.75, 1.5, 2.25 and 3, equally likely, blurred by noise of deviation 0.08."""
    return Rings("rings", (0.75, 1.5, 2.25, 3.0), 0.08, entropy=2.62318277)


def swiss_roll() -> Density:
    r"""The spiral $\frac a5(\cos a, \sin a)$, $a$ uniform on $[1.5\pi, 4.5\pi]$, blurred by noise of deviation 0.2."""

    def spiral(t: Tensor) -> Tensor:
        a = 1.5 * math.pi * (1 + 2 * t)
        return torch.stack((a * torch.cos(a), a * torch.sin(a)), dim=1) / 5

    return NoisyCurves("swiss_roll", (spiral,), 0.2, 320, 2.66964617, (-4.1, -4.1), (4.1, 4.1))


DENSITIES: Mapping[str, Callable[[], Density]] = MappingProxyType(
    {
        "gaussian_1d": gaussian_1d,
        "two_moons": two_moons,
        "eight_gaussians": eight_gaussians,
        "twenty_five_gaussians": twenty_five_gaussians,
        "checkerboard": Checkerboard,
        "rings": rings,
        "pinwheel": Pinwheel,
        "swiss_roll": swiss_roll,
    }
)


def names() -> tuple[str, ...]:
    """The names that `density` knows.

    Example:
        >>> names()
        ('gaussian_1d', 'two_moons', 'eight_gaussians', 'twenty_five_gaussians', 'checkerboard', 'rings', 'pinwheel',
         'swiss_roll')
    """
    return tuple(DENSITIES)


def density(name: str) -> Density:
    """The density of the given name, with its sampler, its exact log-density and its entropy.

    Args:
        name: One of `names()`.
    Raises:
        ValueError: If no density has this name.

    Example:
        >>> density("checkerboard")
        <density checkerboard: event_shape=(2,), entropy=3.4657 nats>
    """
    if name not in DENSITIES:
        close = difflib.get_close_matches(str(name), DENSITIES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no density is named {name!r}; expected one of {', '.join(DENSITIES)}.{hint}")
    return DENSITIES[name]()
