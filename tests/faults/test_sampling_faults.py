"""Faults that samplers of energy-based models have had elsewhere, each as a test of the right behaviour."""

import math

import pytest
import scipy.stats
import torch
from torch import nn

from torchebm.core import (
    BaseModel,
    CosineScheduler,
    EnergyModel,
    GaussianModel,
    HarmonicModel,
    LinearScheduler,
    TemperatureScheduler,
    WarmupScheduler,
)
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

F64 = torch.float64
X = torch.zeros(4, 2)


# wrong answers that nothing reported ----------------------------------------------------------------------------------


def test_a_root_at_the_edge_of_the_support_does_not_collect_the_chains(generator):
    """E = x + sqrt(x) on x > 0, of mean 0.649; a fraction of a standard error of 10,000 chains is what is left."""
    grid = torch.linspace(0, 60, 4_000_001, dtype=F64)[1:]
    weight = torch.exp(-grid - grid.sqrt())
    mean = (grid * weight).sum() / weight.sum()
    assert abs(mean - 0.649) < 1e-2
    cumulative = torch.cumsum(weight, 0) / weight.sum()
    u = torch.rand(10_000, dtype=F64, generator=generator)
    x = grid[torch.searchsorted(cumulative, u).clamp(max=len(grid) - 1)].unsqueeze(1)
    y = HamiltonianMonteCarlo(lambda x: (x + x.sqrt()).sum(-1), 0.5, 5).sample(x, n_steps=20, generator=generator)
    assert (y > 0).all()
    assert abs(y.mean() - mean) < 5 * y.std() / 100


@pytest.mark.parametrize("scale", [1e12, 1e24])
def test_huge_energies_are_compared_and_not_clamped(exact, scale, generator):
    model, x = EnergyModel(lambda x: scale * x.square().sum(-1)), torch.full((50, 1), 10.0)
    y, noted = exact.make(model).sample(x, n_steps=100, return_diagnostics=True, generator=generator)
    assert (y.abs() <= 10).all()  # no step uphill
    assert torch.equal(noted["energy"][:, -1], model(y))
    assert (noted["energy"][:, 1:] <= noted["energy"][:, :-1]).all()


def test_the_energies_that_a_model_returns_are_not_written_to(case, generator):
    returned = []

    def energy(x):
        returned.append((0.5e12 * x.square()).sum(-1))
        returned.append(returned[-1].detach().clone())
        return returned[-2]

    case.make(energy, **{case.positive: 1e-7}).sample(X + 1, n_steps=3, generator=generator)
    assert all(map(torch.equal, returned[::2], returned[1::2]))


def test_a_mass_that_is_assigned_takes_effect_at_once(seeded):
    sampler = HamiltonianMonteCarlo(HarmonicModel(), 0.5, 4)
    sampler.sample(X, n_steps=3, generator=seeded())
    for mass in (25.0, torch.tensor([0.5, 2.0]), torch.tensor([[1.0, 0.3], [0.3, 1.0]]), None):
        sampler.mass = mass
        fresh = HamiltonianMonteCarlo(HarmonicModel(), 0.5, 4, mass=mass)
        one, other = (s.sample(X, n_steps=3, generator=seeded()) for s in (sampler, fresh))
        assert torch.equal(one, other)


def test_an_assigned_mass_leaves_the_density_as_it_is(generator):
    sampler, x = HamiltonianMonteCarlo(HarmonicModel(), 0.5, 4), torch.randn(20_000, 1, generator=generator)
    x = sampler.sample(x, n_steps=2, generator=generator)
    sampler.mass = 25.0
    x = sampler.sample(x, n_steps=20, generator=generator)
    assert scipy.stats.kstest(x.flatten(), "norm").pvalue > 1e-6


# bad input that nothing refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LinearScheduler(0.1, -0.1, 10), CosineScheduler(0.1, -0.1, 10)])
def test_a_schedule_that_turns_negative_is_an_error_and_not_complex_samples(case, schedule):
    sampler = case.make(HarmonicModel(), **{case.positive: schedule})
    with pytest.raises(ValueError, match=f"{case.positive} must be greater than 0; .* at step 5"):
        sampler.sample(X, n_steps=20)
    assert not sampler.sample(X, n_steps=5).is_complex()


def test_sampling_without_noise_is_a_mode_and_schedules_may_reach_it(generator):
    assert torch.equal(LangevinDynamics(HarmonicModel(), 0.5, 0.0).sample(X + 1, n_steps=1), X + 0.5)
    sampler = LangevinDynamics(HarmonicModel(), 0.5, LinearScheduler(1.0, 0.0, 3))
    x = sampler.sample(X, n_steps=5, return_trajectory=True, generator=generator)
    assert torch.equal(x[:, 4], x[:, 3] / 2)
    assert not torch.equal(x[:, 2], x[:, 1] / 2)


def test_a_temperature_that_would_end_at_zero_is_refused():
    with pytest.raises(ValueError, match="end_value must be greater than 0"):
        TemperatureScheduler(1.0, 0.0, 5)  # its factor per step would be zero


def test_a_clamp_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="each bound of clamp must be finite; got nan"):
        LangevinDynamics(HarmonicModel(), clamp=(math.nan, 1))


@pytest.mark.parametrize(
    "mass", [0, 0.0, -1.0, math.nan, torch.tensor([1.0, -1.0]), torch.tensor([1.0, math.nan]), torch.ones(3)]
)
def test_masses_that_would_reject_for_ever_are_refused(mass):
    with pytest.raises(ValueError, match="mass"):
        HamiltonianMonteCarlo(HarmonicModel(), mass=mass).sample(X, n_steps=1)


def test_a_list_as_mass_is_refused_by_name():
    with pytest.raises(TypeError, match=r"mass must be a number; got .* of type list"):
        HamiltonianMonteCarlo(HarmonicModel(), mass=[1.0, 2.0])


@pytest.mark.parametrize("mass", [2, torch.eye(2), torch.ones(2, dtype=F64), torch.eye(2, dtype=F64)], ids=str)
def test_whole_numbers_matrices_and_wide_masses_work_and_do_not_promote(mass, generator):
    sampler = HamiltonianMonteCarlo(HarmonicModel(), 0.3, 4, mass=mass)
    y, noted = sampler.sample(X, n_steps=5, return_diagnostics=True, generator=generator)
    assert y.dtype == sampler.dtype == torch.float32
    assert noted["acceptance_rate"].min() > 0.5


def test_an_energy_that_is_nan_everywhere_is_an_error_and_not_a_chain_at_rest(case):
    with pytest.raises(ValueError, match="all 4 chains start where the energy or its gradient is not finite"):
        case.make(lambda x: (x * math.nan).sum(-1)).sample(X, n_steps=3)


# state and side effects -----------------------------------------------------------------------------------------------


def test_a_model_converted_after_the_sampler_was_made(case):
    model = GaussianModel(torch.zeros(2), torch.eye(2))
    sampler = case.make(model)
    for dtype in (F64, torch.float32):
        model.to(dtype)
        assert sampler.sample(n_steps=3, n_samples=4).dtype == dtype
    network = nn.Linear(2, 1)
    sampler = case.make(network)
    network.double()
    assert sampler.sample(X.double(), n_steps=3).dtype == F64


def test_the_dtype_asked_for_wins_over_the_models(case):
    assert case.make(GaussianModel(torch.zeros(2), torch.eye(2)), dtype=F64).sample(n_steps=3).dtype == F64


def test_leaving_the_chains_where_they_are_returns_another_tensor(case):
    x = X.clone()
    y = case.make(HarmonicModel()).sample(x, n_steps=0)
    y.add_(1)
    assert torch.equal(x, X)


def test_a_schedule_that_serves_two_parameters_moves_once_a_step():
    schedule = LinearScheduler(1.0, 0.1, 10)
    sampler = LangevinDynamics(HarmonicModel(), schedule, schedule)
    sampler.step_schedulers()
    assert sampler.step_size == sampler.noise_scale == schedule.value(1)


def test_the_state_of_a_warmup_does_not_alias_the_live_schedule():
    schedule = WarmupScheduler(LinearScheduler(1.0, 0.0, 10), 2)
    for _ in range(2):
        schedule.step()
    saved = schedule.state_dict()
    for _ in range(3):
        schedule.step()
    schedule.load_state_dict(saved)
    assert schedule.step_count == 2
    assert schedule.get_value() == 1.0


def test_a_warmup_of_no_steps_begins_with_the_schedule_it_wraps():
    assert WarmupScheduler(LinearScheduler(1.0, 0.0, 10), 0, 0.01).value(0) == 1.0


def test_sampling_does_not_move_the_statistics_of_a_model_in_training(case, generator):
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    before = {name: t.clone() for name, t in network.state_dict().items()}
    case.make(network).sample(X, n_steps=5, generator=generator)
    assert network.training
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_gradients_are_available_in_inference_mode(case):
    sampler = case.make(nn.Linear(2, 1))
    with torch.inference_mode():
        assert sampler.sample(torch.zeros(4, 2), n_steps=3).shape == (4, 2)
        assert sampler.model.gradient(torch.zeros(4, 2)).shape == (4, 2)


@pytest.mark.parametrize("event", [(), (3,), (1, 4, 4), (2, 3, 4, 5)], ids=str)
def test_every_sampler_takes_every_event_shape(case, event):
    assert case.make(HarmonicModel()).sample(dim=event, n_steps=3, n_samples=4).shape == (4, *event)


def test_a_plain_network_is_a_model(case):
    assert case.make(nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))).sample(X, n_steps=3).shape == (4, 2)


# work that was done twice ---------------------------------------------------------------------------------------------


def test_energy_and_gradient_are_evaluated_together_and_kept(counting_model, generator):
    sampler = HamiltonianMonteCarlo(counting_model, 0.1, 10, path_jitter=0.0)
    sampler.sample(X, n_steps=20, return_diagnostics=True, generator=generator)
    assert (counting_model.gradients, counting_model.energies) == (1 + 20 * 10, 0)


def test_the_model_is_prepared_once_a_run_and_not_once_a_step(case, generator):
    walks = []

    class Deep(BaseModel):
        def modules(self):
            walks.append(1)
            return super().modules()

        def forward(self, x):
            return 0.5 * x.square().sum(-1)

    counts = []
    for n_steps in (5, 50):
        walks.clear()
        case.make(Deep()).sample(X, n_steps=n_steps, generator=generator)
        counts.append(len(walks))
    assert counts[0] == counts[1]
