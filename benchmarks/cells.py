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

    @property
    def operations(self) -> int:
        """Floating-point operations of the matrix products in one gradient, for one chain."""
        if self.energy == "gaussian":
            return 2 * self.dim**2
        forward = {
            "double_well": 0,
            "mlp": 2 * (self.dim * 128 + 128 * 128 + 128),
            "conv": 2 * (64 * 16 * 9 + 16 * 32 * 16 * 9 + 512),
        }
        return 2 * forward[self.energy]  # and as many backward, for the gradient with respect to x alone


GRID = [Cell(s, e, *size) for s in SAMPLERS for e in ENERGIES for size in SIZES]
BESIDE = [Cell("nuts", "gaussian", 1000, 2), Cell("langevin", "conv", 1000, 64), Cell("hmc", "conv", 1000, 64)]
QUICK = [Cell("langevin", "double_well", 1000, 2), Cell("mala", "mlp", 1000, 2), Cell("hmc", "double_well", 1000, 2)]


class TrainingCell(NamedTuple):
    """One timing of training: persistent contrastive divergence of a network with two hidden layers."""

    dim: int
    width: int
    batch: int
    k_steps: int

    def __str__(self) -> str:
        return f"{self.dim}-{self.width}-{self.width}-1, {self.batch} chains, {self.k_steps} steps"


TRAINING = [
    TrainingCell(2, 128, 256, 10),
    TrainingCell(2, 128, 256, 40),
    TrainingCell(64, 256, 128, 20),
    TrainingCell(64, 256, 128, 60),
]
TRAINING_SETTINGS = {
    "step_size": 0.01,
    "buffer_size": 10_000,
    "fresh": 0.05,  # share of the chains that begin anew
    "energy_weight": 0.001,  # on the squares of the energies
    "learning_rate": 1e-3,
}
