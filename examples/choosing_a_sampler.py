"""Which sampler? One target, seven samplers, and what an effective sample costs with each.

Draws of a chain depend on those before them, so that a thousand of them tell as much about a mean as some smaller
number of independent ones: the effective sample size. Its cost is counted in evaluations of the model, which is what
matters for models that are expensive, and in seconds on this machine.

    python examples/choosing_a_sampler.py

It takes half a minute on one core, and draws two pictures into examples/figures/choosing_a_sampler.
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

from torchebm import samplers
from torchebm.core import BaseModel, GaussianModel
from torchebm.diagnostics import summary, trace
from torchebm.viz import PALETTE

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a tenth of the transitions")
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures" / "choosing_a_sampler")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)

# 1. The target: a normal density in 10 dimensions, neighbours correlated, widths from 1 to 3. The truth is known.

d = 10
widths = torch.linspace(1, 3, d)
correlation = 0.6 ** (torch.arange(d).unsqueeze(1) - torch.arange(d)).abs()


class Counted(BaseModel):
    """The target, and how many points it was evaluated at."""

    def __init__(self):
        super().__init__()
        self.normal = GaussianModel(torch.zeros(d), widths.unsqueeze(1) * correlation * widths)
        self.event_shape, self.n = torch.Size([d]), 0

    def forward(self, x):
        self.n += len(x)
        return self.normal(x)


# 2. The samplers, and transitions enough for a decent effective sample. Those with a target acceptance rate tune
#    themselves in the warm-up, from the values given here; Langevin dynamics keeps its own.

model = Counted()
SAMPLERS = [
    (samplers.MetropolisHastings(model, proposal_scale=0.7), 10_000),
    (samplers.LangevinDynamics(model, step_size=0.1), 6000),
    (samplers.MetropolisAdjustedLangevin(model, step_size=0.35), 6000),
    (samplers.BarkerProposal(model, step_size=0.9), 6000),
    (samplers.HamiltonianMonteCarlo(model, n_leapfrog_steps=12, path_jitter=0.5), 1000),
    (samplers.ChEESHamiltonianMonteCarlo(model), 1000),
    (samplers.NoUTurnSampler(model), 1000),
]
share, rows, kept = 10 if arguments.quick else 1, [], {}

print(f"{'sampler':26}  transitions     ESS  evaluations/ESS  ms/ESS  R-hat  sd error")
for sampler, n_steps in SAMPLERS:
    name, generator = type(sampler).__name__, torch.Generator().manual_seed(0)
    state = sampler.warm_up(n_samples=32, n_steps=500 // share, generator=generator)
    model.n, began = 0, time.perf_counter()
    options = {"n_steps": n_steps // share, "thin": n_steps // 1000, "return_trajectory": True}
    draws = sampler.sample(state=state, generator=generator, **options)
    seconds, n = time.perf_counter() - began, model.n
    found = summary(draws)
    ess = min(*found.ess_bulk.values(), *found.ess_tail.values())  # of the worst entry
    r_hat, error = max(found.r_hat.values()), float((draws.std((0, 1)) / widths - 1).abs().max())
    rows.append((name, n / ess, 1000 * seconds / ess))
    print(f"{name:26}  {len(draws):4} x {n_steps // share:5}  {ess:5.0f}  {rows[-1][1]:15.1f}  {rows[-1][2]:6.2f}"
          f"  {r_hat:5.3f}  {error:8.1%}")  # fmt: skip
    kept[name] = sampler.sample(state=state, n_steps=300, return_trajectory=True, generator=generator)[:4]

# 3. Pictures: the costs, and what 300 transitions look like.

figure = Figure(figsize=(9.0, 3.2), layout="constrained")
rows.sort(key=lambda row: -row[1])
for i, unit, ax in zip([1, 2], ["evaluations", "milliseconds"], figure.subplots(1, 2, sharey=True), strict=True):
    ax.grid(axis="x", color=PALETTE["grid"])
    ax.scatter([row[i] for row in rows], [row[0] for row in rows], color=PALETTE["samples"], zorder=2)
    for row in rows:
        ax.text(row[i], row[0], f"  {row[i]:.{3 if row[i] >= 100 else 2}g}", va="center", fontsize="small")
    ax.set(xscale="log", xlabel=f"{unit} for one effective sample", xmargin=0.12, ymargin=0.08)
    ax.spines[["top", "right"]].set_visible(False)
figure.savefig(arguments.out / "cost.png", dpi=150)

figure = Figure(figsize=(8.0, 6.0), layout="constrained")
for part, name in zip(figure.subfigures(3, 1), list(kept)[::3], strict=True):
    (ax,) = trace(kept[name], entries=[f"x[{d - 1}]"], figure=part)
    ax.set_title(f"{name}: the widest direction, in 4 chains", loc="left", fontsize="medium")
    ax.set(ylim=(-13, 13), xlabel="transition")
figure.savefig(arguments.out / "traces.png", dpi=150)
