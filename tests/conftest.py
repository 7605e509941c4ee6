"""The table of samplers that the contract suites run over; a new sampler is one row of it."""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from torchebm.core import BaseModel, HarmonicModel, MarkovSampler
from torchebm.core.sampler import Scheduled
from torchebm.samplers import (
    BarkerProposal,
    ChEESHamiltonianMonteCarlo,
    GlobalProposals,
    GradientDescent,
    HamiltonianMonteCarlo,
    LangevinDynamics,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    MicrocanonicalLangevin,
    NesterovDescent,
    NoUTurnSampler,
    ParallelTempering,
    StochasticGradientHMC,
    StochasticGradientLangevin,
    UnderdampedLangevin,
)
from torchebm.samplers.hamiltonian import radical_inverse

SEED = int(os.environ.get("TORCHEBM_TEST_SEED", "0"))  # any will do; statistical tests state how rarely one will not


class SamplerCase(NamedTuple):
    """One sampler, set up to move well on a standard normal density."""

    cls: type[MarkovSampler]
    parameters: dict[str, Any]
    gradients: Callable[[int], int] = lambda n: 0
    """Evaluations of energy and gradient together that n transitions cost."""
    energies: Callable[[int], int] = lambda n: 0
    """Evaluations of the energy alone."""
    memory: tuple[str, ...] = ()
    """Leaves of the state that do not follow from x, such as a momentum: a run that goes on needs them."""
    counts: tuple[str, ...] = ()
    """Diagnostics beyond the common ones that are whole numbers."""
    rates: tuple[str, ...] = ()
    """Diagnostics beyond the common ones that are not."""
    refuses: str | None = None
    """Of the error for events of a size that it cannot sample: tests that use them are skipped."""

    def make(self, model: Any, **options: Any) -> MarkovSampler:
        return self.cls(model, **{**self.parameters, **options})

    @property
    def can_reject(self) -> bool:
        """Whether it has an accept test, as set up."""
        return self.make(HarmonicModel()).can_reject

    @property
    def single_steps(self) -> bool:
        """Whether a proposal is one step, so that one of energy +inf is a rejection like any other; no divergence."""
        return self.cls in (BarkerProposal, MetropolisAdjustedLangevin, MetropolisHastings)

    @property
    def scheduled(self) -> dict[str, Scheduled]:
        """The parameters that may follow a schedule."""
        return {name: limits for name, limits in vars(self.cls).items() if isinstance(limits, Scheduled)}

    @property
    def positive(self) -> str:
        """The first parameter that must be positive."""
        return next(name for name, limits in self.scheduled.items() if limits.limits["above"] == 0)


SAMPLERS = [
    SamplerCase(LangevinDynamics, {"step_size": 0.1}, gradients=lambda n: n),
    SamplerCase(
        HamiltonianMonteCarlo,
        {"step_size": 0.4, "n_leapfrog_steps": 3, "path_jitter": 0.0},
        gradients=lambda n: 1 + 3 * n,
        counts=("n_steps",),
    ),
    SamplerCase(MetropolisHastings, {"proposal_scale": 0.8}, energies=lambda n: 1 + n),
    SamplerCase(
        NoUTurnSampler,
        {"step_size": 0.8, "max_tree_depth": 1},
        gradients=lambda n: 1 + n,
        counts=("n_steps", "tree_depth"),
    ),
    SamplerCase(
        ParallelTempering,
        {"inner": LangevinDynamics, "step_size": 0.1, "temperatures": [1.0, 2.0, 4.0]},
        gradients=lambda n: 1 + n,
        energies=lambda n: n,
        memory=("time", "way", "replica_x"),
        counts=("round_trips",),
        rates=("swap_rate",),
    ),
    SamplerCase(
        GlobalProposals,
        {"inner": LangevinDynamics, "step_size": 0.1, "scale": 1.3, "n_proposals": 2},
        gradients=lambda n: 1 + n,
        energies=lambda n: 3 * n - 1,
        rates=("global_acceptance_rate",),
    ),
    SamplerCase(MetropolisAdjustedLangevin, {"step_size": 0.1}, gradients=lambda n: 1 + n),
    SamplerCase(BarkerProposal, {"step_size": 0.8}, gradients=lambda n: 1 + n),
    SamplerCase(UnderdampedLangevin, {"step_size": 0.4}, gradients=lambda n: 1 + n, memory=("momentum",)),
    SamplerCase(
        UnderdampedLangevin, {"step_size": 0.4, "metropolised": True}, gradients=lambda n: 1 + n, memory=("momentum",)
    ),
    SamplerCase(
        HamiltonianMonteCarlo,
        {"step_size": 0.4, "n_leapfrog_steps": 3, "path_jitter": 0.0, "momentum_refresh": 0.3},
        gradients=lambda n: 1 + 3 * n,
        memory=("momentum",),
        counts=("n_steps",),
    ),
    SamplerCase(
        ChEESHamiltonianMonteCarlo,
        {"step_size": 0.5, "path_length": 1.0},
        gradients=lambda n: 1 + sum(math.ceil(2 * radical_inverse(k + 1)) for k in range(n)),
        counts=("n_steps",),
    ),
    SamplerCase(
        MicrocanonicalLangevin,
        {"step_size": 0.4, "decoherence_length": 1.0},
        gradients=lambda n: 1 + n,
        memory=("direction",),
        rates=("energy_error",),
        refuses="needs events of two components or more",
    ),
    SamplerCase(
        MicrocanonicalLangevin,
        {"step_size": 0.5, "decoherence_length": 1.0, "metropolised": True},
        gradients=lambda n: 1 + sum(math.ceil(3 * radical_inverse(k + 1)) for k in range(n)),
        counts=("n_steps",),
        rates=("energy_error",),
        refuses="needs events of two components or more",
    ),
    SamplerCase(GradientDescent, {"step_size": 0.1}, gradients=lambda n: n),
    SamplerCase(NesterovDescent, {"step_size": 0.1, "momentum": 0.5}, gradients=lambda n: 1 + n, memory=("velocity",)),
    SamplerCase(StochasticGradientLangevin, {"step_size": 0.1}, gradients=lambda n: n),
    SamplerCase(
        StochasticGradientHMC, {"step_size": 0.3, "friction": 2.0}, gradients=lambda n: n, memory=("momentum",)
    ),
]


class CountingModel(BaseModel):
    """A standard normal that counts how often it was evaluated, and with what."""

    def __init__(self):
        super().__init__()
        self.gradients = self.energies = 0
        self.given = []

    def forward(self, x, **model_kwargs):
        self.gradients += x.requires_grad
        self.energies += not x.requires_grad
        self.given.append(model_kwargs)
        return 0.5 * x.square().flatten(1).sum(1)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test that gives a sampler events of a size that it refuses has nothing to test there."""
    case = pyfuncitem.funcargs.get("case", pyfuncitem.funcargs.get("exact"))
    try:
        return (yield)
    except (ValueError, pytest.fail.Exception) as error:  # the latter where a warning did not come before the error
        refusal = error if isinstance(error, ValueError) else error.__context__
        if not isinstance(case, SamplerCase) or case.refuses is None or case.refuses not in str(refusal):
            raise
        pytest.skip(f"{case.cls.__name__} {case.refuses}")


@pytest.fixture(params=SAMPLERS, ids=lambda case: case.cls.__name__)
def case(request):
    """Each sampler of the table in turn."""
    return request.param


@pytest.fixture(params=[case for case in SAMPLERS if case.can_reject], ids=lambda case: case.cls.__name__)
def exact(request):
    """Each sampler that leaves the density invariant at any step size."""
    return request.param


@pytest.fixture
def sampler_table():
    return SAMPLERS


@pytest.fixture
def counting_model():
    return CountingModel()


@pytest.fixture
def seeded():
    """`seeded(key)`: a fresh generator, the same for the same key."""
    return lambda key=0: torch.Generator().manual_seed(1000 * SEED + key)


@pytest.fixture
def generator(seeded):
    return seeded()
