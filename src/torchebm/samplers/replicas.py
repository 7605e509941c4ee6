"""What parallel tempering does with replicas: their target, their state, and which neighbours are swapped."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchebm.core.target import Target

from .acceptance import accepts

__all__ = ["ReplicaTarget", "cold_replica", "each_leaf", "flat", "partners", "repeat", "swaps", "tempered"]


class ReplicaTarget(Target):
    """The target of `[chain * replica, *event]`, where conditions belong to chains.

    Without conditions all replicas are evaluated at once; with conditions one after the other, each with the conditions
    as they were given.

    Args:
        target: That of `[chain, *event]`.
        n: Replicas a chain.
    """

    def __init__(self, target: Target, n: int) -> None:
        vars(self).update(vars(target))
        self._own, self._n = target, n

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.model_kwargs:
            return self._own(x)
        energies, gradients = zip(*(self._own(part) for part in self._parts(x)), strict=True)
        return torch.stack(energies, 1).flatten(0, 1), torch.stack(gradients, 1).flatten(0, 1)

    def gradient(self, x: Tensor) -> Tensor:
        return self._each(self._own.gradient, x)

    def energy(self, x: Tensor) -> Tensor:
        return self._each(self._own.energy, x)

    def _each(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not self.model_kwargs:
            return function(x)
        return torch.stack([function(part) for part in self._parts(x)], 1).flatten(0, 1)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.unflatten(0, (len(x) // self._n, self._n)).unbind(1)


def swaps(
    energy: Float[Tensor, " chain replica"],
    temperatures: Float[Tensor, " chain replica"],
    u: Float[Tensor, " chain pair"],
) -> tuple[Bool[Tensor, " chain pair"], Float[Tensor, " chain pair"]]:
    """Which neighbours would be swapped, were it their turn, and with what probability.

    An energy that is not finite is never swapped towards the cold end, and away from it whenever the other is finite.
    """
    wide = torch.promote_types(energy.dtype, u.dtype)
    beta, energy = 1 / temperatures.to(wide), energy.to(wide)
    log_ratio = (beta[:, :-1] - beta[:, 1:]) * (energy[:, :-1] - energy[:, 1:])
    return accepts(log_ratio.to(u.dtype), u, energy[:, :-1], energy[:, 1:])


def partners(swapped: Bool[Tensor, " chain pair"]) -> Int[Tensor, " chain replica"]:
    """For each place the replica that comes there; no two neighbouring pairs are swapped at once."""
    swapped = swapped.to(torch.int64)
    up, down = torch.nn.functional.pad(swapped, (0, 1)), torch.nn.functional.pad(swapped, (1, 0))
    return torch.arange(up.shape[1], device=swapped.device) + up - down


# the state: counters, the replicas' leaves [chain, replica, ...], and those of the cold one that others ask for -------


_KINDS: dict[type, type] = {}


def _kind_of_state(inner: type) -> type:
    """The state whose replicas are those of an inner sampler's state; one class for each."""
    if inner in _KINDS:
        return _KINDS[inner]
    names: tuple[str, ...] = inner._fields  # pyrefly: ignore[missing-attribute]
    cold = [name for name in ("x", "energy") if name in names]
    kind: Any = namedtuple(f"Tempered{inner.__name__}", [*cold, "time", "way", *(f"replica_{n}" for n in names)])
    kind.inner, kind.n_cold = inner, len(cold)
    kind.__reduce__ = lambda self: (_restore, (inner, tuple(self)))  # a class made here is found by no name
    _KINDS[inner] = kind
    return kind


def _restore(inner: type, leaves: tuple[Tensor, ...]) -> Any:
    return _kind_of_state(inner)(*leaves)


def tempered(replicas: Any, time: Int[Tensor, " chain"], way: Int[Tensor, " chain replica"]) -> Any:
    """A state, from the inner sampler's leaves `[chain, replica, ...]`, x first and energy, if there is one, anywhere.

    Args:
        replicas: The inner sampler's state.
        time: Transitions so far, from which the pairs that have their turn follow.
        way: Which end each replica saw last.
    """
    kind: Any = _kind_of_state(type(replicas))
    cold = {name: getattr(replicas, name)[:, 0] for name in kind._fields[: kind.n_cold]}
    return kind(*cold.values(), time, way, *replicas)


def flat(state: Any) -> Any:
    """The inner sampler's state, leaves `[chain * replica, ...]`."""
    kind = type(state)
    return kind.inner(*(leaf.flatten(0, 1) for leaf in state[kind.n_cold + 2 :]))


def each_leaf(state: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A state or info of the same kind, with the function applied to each tensor, also of an info within an info."""
    return type(state)(*(each_leaf(leaf, function) if isinstance(leaf, tuple) else function(leaf) for leaf in state))


def repeat(x: Float[Tensor, " chain *event"], n: int) -> Float[Tensor, " chain_replica *event"]:
    """Each chain n times, one for each replica."""
    return x.unsqueeze(1).expand(len(x), n, *x.shape[1:]).flatten(0, 1)


def cold_replica(state: Any) -> Any:
    """The inner sampler's state of the cold replica."""
    kind = type(state)
    return kind.inner(*(leaf[:, 0] for leaf in state[kind.n_cold + 2 :]))
