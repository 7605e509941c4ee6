"""Draws of microcanonical dynamics: biased as predicted where unadjusted, exact where adjusted; and what is refused."""

import numpy as np
import pytest
import scipy.stats
import torch

from torchebm.core import (
    EnergyModel,
    GaussianModel,
    HarmonicModel,
    LinearScheduler,
    SamplingDivergenceWarning,
    Target,
)
from torchebm.core.shapes import select
from torchebm.samplers import MicrocanonicalLangevin
from torchebm.samplers.microcanonical import isokinetic_leapfrog, normalised

F64 = torch.float64


# the bias of the unadjusted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "h", "length"), [(3, 0.9, 1.0), (10, 1.0, 3.0), (10, 2.0, 3.0), (10, 3.0, 3.0)])
def test_the_variance_of_a_normal_density_is_too_large_by_the_square_of_the_step_size(d, h, length, generator):
    """By h² / 12 (d - 1): means of 10,000 independent chains, within 5 standard errors and 15 % for higher orders."""
    sampler, target = MicrocanonicalLangevin(HarmonicModel(), h, length), Target(HarmonicModel())
    x = torch.randn(10_000, d, dtype=F64, generator=generator)
    _, state = sampler.sample(x, n_steps=round(30 / h), generator=generator, return_state=True)
    means = torch.zeros(len(x), dtype=F64)

    def observe(i, state, info):
        means.add_(state.x.square().mean(1) / 150)

    with torch.no_grad():
        sampler.advance(state.kernel, 0, 150, target=target, generator=generator, observe=observe)
    predicted = h * h / 12 / (d - 1)
    error = float(means.std()) / len(x) ** 0.5
    assert abs(float(means.mean()) - 1 - predicted) < 5 * error + 0.15 * predicted
    assert predicted > 3 * error


@pytest.mark.parametrize("event", [(2,), (1, 2, 2)], ids=["vector", "image"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_small_steps_find_a_normal_density_from_far_away(event, dtype, generator, has_mean):
    """Fails below 1e-5."""
    x = torch.full((10_000, *event), 3.0, dtype=dtype)
    sampler = MicrocanonicalLangevin(HarmonicModel(4.0), 0.06, 0.6)
    y = sampler.sample(x, n_steps=400, generator=generator)
    assert y.dtype == dtype
    has_mean(y, 0.0)
    has_mean(y.square(), 0.25 * (1 + 4 * 0.06**2 / 12))


@pytest.mark.parametrize("T", [0.5, 2.5])
def test_temperature_and_mass_scale_what_they_should(T, generator, has_mean):
    """Fails below 1e-5."""
    cov = torch.tensor([[2.0, 1.2, 0.0], [1.2, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
    model = GaussianModel(torch.tensor([3.0, -1.0, 0.0]), cov)
    for mass in (torch.linalg.inv(cov), torch.tensor([0.5, 3.0, 1.0], dtype=F64)):
        sampler, target = MicrocanonicalLangevin(model, mass=mass), Target(model)
        parameters = {"step_size": [0.15] * 300, "decoherence_length": [1.0] * 300}
        state = sampler.init(torch.zeros(10_000, 3, dtype=F64), target, generator)
        y = sampler.advance(state, 0, 300, target=target, generator=generator, temperature=T, parameters=parameters).x
        y = y - model.mean
        for i, j in [(0, 0), (0, 1), (1, 1), (2, 2)]:
            has_mean(y[:, i] * y[:, j], T * float(cov[i, j]))


def test_chains_that_leave_the_support_are_reported_and_not_brought_back(generator):
    half_space = EnergyModel(lambda x: (x - 2 * x.log()).sum(-1))
    x = 1 + torch.rand(50, 2, dtype=F64, generator=generator)
    with pytest.warns(SamplingDivergenceWarning, match="of 50 chains diverged.*a smaller step_size"):
        y, noted = MicrocanonicalLangevin(half_space, 1.5, 1.0).sample(
            x, n_steps=100, generator=generator, return_diagnostics=True
        )
    dead = ~y.isfinite().all(1)
    assert dead.sum() > 0
    assert torch.equal(noted["diverging"][:, -1], dead)
    assert (y[~dead] > 0).all()


# the adjusted is exact, at any step size ------------------------------------------------------------------------------

M = 40_000
SETTINGS = {
    "small steps": {"step_size": 0.2, "decoherence_length": 0.6},
    "large steps": {"step_size": 1.2, "decoherence_length": 3.0},
    "far too large steps": {"step_size": 6.0, "decoherence_length": 12.0},
    "one step": {"step_size": 1.0, "decoherence_length": 1.0},
    "heavy": {"step_size": 1.5, "decoherence_length": 4.0, "mass": 2.5},
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def make(request):
    return lambda model, **options: MicrocanonicalLangevin(model, metropolised=True, **request.param, **options)


@pytest.mark.parametrize("n_steps", [1, 20])
def test_skewed(make, n_steps, gumbel, generator, agrees, has_mean):
    """Independent components of a Gumbel law. Each comparison fails once in a million seeds."""
    x = gumbel.sample(M // 2, 2, generator=generator)
    y = make(gumbel).sample(x, n_steps=n_steps, generator=generator)
    agrees(y, gumbel.cdf)
    has_mean(y, np.euler_gamma)
    has_mean((y - np.euler_gamma) ** 2, np.pi**2 / 6)
    has_mean(torch.exp(-y), 1.0)
    has_mean(((y - np.euler_gamma) * (y.flip(1) - np.euler_gamma))[:, 0], 0.0)
    assert (y != x).double().mean() > 0.005
    has_mean((y - x).sum(1), 0.0)  # in pairs: sharper


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_half_space(make, dtype, generator, agrees):
    """x - 2 log x, NaN below zero: Gamma densities against walls."""
    u = torch.rand(M // 2, 2, dtype=F64, generator=generator)
    x = torch.from_numpy(scipy.stats.gamma(3).ppf(u.numpy())).to(dtype)
    y, noted = make(EnergyModel(lambda x: (x - 2 * x.log()).sum(-1))).sample(
        x, n_steps=20, generator=generator, return_diagnostics=True
    )
    assert (y > 0).all()
    agrees(y, scipy.stats.gamma(3).cdf)
    assert noted["acceptance_rate"].isfinite().all()
    assert (noted["acceptance_rate"][noted["diverging"]] == 0).all()


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_masses(kind, gumbel, generator, agrees, has_mean):
    mass = {"diagonal": torch.tensor([0.4, 4.0, 1.0]), "dense": torch.eye(3) + 0.8}[kind]
    sampler = MicrocanonicalLangevin(gumbel, 1.0, 2.5, mass=mass, metropolised=True)
    x = gumbel.sample(M // 2, 3, generator=generator)
    y = sampler.sample(x, n_steps=10, generator=generator)
    agrees(y, gumbel.cdf)
    has_mean((y - x).sum(1), 0.0)


def test_without_the_kinetic_energy_the_density_would_not_be_kept(gumbel, generator):
    class Lost(MicrocanonicalLangevin):
        def step(self, state, noise, target, **parameters):
            info = super().step(state, noise, target, **parameters)[1]
            z = normalised(noise[0])
            h, n = parameters["step_size"], parameters["n_leapfrog_steps"]
            end = isokinetic_leapfrog(state.x, z, state.gradient, target, self.metric(z), h, 1.0, n).end
            accepted = torch.log1p(-noise[1]) < state.energy - end.energy
            return select(accepted, end, state), info

    x = gumbel.sample(M // 2, 2, generator=generator)
    y = Lost(gumbel, 1.2, 3.0, metropolised=True).sample(x, n_steps=20, generator=generator)
    assert scipy.stats.kstest(y.flatten().numpy(), gumbel.cdf).pvalue < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("h", [10.0, 100.0, 1e4])
def test_enormous_steps(h, dtype, generator, agrees):
    """On a spherical density the gradients of a path are parallel. Fails once in a million seeds."""
    x = torch.randn(M, 2, dtype=dtype, generator=generator)
    sampler = MicrocanonicalLangevin(HarmonicModel(), h, 2 * h, metropolised=True)
    y = sampler.sample(x, n_steps=20, generator=generator)
    agrees(y, scipy.stats.norm.cdf)
    assert y.abs().max() < 7


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_chains_that_start_at_a_centre_of_symmetry_leave_it(dtype, generator):
    """There every direction goes straight uphill, and only rounding turns a path."""
    x = torch.zeros(50, 3, dtype=dtype)
    sampler = MicrocanonicalLangevin(HarmonicModel(), 0.5, 0.5, metropolised=True)
    y, noted = sampler.sample(x, n_steps=1, generator=generator, return_diagnostics=True)
    torch.testing.assert_close(y.norm(dim=1), torch.full((50,), 0.5, dtype=dtype))
    assert noted["acceptance_rate"].min() > 0.999
    assert not noted["diverging"].any()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_path_that_rounding_leads_straight_uphill_is_not_taken(dtype, generator):
    """Steps so long that every direction becomes straight downhill, and then goes straight up on the other side."""
    sampler = MicrocanonicalLangevin(HarmonicModel(), 1e4, 1e4, metropolised=True)
    start = torch.ones(20, 3, dtype=dtype)
    x, noted = sampler.sample(start, n_steps=5, generator=generator, return_diagnostics=True)
    assert torch.equal(x, start)
    assert noted["diverging"].all()
    assert (noted["acceptance_rate"] == 0).all()


# shapes, dtypes and streams, for two components and more --------------------------------------------------------------


@pytest.mark.parametrize("metropolised", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("event", [(2,), (7,), (1, 4, 4)], ids=str)
def test_event_shapes_and_dtypes(event, dtype, metropolised, generator):
    x = torch.full((4, *event), 0.5, dtype=dtype)
    sampler = MicrocanonicalLangevin(EnergyModel(lambda x: x.cosh().flatten(1).sum(1)), 0.5, metropolised=metropolised)
    y, noted, state = sampler.sample(
        x, n_steps=4, n_warmup=3, generator=generator, return_diagnostics=True, return_trajectory=True,
        return_state=True,
    )  # fmt: skip
    assert (y.dtype, y.shape) == (dtype, (4, 4, *event))
    assert y.isfinite().all()
    wide = torch.promote_types(dtype, torch.float32)
    assert noted["energy_error"].dtype == wide
    assert metropolised or state.kernel.direction.dtype == wide


@pytest.mark.parametrize("metropolised", [False, True])
@pytest.mark.parametrize("n_warmup", [0, 10, 60])
@pytest.mark.parametrize("scheduled", [False, True])
def test_50_and_50_steps_are_100(metropolised, n_warmup, scheduled, seeded):
    h, L = (LinearScheduler(0.5, 0.2, 100), lambda k: 1.0 + 0.01 * k) if scheduled else (0.4, 1.0)
    options = {"return_trajectory": True, "return_diagnostics": True, "return_state": True}
    one, two = seeded(), seeded()
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=2), h, L, metropolised=metropolised)
    whole, noted, end = sampler.sample(n_samples=8, n_steps=100, n_warmup=n_warmup, generator=one, **options)
    first, _, state = sampler.sample(n_samples=8, n_steps=50, n_warmup=n_warmup, generator=two, **options)
    second, later, last = sampler.sample(n_steps=50, state=state, generator=two, **options)
    assert torch.equal(whole, torch.cat([first, second], 1))
    assert torch.equal(noted["energy_error"][:, 50:], later["energy_error"])
    assert all(torch.equal(a, b) for a, b in zip(end.kernel, last.kernel, strict=True))


@pytest.mark.parametrize("metropolised", [False, True])
@pytest.mark.parametrize("event", [(), (1,), (1, 1, 1)], ids=str)
def test_one_component_is_refused_with_what_to_use_instead(event, metropolised, generator):
    sampler = MicrocanonicalLangevin(HarmonicModel(), metropolised=metropolised)
    match = r"needs events of two components or more; got events of shape \[.*\]. For one component: Hamiltonian"
    for n_steps in (0, 3):
        with pytest.raises(ValueError, match=match):
            sampler.sample(torch.zeros(4, *event), n_steps=n_steps, generator=generator)
    with pytest.raises(ValueError, match=match):
        sampler.warm_up(torch.zeros(4, *event), n_steps=30, generator=generator)


REFUSED = [
    ({"metropolised": 1}, TypeError, "metropolised must be True or False; got 1"),
    ({"decoherence_length": 0.0}, ValueError, "decoherence_length must be greater than 0"),
    ({"mass": -1.0}, ValueError, "mass must be greater than 0"),
    ({"adapt_mass": "dense"}, ValueError, 'adapt_mass must be "diagonal" or None'),
    ({"desired_energy_var": 0.0}, ValueError, "desired_energy_var must be greater than 0"),
    ({"desired_energy_var": "small"}, TypeError, "desired_energy_var must be a number"),
    ({"target_acceptance": 1.0, "metropolised": True}, ValueError, "target_acceptance must be less than 1"),
    ({"max_leapfrog_steps": 0}, ValueError, "max_leapfrog_steps must be at least 1"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=lambda o: str(o)[:40])
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        MicrocanonicalLangevin(HarmonicModel(), **options)


def test_a_mass_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"mass has shape \[3\]"):
        MicrocanonicalLangevin(HarmonicModel(), mass=torch.ones(3)).sample(torch.zeros(4, 2), n_steps=1)
