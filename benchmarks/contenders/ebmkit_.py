"""ebmkit, as its documentation uses it."""

import torch
from cells import LEAPFROG_STEPS, Cell
from ebm.energy import EnergyModel
from ebm.samplers import HMC, MALA, LangevinDynamics
from protocol import Prepared, serve
from torch_energies import network


def prepare(cell: Cell) -> Prepared | None:
    h = cell.step_size
    sampler = {
        "langevin": lambda: LangevinDynamics(step_size=h),
        "mala": lambda: MALA(step_size=h),
        "hmc": lambda: HMC(step_size=h, leapfrog_steps=LEAPFROG_STEPS),
    }.get(cell.sampler, lambda: None)()
    if sampler is None:
        return None
    energy, x = EnergyModel(network(cell)), torch.randn(cell.chains, cell.dim)
    return lambda n_steps: sampler.sample(energy, x, steps=n_steps)


serve(prepare)
