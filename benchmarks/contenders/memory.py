"""Peak of the resident memory of a Langevin run, in bytes above what there was before it, as JSON.

`python memory.py eager|compiled chains dim n_steps`, on Linux.
"""

import json
import sys
from pathlib import Path

import torch

from torchebm.core import DoubleWellModel
from torchebm.samplers import LangevinDynamics


def resident(what: str) -> int:
    """`VmRSS` now, or `VmHWM`, the peak since it was last forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what + ":"))


def main() -> None:
    mode, (chains, dim, n_steps) = sys.argv[1], map(int, sys.argv[2:])
    imported = resident("VmRSS")
    sampler = LangevinDynamics(DoubleWellModel(), step_size=1e-4)
    if mode == "compiled":
        sampler.compile()
        sampler.sample(dim=dim, n_samples=10, n_steps=16)  # loads the compiler, which is no matter of the chains
    loaded = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    sampler.sample(dim=dim, n_samples=chains, n_steps=n_steps, generator=torch.Generator().manual_seed(0))
    print(json.dumps({"above_import": resident("VmHWM") - imported, "above_loaded": resident("VmHWM") - loaded}))


main()
