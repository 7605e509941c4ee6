"""The long-run test: do chains that go on for 100 times as long as those of training stay where the data is?"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchebm.core.checks import integer, number, warn_caller
from torchebm.core.divergence import SamplingDivergenceWarning
from torchebm.core.interruption import Interruption, SamplingInterruptedWarning
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import evaluating
from torchebm.core.progress import progress_bar
from torchebm.core.sampler import SamplerState
from torchebm.core.starting import starting_points
from torchebm.core.target import Target

from .long_run_verdict import Checkpoint, figures_of, is_sound, judged
from .points import as_points, in_batches

__all__ = ["LongRun", "energies_at", "long_run"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RECORDS = 20  # of the energies, between two checkpoints
STRETCH = 100  # transitions between two looks whether Ctrl-C was pressed


@dataclass(frozen=True, eq=False, repr=False)
class LongRun:
    """What `long_run` saw, with its figures on the CPU; printing it shows a table, the verdict and the reasons."""

    n_steps: int
    """Length of a training chain."""
    steps: Int[Tensor, " checkpoint"]
    """Transitions until each checkpoint."""
    energy: Float[Tensor, "checkpoint chain"]
    """Energies of the chains."""
    data_energy: Float[Tensor, " m"]
    """Energies of the data."""
    energies_within: Float[Tensor, " checkpoint"]
    """Share of the chains with energies between the 1 % and 99 % quantiles of those of data; 0.98 is best."""
    distances: dict[str, Float[Tensor, " checkpoint"]]
    """To the data: `energy_distance` and `sliced_wasserstein`; NaN where a chain is not finite."""
    floor: float
    """The energy distance that as many independent draws of the data's own density would have on average."""
    growth_p: Float[Tensor, " checkpoint"]
    """p-values of the energy distance being larger than at the first checkpoint; NaN at the first."""
    fall_p: Float[Tensor, " checkpoint"]
    """And of its being smaller."""
    displacement: Float[Tensor, " checkpoint"]
    """Root mean square distance from the checkpoint before, the start for the first, over that between two points of
    data: 1 if a chain forgets where it was."""
    acceptance: Float[Tensor, " checkpoint"] | None
    """Mean acceptance rate since the checkpoint before; `None` of samplers that cannot reject."""
    saturation: Float[Tensor, " checkpoint"] | None
    """Share of the entries that lie at a bound of the box; `None` without one."""
    n_diverged: Int[Tensor, " checkpoint"]
    """Chains that are not finite, or whose energy is not."""
    trace_steps: Int[Tensor, " record"]
    """Transitions until each record of the energies; the first is the start."""
    trace_energy: Float[Tensor, "record 6"]
    """Mean, and 5, 25, 50, 75 and 95 % quantiles, of the chains' energies."""
    verdict: str
    """`stationary`, `approaching`, `drifting`, `apart`, `stuck`, `diverged` or `too short`; see `long_run`."""
    reasons: tuple[str, ...]
    """In words and numbers."""
    completed: bool
    """Whether the run went to its end; Ctrl-C ends it with what there is."""
    x: Float[Tensor, " chain *event"] = field(repr=False)
    """Where the chains ended."""
    state: SamplerState = field(repr=False)
    """To continue from."""

    def __repr__(self) -> str:
        titles = "steps|energy|5 %|95 %|within|energy dist.|sliced W2|moved|accepted|at box"
        rows = [[str(title) for title in titles.split("|")]]
        for k, steps in enumerate(self.steps.tolist()):
            low, high = self.energy[k].nanquantile(torch.tensor([0.05, 0.95]).to(self.energy)).tolist()
            rates = [None if t is None else float(t[k]) for t in (self.acceptance, self.saturation)]
            cells = [float(self.energy[k].mean()), low, high, float(self.energies_within[k])]
            cells += [float(d[k]) for d in self.distances.values()] + [float(self.displacement[k])]
            written = [f"{cell:.4g}" for cell in cells] + ["-" if rate is None else f"{rate:.3g}" for rate in rates]
            rows.append([str(steps), *written])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        ended = "" if self.completed else " (ended early)"
        return "\n".join([*lines, f"verdict: {self.verdict}{ended}", *(f"- {reason}" for reason in self.reasons)])


def long_run(sampler: MarkovSampler, start: Float[Tensor, " chain *event"], n_steps: int,
             data: Float[Tensor, " m *event"], *, multiples: Sequence[int] = (1, 10, 100), growth: float = 2.0,
             box: tuple[float, float] | None = None, model_kwargs: dict[str, Any] | None = None,
             data_kwargs: dict[str, Any] | None = None, generator: torch.Generator | None = None,
             progress: bool = True) -> LongRun:  # fmt: skip
    r"""Runs chains for 1, 10 and 100 times the length of training's, and says whether they stay with the data.

    A model whose samples are good after as many steps as in training, and no longer, is no density: it is a generator
    that needs exactly these steps. The verdict is the first of these that holds:

    | verdict | holds if |
    |---|---|
    | `diverged` | a chain is not finite |
    | `too short` | the run was interrupted before the second checkpoint |
    | `drifting` | the energy distance to the data is larger than at the first checkpoint, by the factor `growth` and \
beyond chance; or most energies were those of data and are no longer |
    | `stuck` | chains moved less than a tenth of the way between independent points: nothing is shown |
    | `apart` | most energies are not those of data, at the end as at the first checkpoint |
    | `approaching` | the distance has fallen, by that factor and beyond chance: training's chains are too short |
    | `stationary` | otherwise |

    Args:
        sampler: As in training, or with smaller steps or an accept test, for the density itself; with its model.
        start: Where training's chains begin: noise, or data.
        n_steps: Length of a training chain; with persistent chains, of one update's part times some updates.
        data: Held out, and as the model learned it: with the noise that was added in training.
        multiples: Of `n_steps`, rising: the checkpoints.
        growth: Factor by which a distance must change to be said to.
        box: Bounds at which entries count as saturated; those of the sampler's `clamp` if left out.
        model_kwargs: Keyword arguments for the model, for the chains.
        data_kwargs: The same for the data.
        generator: Source of randomness.
        progress: Show a progress bar.

    Raises:
        TypeError: If `sampler` is not a `MarkovSampler`.
        ValueError: If `multiples` do not rise, data or its energies are not finite, or event shapes differ.

    Note:
        "Beyond chance" is p <= 0.001 of a test that swaps the ends of chains at random, for each later checkpoint:
        it holds by chance in one run out of a thousand, for each. Distances are told apart by 200 chains or more.
        Stationary chains may still miss modes: they stay in the one that they are in, and the energy distance then says
        so only as far as data shows. Sampling costs what the sampler does; the rest is O((chains + m)^2) and small.

        Ctrl-C ends the run within 100 transitions: the result is about what was reached, with `completed=False` and a
        `SamplingInterruptedWarning`. A second one raises `KeyboardInterrupt` at once, as does one before the first.

    References: Nijkamp et al. (2020), https://arxiv.org/abs/1903.12370

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> from torchebm.samplers import MetropolisAdjustedLangevin
        >>> g = torch.Generator().manual_seed(0)
        >>> sampler = MetropolisAdjustedLangevin(HarmonicModel(dim=2), step_size=0.5)
        >>> data = torch.randn(300, 2, generator=g)
        >>> start = torch.randn(200, 2, generator=g)
        >>> long_run(sampler, start, 10, data, generator=g, progress=False).verdict
        'stationary'
    """
    if not isinstance(sampler, MarkovSampler):
        raise TypeError(
            f"sampler must be a MarkovSampler, such as LangevinDynamics(model, step_size=0.01); got "
            f"{type(sampler).__name__}."
        )
    integer("n_steps", n_steps, at_least=1)
    number("growth", growth, above=1.0)
    ends = [integer("each of multiples", multiple, at_least=1) * n_steps for multiple in multiples]
    if not ends or any(after <= before for before, after in pairwise(ends)):
        raise ValueError(f"multiples must rise, as (1, 10, 100) do; got {tuple(multiples)}.")
    rows = as_points("data", data, at_least=2)
    as_points("start", start, at_least=2)
    if bool((rows == rows[0]).all()):
        raise ValueError("all points of data are the same; expected some that differ, to measure distances by.")
    if start.shape[1:] != data.shape[1:]:
        raise ValueError(f"start holds points of shape {list(start.shape[1:])}, data of {list(data.shape[1:])}.")
    if box is None and sampler.model.coordinates()[1] is None:
        box = getattr(sampler, "clamp", None)
    start = starting_points(sampler, start, None, len(start), None, generator)[0]  # where and as the sampler works
    data = data.to(start)
    data_energy = energies_at(sampler, data, data_kwargs)
    as_points("energies of data", data_energy)
    walk = _Walk(sampler, start, model_kwargs, generator)
    with progress_bar(progress, ends[-1], "long run") as tick, Interruption() as interruption:
        kept = [walk.checkpoint()]
        for step in _records(ends):
            while walk.step < step and not (interruption.pressed or walk.all_diverged):
                walk.go_on(min(step - walk.step, STRETCH), tick)
            if walk.step > walk.trace_steps[-1]:
                tick(0, energy=f"{walk.record():.4g}")
            stops = interruption.pressed or walk.all_diverged
            if (step in ends or stops) and walk.step > kept[-1].step:
                kept.append(walk.checkpoint())
            if stops:
                break
    if walk.step < ends[-1] and interruption.pressed:
        warn_caller(f"interrupted after {walk.step} of {ends[-1]} transitions: the verdict is about these.",
                    SamplingInterruptedWarning)  # fmt: skip
    if len(kept) < 2:
        raise KeyboardInterrupt
    assert walk.state is not None
    figures = figures_of(kept, data, data_energy, box, generator)
    verdict, reasons = judged(figures, data, data_energy, growth, box)
    return LongRun(n_steps=n_steps, data_energy=data_energy, trace_steps=torch.tensor(walk.trace_steps),
                   trace_energy=torch.stack(walk.trace), verdict=verdict, reasons=tuple(reasons),
                   completed=walk.step == ends[-1], x=walk.x, state=walk.state, **figures)  # fmt: skip


def energies_at(sampler: MarkovSampler, x: Float[Tensor, " n *event"],
                model_kwargs: dict[str, Any] | None = None) -> Float[Tensor, " n"]:  # fmt: skip
    """Energies of the sampler's model, as the sampler evaluates it; in float64, on the CPU."""

    def energy(part: Tensor, **kwargs: Any) -> Tensor:
        return Target(sampler.model, kwargs, sampler.precision).energy(part)

    with evaluating(sampler.model), torch.no_grad():
        return in_batches(energy, x, 4096, model_kwargs).cpu().double()


def _records(ends: Sequence[int]) -> list[int]:
    """When energies are written down: at each checkpoint, and some times before it."""
    steps = []
    for before, end in pairwise([0, *ends]):
        n = min(RECORDS, end - before)
        steps += [before + (end - before) * (k + 1) // n for k in range(n)]
    return steps


class _Walk:
    """The chains on their way, and what is written down of them."""

    def __init__(self, sampler: MarkovSampler, start: Tensor, model_kwargs: dict[str, Any] | None,
                 generator: torch.Generator | None) -> None:  # fmt: skip
        self.sampler, self.model_kwargs, self.generator = sampler, model_kwargs, generator
        self.x, self.step = start, 0
        self.state: SamplerState | None = None
        self.accepted: list[tuple[int, float]] = []  # transitions, and their mean acceptance rate
        self.trace_steps: list[int] = []
        self.trace: list[Tensor] = []
        self.all_diverged = False
        self.record()

    def go_on(self, n: int, tick: Any) -> None:
        """n transitions; of chains that diverge the result tells."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SamplingDivergenceWarning)
            run = self.sampler.run(self.x if self.state is None else None, n_steps=n, thin=n, diagnostics=True,
                                   state=self.state, generator=self.generator,
                                   model_kwargs=self.model_kwargs)  # fmt: skip
        self.x, self.state, self.step = run.x, run.state, self.step + n
        assert run.diagnostics is not None
        if "acceptance_rate" in run.diagnostics:
            self.accepted.append((n, float(run.diagnostics["acceptance_rate"].double().mean())))
        self.all_diverged = not bool(is_sound(self.x, run.diagnostics["energy"][:, -1]).any())
        tick(n)

    def record(self) -> float:
        """Writes down the energies, and returns their mean."""
        self.energy = energies_at(self.sampler, self.x, self.model_kwargs)
        self.trace_steps.append(self.step)
        self.trace.append(_summary(self.energy))
        return float(self.trace[-1][0])

    def checkpoint(self) -> Checkpoint:
        """What there is now, at a record; rates begin anew."""
        total = sum(n for n, _ in self.accepted)
        rate = sum(n * rate for n, rate in self.accepted) / total if total else None
        self.accepted = []
        return Checkpoint(self.step, self.x, self.energy, rate)


def _summary(energy: Float[Tensor, " chain"]) -> Float[Tensor, "6"]:
    quantiles = energy.quantile(torch.tensor(QUANTILES, dtype=energy.dtype, device=energy.device))
    return torch.cat([energy.mean().reshape(1), quantiles]).cpu()
