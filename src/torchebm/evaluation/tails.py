"""Whether an energy can have a normaliser: what it does far away."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.bijections import pull_back
from torchebm.core.model import BaseModel, evaluating
from torchebm.core.random import randn
from torchebm.core.shapes import per_chain

__all__ = ["UnboundedEnergyError", "check_tails"]

_DOUBLINGS = 20  # of the radius: a million times the data's scale
_COMPARED = 5  # doublings that the growth is measured over
_N_RANDOM, _N_SEARCHED, _N_SEARCH_STEPS = 128, 64, 40


class UnboundedEnergyError(ValueError):
    """The energy does not confine the density: it has no normaliser."""


@torch.no_grad()
def check_tails(model: BaseModel, near: Float[Tensor, " n *event"] | None = None, *, dim: int | None = None,
                generator: torch.Generator | None = None) -> None:  # fmt: skip
    r"""Refuses an energy whose density does not fall off: then $\int e^{-E}$ is infinite, and estimates mean nothing.

    Energies are followed along rays to a million times the data's scale, in the coordinates that samplers walk in. In d
    dimensions the integral along almost every ray needs $dE / d\log r > d$; on random rays that is what is checked. On
    rays that a descent on a distant sphere turned towards low energies it is enough that energies do not fall.

    Args:
        model: The energy.
        near: Points near which the density is, such as data: their mean and spread set centre and scale.
        dim: Length of the vectors, if neither points nor the model tell the shape.
        generator: Of the directions.

    Raises:
        UnboundedEnergyError: If the energy falls, or grows too slowly, along one of the rays.

    Note: passing is no proof. A narrow cone, or a hole that is far away, can be missed.
    """
    inner, transform = model.coordinates()
    if near is not None:
        z = near if transform is None else pull_back(transform, near)
        centre = z.mean(0, keepdim=True)
        scale = float((z - centre).square().flatten(1).sum(1).mean().sqrt()) or 1.0
    else:
        shape = inner.event_shape
        if shape is None and transform is not None and model.event_shape is not None:
            shape = torch.Size(transform.inverse_shape(model.event_shape))
        shape = shape if dim is None else torch.Size([dim])
        if shape is None:
            raise ValueError(f"{type(model).__name__} does not know its event shape: give points, or dim=.")
        tensors = (t for ts in (model.parameters(), model.buffers()) for t in ts if t.is_floating_point())
        like = next(tensors, torch.empty(0))
        centre = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
        scale = math.sqrt(shape.numel())
    d = centre[0].numel()
    with evaluating(model):
        rays = _directions(_N_RANDOM, centre, generator)
        _refuse(inner, centre, scale, rays, float(d), "a random direction")
        start = _directions(_N_SEARCHED, centre, generator)
        rays = _towards_low_energies(inner, centre, scale * 2.0 ** (_DOUBLINGS // 2), start)
        _refuse(inner, centre, scale, rays, None, "a direction of low energy")


def _refuse(inner: BaseModel, centre: Tensor, scale: float, rays: Tensor, least: float | None, which: str) -> None:
    """Compares the growth of the energy over the last radii with what it must be at least; it must not fall below that
    at the centre."""
    radii = [scale * 2.0**j for j in range(_DOUBLINGS + 1)]
    energies = torch.stack([inner(centre + r * rays).double() for r in radii])  # [radius, ray]
    # the last radius at which the energy is a number, or +inf, and so is everything nearer
    known = (~energies.isnan()).cummin(0).values
    last = known.sum(0) - 1
    first = (last - _COMPARED).clamp(min=0)
    columns = torch.arange(energies.shape[1], device=energies.device)
    judged = last >= 1
    end, before = energies[last.clamp(min=0), columns], energies[first, columns]
    growth = torch.where(end == torch.inf, torch.inf, (end - before) / ((last - first) * math.log(2)))
    at_centre = float(inner(centre).double()[0])
    falls = (growth < 0) & ~(end >= at_centre)
    bad = judged & (falls if least is None else falls | (growth <= least))
    if not bool(bad.any()):
        return
    worst = int(torch.where(bad, growth, torch.inf).argmin())
    r, slope, energy = radii[int(last[worst])], float(growth[worst]), float(end[worst])
    what = "falls without end" if bool(falls[worst]) else "hardly grows"
    raise UnboundedEnergyError(
        f"the energy {what}: along {which} it is {energy:.4g} at a distance of {r:.3g} (the points spread over "
        f"{scale:.3g}), {at_centre:.4g} at their centre, and changes there by {slope:.3g} for each factor e in the "
        f"distance; a density in {centre[0].numel()} dimensions needs more than {centre[0].numel()}. Its integral is "
        "infinite, so there is no log Z and no likelihood. Add a confining energy, as network + HarmonicModel(k), or "
        "confine the model to a box: base=UniformModel(low, high). check_tails=False skips this test."
    )


def _directions(n: int, centre: Tensor, generator: torch.Generator | None) -> Tensor:
    u = randn((n, *centre.shape[1:]), generator=generator, dtype=centre.dtype, device=centre.device)
    return _unit(u)


def _unit(u: Tensor) -> Tensor:
    return u / per_chain(u.flatten(1).norm(dim=1), u)


def _towards_low_energies(inner: BaseModel, centre: Tensor, radius: float, rays: Tensor) -> Tensor:
    """Directions after a descent on the sphere, with steps that turn by less and less."""
    for step in range(_N_SEARCH_STEPS):
        gradient = inner.gradient(centre + radius * rays)
        along = cast(Tensor, per_chain((gradient * rays).flatten(1).sum(1), rays)) * rays
        tangent = gradient - along
        length = cast(Tensor, per_chain(tangent.flatten(1).norm(dim=1), rays))
        turn = torch.where((length > 0) & length.isfinite(), tangent / length, 0.0)
        rays = _unit(rays - 0.5 * 0.9**step * turn)
    return rays
