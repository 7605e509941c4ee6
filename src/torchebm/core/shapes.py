"""Arithmetic on `[chain, *event]` tensors that works for any event shape, scalars included."""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = ["add_scaled", "add_scaled_", "per_chain", "select", "sum_event"]

State = TypeVar("State", bound=NamedTuple)


def sum_event(t: Tensor) -> Tensor:
    """Sums everything but the first axis: `[chain, *event] -> [chain]`."""
    if t.ndim == 2:
        return t.sum(1)
    return t if t.ndim == 1 else t.flatten(1).sum(1)


def per_chain(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A number, or one number a chain, ready to multiply `x`: `[chain] -> [chain, 1, ...]`."""
    if isinstance(value, Tensor) and value.ndim:
        return value.view(-1, *[1] * (x.ndim - 1))
    return value


def add_scaled(x: Tensor, scale: float | Tensor, y: Tensor) -> Tensor:
    """`x + scale * y`; a number, or one a chain. With a number it takes one pass over memory."""
    return x + per_chain(scale, x) * y if isinstance(scale, Tensor) else torch.add(x, y, alpha=scale)


def add_scaled_(x: Tensor, scale: float | Tensor, y: Tensor) -> Tensor:
    """`add_scaled` into `x`, which nobody else may hold."""
    return x.add_(per_chain(scale, x) * y) if isinstance(scale, Tensor) else x.add_(y, alpha=scale)


def select(mask: Tensor, new: State, old: State) -> State:
    """Chains of `new` where the `[chain]` mask holds, of `old` elsewhere, leaf by leaf."""
    leaves = zip(new, old, strict=True)
    return type(new)(*(torch.where(mask.view(-1, *[1] * (n.ndim - 1)), n, o) for n, o in leaves))
