"""This library on an accelerator: `python accelerated.py eager|compiled|graphs|single|fused cuda`.

`single` is one launch of the kernel a step, `fused` up to 1,024 steps a launch; both, and `graphs`, run what they are
named for or nothing: a cell that falls back is a cell that they have nothing for.
"""

import sys

import torch
from cells import Cell
from protocol import Prepared, serve
from torch_energies import network

from torchebm.core import BaseModel, DoubleWellModel, EnergyModel
from torchebm.cuda import CUDALangevinDynamics, langevin_step_cuda
from torchebm.samplers import LangevinDynamics

WAY, DEVICE = sys.argv[1:3]


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def prepare(cell: Cell) -> Prepared | None:
    model: BaseModel = DoubleWellModel() if cell.energy == "double_well" else EnergyModel(network(cell)).to(DEVICE)
    x, generator = torch.randn(cell.chains, cell.dim, device=DEVICE), torch.Generator(DEVICE).manual_seed(0)
    sampler = (CUDALangevinDynamics if WAY in ("graphs", "single", "fused") else LangevinDynamics)(
        model, step_size=cell.step_size
    )
    if isinstance(sampler, CUDALangevinDynamics):
        fused = sampler.why_not_fused(x) is None
        if fused == (WAY == "graphs"):
            return None
    if WAY in ("graphs", "compiled"):
        sampler.compile()

    def run(n_steps: int) -> None:
        if WAY == "single":
            y = x
            for _ in range(n_steps):
                y = langevin_step_cuda(y, model, cell.step_size, generator=generator)
        else:
            sampler.sample(x, n_steps=n_steps, generator=generator)
        wait()

    return run


serve(prepare)
