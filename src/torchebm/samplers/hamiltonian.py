"""What Hamiltonian samplers share: the metric of the momentum, its place on a sampler, integrator and energies."""

import math
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchebm.core.checks import number
from torchebm.core.markov import MarkovSampler
from torchebm.core.shapes import add_scaled, sum_event
from torchebm.core.target import Target

__all__ = ["DenseMass", "DiagonalMass", "HamiltonianSampler", "Mass", "ScalarMass", "as_mass", "kinetic", "leapfrog"]

MAX_ENERGY_ERROR = 1000.0  # beyond it the integrator has lost the trajectory; Stan's figure


class Mass(Protocol):
    """The mass M of a momentum p ~ N(0, M)."""

    def momentum(self, xi: Tensor) -> Tensor:
        r"""$M^{1/2} \xi$: a momentum from standard normal noise."""

    def velocity(self, p: Tensor) -> Tensor:
        r"""$M^{-1} p$."""


class ScalarMass:
    """One number for all directions."""

    def __init__(self, mass: float = 1.0) -> None:
        self.mass = number("mass", mass, above=0.0)

    def momentum(self, xi: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        return xi if self.mass == 1.0 else xi * self.mass**0.5

    def velocity(self, p: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        return p if self.mass == 1.0 else p / self.mass


class DiagonalMass:
    """One number for each component of the event."""

    def __init__(self, mass: Float[Tensor, "*event"]) -> None:
        if not bool((mass.isfinite() & (mass > 0)).all()):
            raise ValueError(
                f"a diagonal mass must be positive and finite; its smallest entry is {float(mass.min()):g}."
            )
        self.inverse, self.root = 1 / mass, mass.sqrt()

    def momentum(self, xi: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        return xi * self.root

    def velocity(self, p: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        return p * self.inverse


class DenseMass:
    """A symmetric positive definite matrix over the flattened event, for chains of `dtype`, its own if left out.

    It is factorised as it was given: rounded to few digits first, many a matrix would no longer be positive definite.
    """

    def __init__(self, mass: Float[Tensor, "d d"], dtype: torch.dtype | None = None) -> None:
        dtype, wide = dtype or mass.dtype, mass.double()
        if not bool(mass.to(dtype).isfinite().all()):
            raise ValueError("a dense mass must be finite; it holds NaN or infinity.")
        if not torch.allclose(wide, wide.mT, rtol=1e-5, atol=1e-8):
            raise ValueError("a dense mass must be symmetric; got a matrix that differs from its transpose.")
        factor, failed = torch.linalg.cholesky_ex(wide)
        if failed:
            raise ValueError("a dense mass must be positive definite; its Cholesky factorisation failed.")
        self.factor, self.inverse = factor.to(dtype), torch.cholesky_inverse(factor).to(dtype)

    def momentum(self, xi: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        return (xi.reshape(-1, len(self.factor)) @ self.factor.T).view_as(xi)  # rows: (L xi)^T

    def velocity(self, p: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        return (p.reshape(-1, len(self.inverse)) @ self.inverse).view_as(p)


def as_mass(mass: float | Tensor | None, x: Float[Tensor, " chain *event"]) -> Mass:
    """The mass that a user gave, for chains like `x`.

    Args:
        mass: `None` for the identity, a positive number, a tensor of the event's shape (diagonal), or a matrix
            `[d, d]` over the d components of the flattened event (dense).
        x: The chains, for event shape, dtype and device.

    Raises:
        ValueError: If the shape fits neither, or the mass is not positive definite.
    """
    if mass is None:
        return ScalarMass()
    if not isinstance(mass, Tensor) or mass.ndim == 0:
        return ScalarMass(number("mass", mass, above=0.0))
    if mass.is_complex() or mass.dtype == torch.bool:
        raise TypeError(f"mass must hold real numbers; got {mass.dtype}.")
    event, d = x.shape[1:], x.shape[1:].numel()
    if mass.device.type != x.device.type:
        raise ValueError(f"the mass is on {mass.device}, the chains on {x.device}: move one of them.")
    if mass.shape == event:
        return DiagonalMass(mass.to(x.dtype))
    if mass.shape == (d, d):
        return DenseMass(mass, x.dtype)
    raise ValueError(
        f"mass has shape {list(mass.shape)}; expected a number, {list(event)} for a diagonal mass, or {[d, d]} for a "
        f"dense one, because a point has shape {list(event)}."
    )


class HamiltonianSampler(MarkovSampler):
    """A sampler whose momentum has a mass: `sampler.mass = ...` at any time, `metric(x)` in its step."""

    _mass: float | Tensor | None = None
    _metric: tuple[object, Mass] | None = None

    @property
    def mass(self) -> float | Tensor | None:
        """The mass as it was given; what is derived from it follows when it changes."""
        return self._mass

    @mass.setter
    def mass(self, mass: float | Tensor | None) -> None:
        if mass is not None and not isinstance(mass, Tensor):
            mass = number("mass", mass, above=0.0)
        elif mass is not None and mass.is_inference():
            with torch.inference_mode(False):  # a copy that counts its versions
                mass = mass.clone()
        self._mass, self._metric = mass, None

    def prepare(self, x: Float[Tensor, " chain *event"]) -> None:
        self.metric(x)

    def metric(self, x: Float[Tensor, " chain *event"]) -> Mass:
        """The mass for chains like `x`; factorised once for each mass, event shape, dtype and device."""
        if torch.compiler.is_compiling() and self._metric is not None:  # `prepare` has looked what became of the mass
            return self._metric[1]
        version = self._mass._version if isinstance(self._mass, Tensor) else 0
        key = (version, x.shape[1:], x.dtype, x.device)
        if self._metric is None or self._metric[0] != key:
            self._metric = (key, as_mass(self._mass, x))
        return self._metric[1]


def leapfrog(x: Tensor, p: Tensor, gradient: Tensor, target: Target, mass: Mass, step_size: float | Tensor,
             kick: float | Tensor, n_steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    r"""Integrates Hamilton's equations.

    $p \mathrel{-}= \tfrac h2 \nabla E$, then $x \mathrel{+}= h M^{-1} p$, then p again.

    Args:
        x: Position, `[chain, *event]`.
        p: Momentum, `[chain, *event]`.
        gradient: Of the energy at x, so that n steps cost n gradients.
        target: Energy and gradient.
        mass: The metric.
        step_size: $h$.
        kick: $h / T$, the step of the momentum.
        n_steps: Steps.

    Returns:
        Position, momentum, and energy and gradient at the position.

    Note: reversible, volume preserving, with an energy error of O(h²). Whatever it becomes, it returns: a trajectory
    that leaves the finite numbers ends in NaN, which the accept test rejects.
    """
    p = add_scaled(p, -0.5 * kick, gradient)
    energy = gradient
    for i in range(n_steps):
        x = add_scaled(x, step_size, mass.velocity(p))
        energy, gradient = target(x)
        p = add_scaled(p, -kick if i < n_steps - 1 else -0.5 * kick, gradient)
    return x, p, energy, gradient


def kinetic(mass: Mass, p: Float[Tensor, " chain *event"], dtype: torch.dtype,
            velocity: Float[Tensor, " chain *event"] | None = None) -> Float[Tensor, " chain"]:  # fmt: skip
    r"""$\tfrac12 p^\top M^{-1} p$, one a chain, summed in the dtype of the accept test; `velocity` if it is known."""
    velocity = mass.velocity(p) if velocity is None else velocity
    return 0.5 * sum_event(p.to(dtype) * velocity.to(dtype))


def lost(log_ratio: Float[Tensor, " chain"]) -> Bool[Tensor, " chain"]:
    """Whether a trajectory diverged: NaN compares false."""
    return ~((log_ratio > -MAX_ENERGY_ERROR) & log_ratio.isfinite())


def whiten(mass: Mass, p: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
    r"""$M^{-1/2} p$, the inverse of `mass.momentum`: standard normal if p is a momentum."""
    if isinstance(mass, DenseMass):
        wide = torch.promote_types(p.dtype, torch.float32)  # nothing solves in less
        flat = p.reshape(-1, len(mass.factor)).T.to(wide)
        return torch.linalg.solve_triangular(mass.factor.to(wide), flat, upper=False).T.reshape(p.shape).to(p.dtype)
    return p / mass.momentum(torch.ones_like(p[:1]))


def squared_length(mass: Mass, x: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain"]:
    r"""$x^\top M x$, one a chain."""
    if isinstance(mass, DenseMass):
        return (x.reshape(-1, len(mass.factor)) @ mass.factor.to(x.dtype)).square().sum(1)  # rows: (L^T x)^T
    return sum_event((x * mass.momentum(torch.ones_like(x[:1]))).square())


def variances(mass: Mass, x: Float[Tensor, " chain *event"]) -> Float[Tensor, " d"]:
    r"""The diagonal of $M^{-1}$, over the flattened event: what the mass takes for the variances of x."""
    if isinstance(mass, DenseMass):
        return mass.inverse.diagonal()
    return mass.velocity(torch.ones_like(x[:1])).flatten()


def radical_inverse(k: int) -> float:
    """The binary digits of k mirrored at the point: 1/2, 1/4, 3/4, 1/8, ... for k = 1, 2, ...

    Van der Corput's sequence, which is Halton's in base 2: it fills (0, 1) evenly, from any k on.
    """
    value, weight = 0.0, 0.5
    while k:
        value, weight, k = value + weight * (k & 1), weight / 2, k >> 1
    return value


def decay(rate: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    r"""What remains of a momentum or a direction, and the scale of the noise: $e^{-s}$, $\sqrt{1 - e^{-2 s}}$."""
    if isinstance(rate, Tensor):
        return torch.exp(-rate), (-torch.expm1(-2 * rate)) ** 0.5
    return math.exp(-rate), (-math.expm1(-2 * rate)) ** 0.5
