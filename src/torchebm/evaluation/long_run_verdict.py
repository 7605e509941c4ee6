"""What a long run says: figures at its checkpoints, and a verdict."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchebm.core.random import uniform

from .distances import energy_distance, projections, sliced_wasserstein
from .kernels import distances, labelled_sums, row_blocks
from .points import as_points, draws_on
from .two_sample import as_large

__all__ = ["Checkpoint", "figures_of", "is_sound", "judged"]

DATA_RANGE = (0.01, 0.99)  # of the data's energies: what samples should stay in
HALF = 0.5  # of the samples, that must have energies in that range
HARDLY = 0.1  # of the displacement between independent points: chains that moved less show nothing
LEVEL = 1e-3  # of the tests for growth: what 999 swaps can just tell
N_SWAPS = 999


class Checkpoint(NamedTuple):
    """The chains at one time."""

    step: int
    """Transitions until then."""
    x: Float[Tensor, " chain *event"]
    energy: Float[Tensor, " chain"]
    acceptance: float | None
    """Mean rate since the checkpoint before, of samplers that can reject."""


def is_sound(x: Float[Tensor, " chain *event"], energy: Float[Tensor, " chain"]) -> Bool[Tensor, " chain"]:
    """Which chains are somewhere."""
    return energy.isfinite() & x.reshape(len(x), -1).isfinite().all(1).to(energy.device)


def figures_of(kept: Sequence[Checkpoint], data: Tensor, data_energy: Tensor, box: tuple[float, float] | None,
             generator: torch.Generator | None) -> dict[str, Any]:  # fmt: skip
    """The fields of a `LongRun` that have one entry for each checkpoint; the first of `kept` is the start."""
    later = kept[1:]
    energy = torch.stack([point.energy for point in later])
    low, high = data_energy.quantile(torch.tensor(DATA_RANGE).to(data_energy))
    sound = [is_sound(point.x, point.energy) for point in later]
    directions = projections(data[0].numel(), generator=generator)
    measured = {"energy_distance": [], "sliced_wasserstein": []}
    growth_p, fall_p, rows = [], [], as_points("data", data)
    for k, (point, whole) in enumerate(zip(later, sound, strict=True)):
        if not bool(whole.all()):  # a set with points that are nowhere has no distance
            p = (math.nan, math.nan)
            measured["energy_distance"].append(math.nan)
            measured["sliced_wasserstein"].append(math.nan)
        else:
            measured["energy_distance"].append(energy_distance(point.x, data))
            measured["sliced_wasserstein"].append(sliced_wasserstein(point.x, data, directions))
            compared = k > 0 and bool(sound[0].all())
            p = _swapped(later[0].x, point.x, rows, generator) if compared else (math.nan, math.nan)
        growth_p.append(p[0])
        fall_p.append(p[1])
    n, m = len(later[0].x), len(rows)
    alone = torch.ones(m, 1, dtype=torch.bool, device=rows.device)
    within = float(labelled_sums(rows - rows.median(0).values, torch.abs, alone)[0]) / (m * (m - 1))
    spread = (2 * rows.var(0).sum()).sqrt()  # root mean square distance between two points
    moved = [(b.x.cpu().double() - a.x.cpu().double()).square().reshape(n, -1).sum(1).mean().sqrt() / spread.cpu()
             for a, b in zip(kept, later, strict=False)]  # fmt: skip
    return {
        "steps": torch.tensor([point.step for point in later]),
        "energy": energy,
        "energies_within": ((energy >= low) & (energy <= high)).double().mean(1),
        "distances": {name: torch.tensor(values, dtype=torch.float64) for name, values in measured.items()},
        "floor": (1 / n + 1 / m) * within,
        "growth_p": torch.tensor(growth_p, dtype=torch.float64),
        "fall_p": torch.tensor(fall_p, dtype=torch.float64),
        "displacement": torch.stack(moved),
        "acceptance": _numbers([point.acceptance for point in later]),
        "saturation": None if box is None else _numbers([_saturated(point.x, box) for point in later]),
        "n_diverged": torch.stack([(~whole).sum() for whole in sound]),
    }


def _numbers(values: list[float | None]) -> Tensor | None:
    known = [math.nan if value is None else value for value in values]
    return None if all(map(math.isnan, known)) else torch.tensor(known, dtype=torch.float64)


def _saturated(x: Tensor, box: tuple[float, float]) -> float:
    return int(((x <= box[0]) | (x >= box[1])).sum()) / x.numel()


def _swapped(first: Tensor, later: Tensor, data: Float[Tensor, "m d"],
             generator: torch.Generator | None) -> tuple[float, float]:  # fmt: skip
    """p-values of a distance to data that has grown between two times, and of one that has fallen.

    If chains are stationary and reversible, a chain may as well have been at its two places in the other order: the
    change of the distance is compared with those after random swaps.
    """
    coins = uniform((len(first), N_SWAPS), generator=generator, device=draws_on(data, generator)).to(data.device) < 0.5
    none = torch.zeros(len(first), 1, dtype=torch.bool, device=data.device)
    change = changes(as_points("first", first), as_points("later", later), data, torch.cat([none, coins], 1))
    observed, null = change[0], change[1:]
    grown, fallen = int(as_large(null, observed).sum()), int(as_large(-null, -observed).sum())
    return (1 + grown) / (1 + N_SWAPS), (1 + fallen) / (1 + N_SWAPS)


def changes(first: Float[Tensor, "n d"], later: Float[Tensor, "n d"], data: Float[Tensor, "m d"],
            swaps: Bool[Tensor, "n k"]) -> Float[Tensor, " k"]:  # fmt: skip
    """The energy distance of `later` to data less that of `first`, after the chains marked in each column have changed
    places."""
    centre, n = data.median(0).values, len(first)
    x, data = torch.cat([first, later]) - centre, data - centre
    labels = torch.cat([swaps, ~swaps])  # of those that count as later
    to_data = torch.cat([distances(x[part], data).mean(1) for part in row_blocks(2 * n, len(data))])
    one, _, other = labelled_sums(x, torch.abs, labels)
    return 2 * (2 * labels.double().mT @ to_data - to_data.sum()) / n - (one - other) / n**2


def judged(figures: dict[str, Any], data: Tensor, data_energy: Tensor, growth: float,
           box: tuple[float, float] | None) -> tuple[str, list[str]]:  # fmt: skip
    """The verdict, and what it rests on."""
    steps, within = figures["steps"].tolist(), figures["energies_within"].tolist()
    distance = figures["distances"]["energy_distance"]
    if lost := int(figures["n_diverged"][-1]):
        n = figures["energy"].shape[1]
        return "diverged", [f"{lost} of {n} chains are not finite after {steps[-1]} transitions: smaller steps, and "
                            "look at the energy far from the data"]  # fmt: skip
    low, high = data_energy.quantile(torch.tensor(DATA_RANGE).to(data_energy)).tolist()
    middle = float(figures["energy"][-1].median())
    reasons = [
        f"energy distance to the data {distance[-1]:.3g} after {steps[-1]} transitions, {distance[0]:.3g} after "
        f"{steps[0]}; that of exact draws is {figures['floor']:.3g} on average",
        f"{percent(within[-1])} of the energies lie in the range of the data's, {low:.4g} to {high:.4g}: the median "
        f"is {middle:.4g}",
    ]
    if box is not None:
        reasons.append(f"{percent(figures['saturation'][-1])} of the entries lie at the box, "
                       f"{percent(_saturated(data, box))} of the data's")  # fmt: skip
    if len(steps) < 2:
        return "too short", ["nothing can be said of one checkpoint", *reasons]
    grown = (distance > growth * distance[0]) & (figures["growth_p"] <= LEVEL)
    if bool(grown.any()) or within[0] >= HALF > within[-1]:
        return "drifting", reasons
    moved = float(figures["displacement"][1:].max())
    if moved < HARDLY:
        return "stuck", [f"chains moved {moved:.2g} of the way between independent points: run longer, or with larger "
                         "steps", *reasons]  # fmt: skip
    if within[-1] < HALF:
        return "apart", reasons
    if float(distance[-1]) * growth < float(distance[0]) and float(figures["fall_p"][-1]) <= LEVEL:
        return "approaching", reasons
    return "stationary", reasons


def percent(share: float | Tensor) -> str:
    """A share in words: 12.5 %."""
    return f"{100 * float(share):.3g} %"
