"""Warm-up of samplers that have no trajectories: the rates that they reach, and what is kept."""

import pytest
import torch

from torchebm.core import EnergyModel, GaussianModel, HarmonicModel, LinearScheduler
from torchebm.samplers import (
    BarkerProposal,
    ChEESHamiltonianMonteCarlo,
    HamiltonianMonteCarlo,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    UnderdampedLangevin,
)

F64 = torch.float64
WIDTHS = torch.logspace(-3, 3, 10, dtype=F64)


def normal(cov):
    return GaussianModel(torch.zeros(len(cov), dtype=F64), cov)


@pytest.fixture(params=[HamiltonianMonteCarlo, ChEESHamiltonianMonteCarlo], ids=lambda cls: cls.__name__)
def hamiltonian(request):
    """`hamiltonian(model, **options)`, with paths that cannot be periods."""
    cls = request.param
    usual = {"jitter": 0.3} if cls is HamiltonianMonteCarlo else {}
    return lambda model, **options: cls(model, **(usual | options))


def metropolised(model, step_size=0.1, **options):
    return UnderdampedLangevin(model, step_size, metropolised=True, **options)


KERNELS = {
    "MetropolisAdjustedLangevin": (MetropolisAdjustedLangevin, "step_size", 0.574),
    "BarkerProposal": (BarkerProposal, "step_size", 0.574),
    "MetropolisHastings": (MetropolisHastings, "proposal_scale", 0.234),
    "UnderdampedLangevin": (metropolised, "step_size", 0.95),
}


@pytest.fixture(params=KERNELS.values(), ids=KERNELS)
def kernel(request):
    """Class, tuned parameter and target of each sampler that has no trajectories."""
    return request.param


@pytest.mark.parametrize("first", [1e-4, 1e3])
def test_kernels_reach_their_rate_from_any_first_step(kernel, first, generator):
    make, name, rate = kernel
    sampler = make(normal(torch.eye(10, dtype=F64)), **{name: first})
    assert sampler.target_acceptance == rate
    state = sampler.warm_up(n_samples=64, n_steps=400, generator=generator)
    _, noted = sampler.sample(state=state, n_steps=200, generator=generator, return_diagnostics=True)
    assert float(noted["acceptance_rate"].mean()) == pytest.approx(rate, abs=0.05)
    assert sampler.tuning[name] == getattr(sampler, name)
    assert sampler.tuning["acceptance_rate"] == pytest.approx(rate, abs=0.05)


def test_kernels_reach_the_rate_that_is_asked_for_or_none(kernel, generator):
    make, name, _ = kernel
    sampler = make(normal(torch.eye(5, dtype=F64)), target_acceptance=0.7)
    state = sampler.warm_up(n_samples=64, n_steps=300, generator=generator)
    _, noted = sampler.sample(state=state, n_steps=200, generator=generator, return_diagnostics=True)
    assert float(noted["acceptance_rate"].mean()) == pytest.approx(0.7, abs=0.05)
    for options in ({"target_acceptance": None}, {name: LinearScheduler(0.3, 0.1, 10)}):
        sampler = make(normal(torch.eye(5, dtype=F64)), **options)
        before = dict(sampler.schedulers)
        sampler.warm_up(n_samples=4, n_steps=30, generator=generator)
        assert sampler.schedulers == before
        assert sampler.tuning is None
    with pytest.raises(ValueError, match="target_acceptance must be less than 1"):
        make(normal(torch.eye(5, dtype=F64)), target_acceptance=1.0)


def test_what_kernels_found_is_saved_and_loaded(kernel, seeded):
    make, _, _ = kernel
    model = normal(WIDTHS[3:7].square().diag())
    sampler = make(model)
    state = sampler.warm_up(n_samples=16, n_steps=60, generator=seeded())
    other = make(model)
    other.load_state_dict(sampler.state_dict())
    assert other.tuning == sampler.tuning
    assert torch.equal(*(s.sample(state=state, n_steps=5, generator=seeded(1)) for s in (sampler, other)))


def test_warm_up_draws_of_kernels_are_in_no_result(kernel, seeded):
    make, _, _ = kernel
    one, two = (make(normal(torch.eye(2, dtype=F64))) for _ in range(2))
    x = 30 + torch.zeros(16, 2, dtype=F64)
    g, options = seeded(), {"n_steps": 20, "return_trajectory": True}
    draws = one.sample(x, n_warmup=300, generator=g, **options)
    assert draws.shape == (16, 20, 2)
    assert draws.abs().max() < 20
    g = seeded()
    assert torch.equal(two.sample(state=two.warm_up(x, 300, generator=g), generator=g, **options), draws)


@pytest.mark.parametrize("event", [(10,), (2, 5)], ids=str)
def test_the_preconditioner_becomes_the_variances(event, seeded):
    model = normal(WIDTHS.square().diag())
    if event != (10,):
        flat, model = model, EnergyModel(lambda x: flat(x.flatten(1)))
    sampler = MetropolisAdjustedLangevin(model)
    x = 100 * torch.randn(64, *event, dtype=F64, generator=seeded())
    for _ in range(2):  # the second forgets what the first one found
        sampler.warm_up(x, 1000, generator=seeded(1))
        assert sampler.tuning["preconditioner"] == "diagonal"
        ratio = sampler.preconditioner.flatten() / WIDTHS**2
        assert sampler.preconditioner.shape == event
        assert ratio.min() > 0.7
        assert ratio.max() < 1.4


def test_a_preconditioner_that_was_given_is_kept(seeded):
    given = torch.tensor([1.0, 4.0])
    sampler = MetropolisAdjustedLangevin(HarmonicModel(dim=2), preconditioner=given)
    sampler.warm_up(n_samples=16, n_steps=50, generator=seeded())
    assert sampler.preconditioner is given
    assert sampler.tuning["preconditioner"] is None
    with pytest.raises(ValueError, match="has a preconditioner"):
        sampler.load_state_dict(BarkerProposal(HarmonicModel()).state_dict())


def test_an_unadjusted_sampler_tunes_nothing(seeded):
    sampler = UnderdampedLangevin(HarmonicModel(dim=2), 0.3)
    sampler.warm_up(n_samples=4, n_steps=30, generator=seeded())
    assert sampler.step_size == 0.3
    assert sampler.tuning is None


# chains that start where it is steep ----------------------------------------------------------------------------------
