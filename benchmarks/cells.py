"""What is timed: samplers, energies and sizes. Every contender reads it, with nothing but the standard library."""

from typing import NamedTuple

SAMPLERS = ("langevin", "mala", "hmc")
ENERGIES = ("gaussian", "double_well", "mlp")
SIZES = ((1, 2), (1000, 2), (10_000, 2), (1000, 100))
LEAPFROG_STEPS = 10


class Cell(NamedTuple):
    """One timing: a sampler on an energy, for `chains` chains in `dim` dimensions."""

    sampler: str
    energy: str
    chains: int
    dim: int

    def __str__(self) -> str:
        return f"{self.sampler} {self.energy} {self.chains}x{self.dim}"

    @property
    def step_size(self) -> float:
        """Small enough for acceptance above one half; the time of a step does not depend on it."""
        return {"langevin": 1e-3, "mala": 1e-3, "hmc": 0.02, "nuts": 0.1}[self.sampler] / (10 if self.dim > 10 else 1)

    @property
    def gradients(self) -> int:
        """Gradients in a transition."""
        return LEAPFROG_STEPS if self.sampler == "hmc" else 1


GRID = [Cell(s, e, *size) for s in SAMPLERS for e in ENERGIES for size in SIZES]
BESIDE = [Cell("nuts", "gaussian", 1000, 2), Cell("langevin", "conv", 1000, 64), Cell("hmc", "conv", 1000, 64)]
QUICK = [Cell("langevin", "double_well", 1000, 2), Cell("mala", "mlp", 1000, 2), Cell("hmc", "double_well", 1000, 2)]
