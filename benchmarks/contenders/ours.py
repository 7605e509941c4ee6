"""This library, eager or compiled: `python ours.py eager|compiled`."""

import sys

import torch
from cells import LEAPFROG_STEPS, Cell
from protocol import Prepared, serve
from torch_energies import network, precision

from torchebm.core import BaseModel, DoubleWellModel, EnergyModel, GaussianModel
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics, MetropolisAdjustedLangevin, NoUTurnSampler

SAMPLERS = {
    "langevin": (LangevinDynamics, {}),
    "mala": (MetropolisAdjustedLangevin, {}),
    "hmc": (HamiltonianMonteCarlo, {"n_leapfrog_steps": LEAPFROG_STEPS, "path_jitter": 0.0}),
    "nuts": (NoUTurnSampler, {}),
}


def model(cell: Cell) -> BaseModel:
    if cell.energy == "gaussian":
        return GaussianModel(torch.zeros(cell.dim), torch.linalg.inv(precision(cell.dim)))
    return DoubleWellModel() if cell.energy == "double_well" else EnergyModel(network(cell))


def prepare(cell: Cell) -> Prepared:
    cls, options = SAMPLERS[cell.sampler]
    sampler = cls(model(cell), step_size=cell.step_size, **options)
    if sys.argv[1] == "compiled":
        sampler.compile()
    x, generator = torch.randn(cell.chains, cell.dim), torch.Generator().manual_seed(0)
    return lambda n_steps: sampler.sample(x, n_steps=n_steps, generator=generator)


serve(prepare)
