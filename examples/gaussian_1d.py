"""Learn an energy from samples of a 1-D Gaussian, then draw new samples from it with Langevin dynamics.

We are given 1,000 numbers and pretend not to know where they come from. An energy-based model says that they have
the density p(x) = exp(-E(x)) / Z, where E is a neural network, and two questions follow: how is E learned, and how
is p sampled once E is known? Langevin dynamics answers both, because learning needs samples of the model, too.

    python examples/gaussian_1d.py

It takes some ten seconds on one core, and draws four pictures into examples/figures/gaussian_1d.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from torchebm.core import CosineScheduler
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import LangevinDynamics
from torchebm.training import Trainer
from torchebm.viz import energy_1d, histogram, histogram_flow, particle_flow

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--n-steps", type=int, default=2000, help="updates of the network")
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures" / "gaussian_1d", help="for pictures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)  # of the data, the weights and the samples; the Trainer has streams of its own

# 1. The data. The density is what we pretend not to know: it is used for nothing but the pictures.

truth = torch.distributions.Normal(5.0, 1.0)
data = truth.sample((1000, 1))  # [n, 1]


def density(x):
    return truth.log_prob(x).exp()


# 2. The model. A network from a number to a number is an energy; nothing tells it about Gaussians.

model = MLPEnergy(input_dim=1, hidden_dims=(64, 64))

# 3. Learning. The gradient of the log-likelihood is a difference: push the energy of data down, and that of the
#    model's own samples up; where the two balance, the model's samples look like the data. The samples come from
#    chains of Langevin dynamics. They are persistent: each update continues them where the last one left them, so
#    that ten steps are enough, since the model hardly changes in between.

sampler = LangevinDynamics(model, step_size=0.05)
loss_fn = ContrastiveDivergence(model, sampler, k_steps=10, persistent=True, buffer_size=1000)
trainer = Trainer(
    loss_fn,
    learning_rate=3e-3,
    # A small rate at the end, and an average of the weights, quiet the noise that the samples bring into the gradient.
    learning_rate_schedule=CosineScheduler(1.0, 0.05, arguments.n_steps),
    ema_decay=0.99,
)
model = trainer.fit(data, n_steps=arguments.n_steps, batch_size=256)  # the averaged model

# 4. New samples: 1,000 particles anywhere in [0, 10] flow to the density. The step size may be any function of the
#    step. This one travels far at first and ends with small steps, whose bias is small: with a constant step h,
#    Langevin dynamics widens a standard Gaussian by a fraction of about h / 4.

start = torch.empty(1000, 1).uniform_(0, 10)
sampler = LangevinDynamics(model, step_size=lambda k: 1 / (k + 1))
flow = sampler.sample(x=start, n_steps=100, return_trajectory=True)  # [particle, step, 1]
flow = torch.cat([start.unsqueeze(1), flow], dim=1)
samples = flow[:, -1]

print(f"data     mean {data.mean():.3f}   standard deviation {data.std():.3f}")
print(f"samples  mean {samples.mean():.3f}   standard deviation {samples.std():.3f}")

# 5. Pictures: the data, the energy beside what it should be, the particles on their way, and their histograms.


def save(figure, name):
    figure.savefig(arguments.out / name, dpi=150)
    print(arguments.out / name)


figure = Figure(figsize=(6.4, 4.0), layout="constrained")
histogram(data, density=density, label="data", ax=figure.add_subplot())
save(figure, "data.png")

figure = Figure(figsize=(7.2, 4.4), layout="constrained")
energy_1d(model, (0.0, 10.0), data=data, truth=density, ax=figure.add_subplot())
save(figure, "energy.png")

figure = Figure(figsize=(7.6, 4.2), layout="constrained")
particle_flow(flow, ax=figure.add_subplot())
save(figure, "particles.png")

figure = Figure(figsize=(12.0, 2.8), layout="constrained")
histogram_flow(flow, density, steps=[0, 1, 4, 20, 100], axes=figure.subplots(1, 5, sharey=True))
save(figure, "histograms.png")
