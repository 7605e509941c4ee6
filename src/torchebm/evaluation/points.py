"""What the figures of this room take: sets of points of any event shape, checked once."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer

__all__ = ["as_points", "as_sets", "draws_on", "in_batches"]


def as_points(name: str, x: Float[Tensor, " n *event"], at_least: int = 1) -> Float[Tensor, "n d"]:
    """The points as rows in float64; on the device of `x`, or on the CPU where the device has no float64.

    Args:
        name: Under which an error speaks of them.
        x: `[n, *event]`; `[n]` is n numbers.
        at_least: How many there must be.

    Raises:
        TypeError: If `x` is not a tensor of real numbers.
        ValueError: If there are too few points, a point has no entries, or one is not finite.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor [n, *event]; got {type(x).__name__}. Use torch.as_tensor.")
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers; got {x.dtype}.")
    if x.ndim == 0 or 0 in x.shape[1:]:
        raise ValueError(f"{name} must be [n, *event], points with entries; got shape {list(x.shape)}.")
    if len(x) < at_least:
        raise ValueError(f"{name} holds {len(x)} points; at least {at_least} are needed.")
    rows = (x.detach().cpu() if x.device.type == "mps" else x.detach()).reshape(len(x), -1).double()
    finite = rows.isfinite().all(1)
    if not bool(finite.all()):
        raise ValueError(
            f"{name} has entries that are not finite, in {int((~finite).sum())} of {len(x)} points: chains that "
            "diverged are no samples, and without them the others would look better than the model is."
        )
    return rows


def as_sets(a: Float[Tensor, " n *event"], b: Float[Tensor, " m *event"], names: tuple[str, str] = ("a", "b"),
            at_least: int = 1) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:  # fmt: skip
    """Two sets of one event shape, as rows in float64 around a common centre.

    Distances do not know where the origin is, and rounding does: the centre, the median of each component, is taken
    off.

    Raises:
        ValueError: If the event shapes differ, or as `as_points` says.
        TypeError: As `as_points` says.
    """
    one, other = as_points(names[0], a, at_least), as_points(names[1], b, at_least)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"{names[0]} holds points of shape {list(a.shape[1:])}, {names[1]} points of shape {list(b.shape[1:])}; "
            "expected the same: the axis of the points comes first, [n, *event]."
        )
    if one.device != other.device:
        raise ValueError(f"{names[0]} is on {a.device}, {names[1]} on {b.device}: move one of them.")
    centre = torch.cat([one, other]).median(0).values
    return one - centre, other - centre


def draws_on(x: Tensor, generator: torch.Generator | None) -> torch.device:
    """Where to draw for points like `x`: where the generator lives, so that one for the CPU serves all devices."""
    return x.device if generator is None else generator.device


def in_batches(function: Callable[..., Tensor], x: Float[Tensor, " n *event"], batch_size: int,
               model_kwargs: dict[str, Any] | None = None) -> Tensor:  # fmt: skip
    """`function(x, **model_kwargs)` for some points at a time; tensors with an entry for each point are cut alike."""
    kwargs = model_kwargs or {}
    parts = []
    for start in range(0, len(x), integer("batch_size", batch_size, at_least=1)):
        part = slice(start, start + batch_size)
        cut = {k: v[part] if isinstance(v, Tensor) and v.shape[:1] == x.shape[:1] else v for k, v in kwargs.items()}
        parts.append(function(x[part], **cut))
    return torch.cat(parts)
