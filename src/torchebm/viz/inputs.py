"""What pictures read: tensors whose shapes are checked once, and energies evaluated on a grid."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.model import evaluating

__all__ = ["as_array", "boltzmann", "checked_interval", "evaluate", "evaluate_density", "paths", "points"]


def as_array(x: Tensor) -> np.ndarray:
    """A tensor of any device and dtype as float64 numpy."""
    return torch.as_tensor(x).detach().to("cpu", torch.float64).numpy()


def points(x: Tensor, name: str, width: int) -> np.ndarray:
    """Points of the given width, `[n, width]`; for width 1 as `[n]`, which is also accepted."""
    array = as_array(x)
    if width == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != min(width, 2) or (width > 1 and array.shape[-1] != width) or len(array) == 0:
        expected = "[n] or [n, 1]" if width == 1 else f"[n, {width}]"
        raise ValueError(
            f"{name} has shape {list(array.shape)}; expected {expected} with n > 0. Choose the columns to draw first, "
            f"for instance {name}[:, {'0' if width == 1 else f':{width}'}]."
        )
    return array


def paths(trajectory: Tensor, *widths: int) -> np.ndarray:
    """A trajectory `[chain, draw, width]` with one of the given widths; `[chain, draw]` counts as width 1."""
    array = as_array(trajectory)
    if array.ndim == 2 and 1 in widths:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in widths or 0 in array.shape:
        expected = " or ".join(f"[chain, draw, {width}]" for width in widths)
        raise ValueError(
            f"trajectory has shape {list(array.shape)}; expected {expected}, chains first. One chain "
            f"[draw, {widths[0]}] becomes trajectory[None]; a list of states becomes torch.stack(states, dim=1)."
        )
    return array


def checked_interval(bounds: Sequence[float], name: str = "bounds") -> tuple[float, float]:
    """A checked pair (low, high)."""
    pair = tuple(float(value) for value in bounds) if np.ndim(bounds) == 1 else ()
    if len(pair) != 2 or not all(math.isfinite(value) for value in pair) or pair[0] >= pair[1]:
        raise ValueError(f"{name} is {bounds!r}; expected two finite numbers, low < high, such as (-3, 3).")
    return pair[0], pair[1]


@torch.no_grad()
def evaluate(model: Callable[[Tensor], Tensor], x: Float[Tensor, " n *event"]) -> Float[Tensor, " n"]:
    """Energies of `x` in one batch, in the model's dtype, on its device and in eval mode; float64 on the CPU."""
    if isinstance(model, torch.nn.Module):
        like = next((t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()), torch.empty(0))
        x, mode = x.to(like), evaluating(model)
    else:
        x, mode = x.to(torch.get_default_dtype()), nullcontext()
    with mode:
        energy = model(x)
    if not isinstance(energy, Tensor) or energy.shape != x.shape[:1]:
        came = f"energies of shape {list(energy.shape)}" if isinstance(energy, Tensor) else type(energy).__name__
        raise ValueError(
            f"the model returned {came}; expected [{len(x)}], one scalar per point, because x has shape "
            f"{list(x.shape)}. The last layer was probably not squeezed: return `net(x).squeeze(-1)`."
        )
    return energy.detach().to("cpu", torch.float64)


def boltzmann(energy: Tensor, *axes: Tensor) -> Tensor:
    """exp(-E) / Z with Z by the trapezoid rule over the last axes of `energy`; NaN where the energy is NaN or -inf.

    An energy of +inf is a density of zero; where the energy is undefined nothing is added to Z.
    """
    defined = ~(energy.isnan() | energy.isneginf())
    finite = energy[energy.isfinite()]
    weight = torch.exp(finite.min() - energy) if finite.numel() else torch.full_like(energy, torch.nan)
    mass = torch.where(defined, weight, torch.zeros_like(weight))
    for positions in reversed(axes):
        mass = torch.trapezoid(mass, positions, dim=-1)
    return torch.where(defined, weight / mass, torch.nan)


def evaluate_density(density: Callable[[Tensor], Tensor], x: Float[Tensor, " n"]) -> np.ndarray:
    """Values of a one-dimensional density at `x`; it is called with `[n, 1]` and may return `[n]` or `[n, 1]`."""
    values = as_array(density(x[:, None].to(torch.get_default_dtype())))
    if values.shape not in ((len(x),), (len(x), 1)):
        raise ValueError(
            f"the density returned values of shape {list(values.shape)}; expected [{len(x)}] or [{len(x)}, 1], one per "
            f"point, because x has shape [{len(x)}, 1]."
        )
    return values.reshape(-1)
