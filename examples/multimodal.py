"""Two modes, twelve standard deviations apart: what Hamiltonian Monte Carlo does there, and what finds both.

The left mode holds 30 % of the mass, the right one 70 %. Chains of Hamiltonian Monte Carlo stay in the mode that they
started in. If all of them started in one, they agree, and R-hat sees nothing wrong: it compares the chains that there
are. Parallel tempering runs replicas of each chain at higher temperatures, where there is no barrier, and swaps them.

    python examples/multimodal.py

It takes some ten seconds on one core, and draws two pictures into examples/figures/multimodal.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from torchebm.core import GaussianMixtureModel
from torchebm.diagnostics import summary, trace
from torchebm.samplers import HamiltonianMonteCarlo, ParallelTempering
from torchebm.viz import histogram

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="fewer draws: the share is found less well")
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures" / "multimodal", help="for pictures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
n_steps = 500 if arguments.quick else 3000

model = GaussianMixtureModel(means=[[-6.0], [6.0]], scales=1.0, weights=[0.3, 0.7])
n_chains = 32
right = torch.full((n_chains, 1), 6.0)
spread = right * torch.tensor([-1.0, 1.0]).repeat(n_chains // 2).unsqueeze(1)  # half of the chains in each mode

# Parallel tempering moves its replicas by the same sampler. Its hottest temperature is about the height of the barrier,
# 18; the warm-up places those in between so that all neighbours swap equally often.

as_given = {"target_acceptance": None, "adapt_mass": None}  # a mass fitted to both modes would jump between them
hmc = HamiltonianMonteCarlo(model, step_size=0.6, n_leapfrog_steps=4, **as_given)
tempering = ParallelTempering(hmc, n_temperatures=6, max_temperature=20.0)
print(f"the barrier is {float(model(torch.zeros(1, 1)) - model(right[:1])):.1f} high")

runs = {}
for title, sampler, start in [
    ("HMC, started in both modes", hmc, spread),
    ("HMC, all started in the right mode", hmc, right),
    ("tempering, all started in the right mode", tempering, right),
]:
    draws, diagnostics = sampler.sample(
        start, n_warmup=500, n_steps=n_steps, return_trajectory=True, return_diagnostics=True,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    found = summary(draws, diagnostics, "x")
    runs[f"{title}\nR-hat {found.r_hat['x[0]']:.2f}"] = draws
    print(f"\n{title}: R-hat {found.r_hat['x[0]']:.2f}, {(draws < 0).double().mean():.3f} of the mass on the left")
    for line in found.advice:
        print("!", line)

tuning = tempering.tuning
print("\ntemperatures", [round(t, 1) for t in tuning["temperatures"]], "barrier", round(tuning["barrier"], 2))
print("swap rates  ", [round(rate, 2) for rate in tuning["swap_rates"]])
print("round trips of a chain", float(diagnostics["round_trips"].double().sum(1).mean()))

# Pictures: the draws of each run beside the density, and four chains of each.


def density(x):
    return torch.exp(-model.normalized()(x))


figure = Figure(figsize=(11.0, 3.4), layout="constrained")
for ax, (title, draws) in zip(figure.subplots(1, 3, sharex=True, sharey=True), runs.items(), strict=True):
    histogram(draws.flatten(), density=density, bounds=(-11.0, 11.0), bins=66, ax=ax)
    ax.set_title(title, fontsize="medium")
    ax.legend(loc="upper left", frameon=False, fontsize="small")
figure.savefig(arguments.out / "shares.png", dpi=150)

figure = Figure(figsize=(8.0, 6.0), layout="constrained")
for part, (title, draws) in zip(figure.subfigures(3, 1), runs.items(), strict=True):
    (ax,) = trace(draws[:4, :250], names="x", figure=part)
    ax.set_title(title.replace("\n", ": ") + ", 4 of the chains", loc="left", fontsize="medium")
    ax.set_ylim(-10, 10)
figure.savefig(arguments.out / "traces.png", dpi=150)
