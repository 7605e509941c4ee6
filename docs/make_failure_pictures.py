"""Makes docs/images/diverging-*.png: failures of training, and what guards make of them.

Run it from anywhere, `python docs/make_failure_pictures.py`: about two minutes on one core. `--quick` trains too little
to see anything. It prints what the guards said.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from torchebm import viz
from torchebm.core import BaseModel, CosineScheduler, HarmonicModel, StandardizedModel
from torchebm.core.random import generator_for, uniform
from torchebm.datasets import density
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from torchebm.training import Guard, Remedy, StepSizeControl, Trainer, TrainingDivergedError, TrainingWarning
from torchebm.training.guards import gap_beyond
from torchebm.viz.canvas import PALETTE

WITHOUT, WITH = PALETTE["samples"], PALETTE["energy"]


@dataclass(frozen=True)
class Failure:
    """A run that fails, and how it is shown."""

    name: str
    signals: tuple[str, str]
    """Metrics that tell."""
    make: Callable[[Tensor, int, tuple[Guard, ...] | None], Trainer]
    """The trainer, for data, a number of updates and guards: `()` for none, `None` for the default ones."""
    remedy: str = "with guards"
    """What the second run has that the first had not."""
    width: float = 5.5
    """Half the width of the window, in which the chains begin that are shown."""


def network(data: Tensor, base: bool = True) -> BaseModel:
    """A network on standardised values, with or without a bowl around it; the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = MLPEnergy(input_dim=2)
    return StandardizedModel.from_data(inner + HarmonicModel() if base else inner, data)


def trained_by(model: BaseModel, sampler: HamiltonianMonteCarlo | LangevinDynamics, k_steps: int, learning_rate: float,
               n_steps: int, guards: tuple[Guard, ...] | None,
               control: StepSizeControl | None = None) -> Trainer:  # fmt: skip
    """Persistent contrastive divergence."""
    loss_fn = ContrastiveDivergence(model, sampler, k_steps=k_steps, persistent=True, buffer_size=2000)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.0, 0.999))
    return Trainer(loss_fn, optimizer, learning_rate_schedule=CosineScheduler(1.0, 0.02, n_steps), ema_decay=0.99,
                   grad_clip_norm=1.0, log_every=max(2, n_steps // 40), checkpoint_every=max(1, n_steps // 4),
                   guards=guards, step_size_control=control)  # fmt: skip


def learning_rate(data: Tensor, n_steps: int, guards: tuple[Guard, ...] | None) -> Trainer:
    """Ten times what the calm run takes."""
    model = network(data)
    return trained_by(model, HamiltonianMonteCarlo(model, 0.12, 6), 2, 0.3, n_steps, guards)


def frozen_chains(data: Tensor, n_steps: int, guards: tuple[Guard, ...] | None) -> Trainer:
    """Leapfrog steps of four standard deviations; the second run steers them."""
    model = network(data)
    control = None if guards == () else StepSizeControl(target_acceptance=0.8)
    return trained_by(model, HamiltonianMonteCarlo(model, 4.0, 6), 2, 0.01, n_steps, guards, control)


def langevin_steps(data: Tensor, n_steps: int, guards: tuple[Guard, ...] | None) -> Trainer:
    """Unadjusted steps near the limit of stability; the guard of the second run makes them far smaller."""
    model = network(data)
    if guards is None:
        guards = (gap_beyond(remedy=Remedy(learning_rate=0.5, step_size=0.005)),)
    return trained_by(model, LangevinDynamics(model, 1.6), 10, 0.01, n_steps, guards)


def no_base(data: Tensor, n_steps: int, guards: tuple[Guard, ...] | None) -> Trainer:
    """Short chains from the data, and nothing that holds the energy up far away."""
    model = network(data, base=guards is None)
    loss_fn = ContrastiveDivergence(model, LangevinDynamics(model, 0.002), k_steps=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    return Trainer(loss_fn, optimizer, log_every=max(2, n_steps // 40), guards=guards)


def box(data: Tensor, n_steps: int, guards: tuple[Guard, ...] | None) -> Trainer:
    """Chains in a box that is smaller than the data, or wide enough."""
    model = network(data)
    edge = 1.0 if guards == () else 3.0
    sampler = LangevinDynamics(model, 0.02, clamp=(-edge, edge))
    return trained_by(model, sampler, 5, 0.003, n_steps, guards)


FAILURES = [
    Failure("learning-rate", ("gap_ratio", "gap_fluctuation"), learning_rate),
    Failure("frozen-chains", ("acceptance_rate", "energy_gap"), frozen_chains, "with its step size steered"),
    Failure("langevin-steps", ("displacement", "gap_ratio"), langevin_steps, "with a remedy"),
    Failure("no-base", ("energy_noise", "gap_ratio"), no_base, "with a bowl", 16.0),
    Failure("box", ("saturation", "energy_gap"), box, "with a wider box"),
]


def fitted(failure: Failure, data: Tensor, n_steps: int, guards: tuple[Guard, ...] | None) -> tuple[Trainer, str]:
    """A run, and what came of it."""
    trainer = failure.make(data, n_steps, guards)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)
            trainer.fit(data, n_steps, batch_size=256, progress=False)
        outcome = "to the end"
    except TrainingDivergedError as error:
        outcome = str(error)
    print(f"{failure.name}, {'without' if guards == () else failure.remedy}: {outcome}")
    for event in trainer.events:
        print(f"  step {event['step']}: {event['event']}, guard {event['guard']!r}: {event['reason']}")
    return trainer, outcome


def samples_of(trainer: Trainer, width: float, n_steps: int) -> Tensor:
    """Where chains arrive that begin anywhere in the window; where they begin, if none can move."""
    generator = generator_for(0, "pictures")
    start = width * (2 * uniform((600, 2), generator=generator) - 1)
    sampler = HamiltonianMonteCarlo(trainer.model, 0.1, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sampler.sample(start, n_steps=n_steps, n_warmup=n_steps // 3, generator=generator)


def curve(ax: Axes, records: Sequence[dict], key: str, color: str, label: str) -> None:
    """A figure of every record, also of those that a rollback took back; the line breaks where a run went back."""
    rows = [record for record in records if record.get(key) is not None or "event" in record]
    steps = [row["step"] for row in rows]
    ax.plot(steps, [row.get(key, math.nan) for row in rows], color=color, linewidth=1.4, label=label)


def picture(failure: Failure, data: Tensor, n_steps: int) -> Figure:
    """Samples without, two signals, samples with."""
    without, with_guards = (fitted(failure, data, n_steps, guards)[0] for guards in ((), None))
    figure = Figure(figsize=(13.2, 3.5), layout="constrained")
    axes = figure.subplots(1, 4)
    for ax, trainer, title in ((axes[0], without, "without"), (axes[3], with_guards, failure.remedy)):
        samples = samples_of(trainer, failure.width, min(300, n_steps))
        viz.scatter(data[:600], samples, bounds=((-failure.width, failure.width),) * 2, ax=ax)
        ax.set_title(title, loc="left", fontsize=11)
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
        ax.legend(frameon=False, markerscale=2, fontsize="small", loc="lower left")
    for ax, key in zip(axes[1:3], failure.signals, strict=True):
        viz.training_curves(without.records.lines, keys=[key], smoothing=1, axes=[ax])
        ax.lines[0].set(color=WITHOUT, label="without")
        curve(ax, with_guards.records.all, key, WITH, failure.remedy)
        for event in with_guards.events:
            ax.axvline(event["step"], color=PALETTE["truth"], linewidth=0.8, linestyle=":")
        values = [row[key] for row in [*without.records.lines, *with_guards.records.lines] if row.get(key) is not None]
        if values and min(values) > 0 and max(values) > 50 * min(values):
            ax.set_yscale("log")
        elif values and max(map(abs, values)) > 1e3:
            ax.set_yscale("symlog")
    axes[1].legend(frameon=False, fontsize="small")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a small .png: 128 colours are enough for these."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=85)
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="train for 20 steps, to see that the script runs")
    parser.add_argument("--only", choices=[failure.name for failure in FAILURES], help="make one of them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    points = density("eight_gaussians").sample(20_000, generator_for(0, "data"))
    for each in FAILURES:
        if options.only in (None, each.name):
            save(picture(each, points, 20 if options.quick else 800), options.out / f"diverging-{each.name}.png")
