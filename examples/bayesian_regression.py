"""Bayesian regression with outliers, from the model to ArviZ: constraints, warm-up, diagnostics, pictures.

Sixty measurements y depend on two features, and one in ten of them went wrong. A least-squares fit follows the wrong
ones; Student's t distribution has heavy tails and can let them be. Its scale is positive and its degrees of freedom are
at least one: samplers walk where there are no bounds, and draws come back within them.

    python examples/bayesian_regression.py

It takes some twenty seconds on one core, and draws its pictures into examples/figures/bayesian_regression.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.distributions import Exponential, Gamma, Normal, StudentT, constraints

from torchebm.core import BaseModel, Blocks
from torchebm.diagnostics import energy, pair, rank, summary, to_arviz, trace
from torchebm.samplers import NoUTurnSampler

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few draws: figures mean little")
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures" / "bayesian_regression")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
n_warmup, n_steps = (100, 100) if arguments.quick else (500, 500)

# 1. The data: slopes 2 and -1, noise 0.5, and every tenth measurement far off in one direction.

generator = torch.Generator().manual_seed(0)
features = torch.randn(60, 2, dtype=torch.float64, generator=generator)
y = 1 + features @ torch.tensor([2.0, -1.0], dtype=torch.float64)
y += 0.5 * torch.randn(60, dtype=torch.float64, generator=generator)
y[::10] += 4

# 2. The model: its energy is minus the logarithm of prior times likelihood. The parameters are one vector, in blocks
#    with a support each. `validate_args=False`: a trajectory may try parameters that are not finite, and is then
#    rejected; the check of arguments would raise an error, and wait for the device at every evaluation.

parameters = Blocks(
    [(constraints.real, ()), (constraints.real, 2), (constraints.positive, ()), (constraints.greater_than(1.0), ())]
)


class RobustRegression(BaseModel):
    """The energy of intercept, slopes, scale and degrees of freedom, `[chain, 5]`."""

    def forward(self, x):
        intercept, slopes, scale, freedom = parameters.split(x)  # [chain], [chain, 2], [chain], [chain]
        off = {"validate_args": False}
        prior = Normal(0.0, 10.0, **off).log_prob(intercept) + Normal(0.0, 10.0, **off).log_prob(slopes).sum(1)
        prior += Exponential(1.0, **off).log_prob(scale) + Gamma(2.0, 0.1, **off).log_prob(freedom)
        mean = intercept.unsqueeze(1) + slopes @ features.T  # [chain, 60]
        noise = StudentT(freedom.unsqueeze(1), mean, scale.unsqueeze(1), **off)
        return -prior - noise.log_prob(y).sum(1)


# 3. Sampling: 16 chains. The warm-up finds step size and mass, and is not among the draws.

model = RobustRegression().transformed(parameters)
sampler = NoUTurnSampler(model, dtype=torch.float64)
draws, diagnostics = sampler.sample(
    n_samples=16, n_warmup=n_warmup, n_steps=n_steps, generator=generator,
    return_trajectory=True, return_diagnostics=True,
)  # fmt: skip
tuning, n_gradients = sampler.tuning, diagnostics["n_steps"].double().mean()
print(f"step size {tuning['step_size']:.2f}, accepted {tuning['acceptance_rate']:.2f}")
print(f"{n_gradients:.1f} gradients a draw")

# 4. Has it converged, and what does it say? Least squares, for comparison, follows the outliers.

names = {"intercept": (), "slope": (2,), "scale": (), "freedom": ()}
print(summary(draws, diagnostics, names))
design = torch.cat([torch.ones(60, 1, dtype=torch.float64), features], 1)
print("least squares:", [round(value, 2) for value in torch.linalg.lstsq(design, y).solution.tolist()])

# 5. Pictures, and ArviZ's own object: all of its functions take it, and it can be saved.

for name, size, draw in [
    ("trace", (7.0, 8.0), lambda figure: trace(draws, diagnostics, names=names, figure=figure)),
    ("rank", (8.0, 6.0), lambda figure: rank(draws, names=names, figure=figure)),
    ("pair", (10.0, 10.0), lambda figure: pair(draws, diagnostics, names=names, max_entries=5, figure=figure)),
    ("energy", (6.4, 3.6), lambda figure: energy(diagnostics, ax=figure.add_subplot())),
]:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    figure.savefig(arguments.out / f"{name}.png", dpi=150)
data = to_arviz(draws, diagnostics, names, dims={"slope": ["feature"]}, coords={"feature": ["first", "second"]})
print(data.posterior["slope"].mean(("chain", "draw")).values.round(2), data.posterior["slope"].coords["feature"].values)
