"""Makes docs/images/landscape.png, an energy learned from two moons and Hamiltonian trajectories over four wells.

Run it from anywhere, `python docs/make_pictures.py`: about two minutes on one core. `--quick` trains far too little.
With `--run runs/digits`, after `make demo`, it makes docs/images/digits.png as well.
"""

import argparse
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from torchebm import viz
from torchebm.core import BaseModel, CosineScheduler, DoubleWellModel, HarmonicModel, StandardizedModel, Target
from torchebm.core.random import generator_for, randn
from torchebm.datasets import Density, density
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import HamiltonianMonteCarlo
from torchebm.samplers.hamiltonian import ScalarMass, leapfrog
from torchebm.training import Trainer, load_run

WINDOW = ((-4.2, 4.2), (-3.4, 3.9))


def learned(data: Tensor, n_steps: int) -> BaseModel:
    """A network and a bowl, in standardised coordinates, after persistent contrastive divergence at temperature 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLPEnergy(input_dim=2)
    model = StandardizedModel.from_data(network + HarmonicModel(), data)
    loss_fn = ContrastiveDivergence(model, sampler_of(model), k_steps=2, persistent=True, buffer_size=2000)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.0, 0.999))
    schedule = CosineScheduler(1.0, 0.02, n_steps)
    trainer = Trainer(loss_fn, optimizer, learning_rate_schedule=schedule, ema_decay=0.998, grad_clip_norm=1.0)
    return trainer.fit(data, n_steps, batch_size=256)


def sampler_of(model: BaseModel) -> HamiltonianMonteCarlo:
    """The sampler of training and of what comes after it; the step is in standard deviations of the data."""
    return HamiltonianMonteCarlo(model, step_size=0.12, n_leapfrog_steps=6)


def divergence_from(truth: Density, model: BaseModel, n_ticks: int) -> float:
    """The Kullback-Leibler divergence from the true density to the model, in nats, with Z by the rectangle rule."""
    ticks = torch.linspace(-8, 8, n_ticks)
    with torch.no_grad():
        energies = torch.cat([model(points) for points in torch.cartesian_prod(ticks, ticks).split(50_000)])
        log_z = torch.logsumexp(-energies, 0) + 2 * (ticks[1] - ticks[0]).log()
        fresh = truth.sample(50_000, generator_for(1, "fresh"))
        return float(model(fresh).mean() + log_z + truth.log_prob(fresh).mean())


def trajectories(model: BaseModel, start: Tensor, n_transitions: int) -> Tensor:
    """The way that Hamiltonian chains take, `[chain, draw, 2]`; accept tests are left out, as nearly all would pass."""
    n_steps, step_size = 24, 0.06
    target, mass = Target(model), ScalarMass()
    generator = generator_for(22, "momenta")
    x, path = start, [start]
    for _ in range(n_transitions):
        p, gradient = randn(x.shape, generator=generator), model.gradient(x)
        for _ in range(n_steps):
            x, p, _, gradient = leapfrog(x, p, gradient, target, mass, step_size, step_size, 1)
            path.append(x)
    return torch.stack(path, 1)


def landscape(quick: bool) -> Figure:
    """Data; the learned energy with samples of it; Hamiltonian trajectories over four wells."""
    truth = density("two_moons")
    data = truth.sample(20_000, generator_for(0, "data"))
    model = learned(data, 20 if quick else 5000)
    print(f"KL(truth || model) = {divergence_from(truth, model, 50 if quick else 601):.3f} nats")
    generator = generator_for(0, "samples")
    samples = sampler_of(model).sample(n_samples=1200, n_steps=2 if quick else 500, generator=generator)
    wells = DoubleWellModel(barrier_height=1.5, dim=2)
    path = trajectories(wells, torch.tensor([[-1.5, 1.3], [1.6, 0.9], [-0.3, -1.5]]), n_transitions=6)

    figure = Figure(figsize=(13.2, 4.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 0.875])
    viz.scatter(data[:1200], bounds=WINDOW, ax=axes[0])
    viz.energy_landscape(model, WINDOW, samples=samples, resolution=300, percentile=90, ax=axes[1])
    viz.energy_landscape(wells, ((-2.1, 2.1), (-2.1, 2.1)), trajectory=path, resolution=300, percentile=70, ax=axes[2])
    titles = ["data", "the energy learned from it, and samples", "Hamiltonian trajectories over four wells"]
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, loc="left", fontsize=13)
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        for image in ax.images:
            image.colorbar.remove()
        for extra in [*ax.texts, *filter(None, [ax.get_legend()])]:
            extra.remove()
    axes[0].set_facecolor("#F6F7F9")
    return figure


def digits(folder: Path) -> Figure:
    """Digits that were held out, beside samples of the energy that was learned from the others."""
    run = load_run(folder)
    held_out = run.data()[1]
    samples = run.sample(48, generator=generator_for(0, "samples"))
    figure = Figure(figsize=(6.4, 4.1), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, images, title in zip(axes, [held_out.x[:48], samples], ["held-out digits", "samples"], strict=True):
        viz.sample_grid(held_out.bounds[1] - images, n_columns=6, value_range=held_out.bounds, ax=ax)  # ink is dark
        ax.set_title(title, loc="left", fontsize=13)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a small .png: 256 colours are enough for these."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=105)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="train for 20 steps, to see that the script runs")
    parser.add_argument("--run", type=Path, help="directory of a run on the digits, for digits.png")
    parser.add_argument("--only-digits", action="store_true", help="leave landscape.png as it is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.only_digits:
        save(landscape(options.quick), options.out / "landscape.png")
    if options.run is not None:
        save(digits(options.run), options.out / "digits.png")
