"""Underdamped Langevin dynamics: its formulas, the bias of BAOAB, and the invariance of positions and momenta."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from torchebm.core import GaussianModel, HarmonicModel, SamplingDivergenceWarning, Target
from torchebm.samplers import HamiltonianMonteCarlo, UnderdampedLangevin

F64 = torch.float64
N = 40
KINDS = ["identity", "scalar", "diagonal", "dense"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("a_chain", [False, True], ids=["one h and friction", "a chain"])
def test_one_step_unadjusted(event, kind, T, a_chain, skewed, close, each, start, masses):
    mass, M = masses(kind, event)
    inverse, root = torch.linalg.inv(M), torch.linalg.cholesky(M)
    sampler = UnderdampedLangevin(skewed, mass=mass)
    target, state, (xi,) = start(sampler, event)
    h = torch.linspace(0.1, 0.8, N, dtype=F64) if a_chain else 0.3
    friction = torch.linspace(3.0, 0.2, N, dtype=F64) if a_chain else 0.7
    new, info = sampler.step(state, (xi,), target, temperature=T, step_size=h, friction=friction)
    for i in range(N):
        x, p, k, t = state.x[i].flatten(), state.momentum[i].flatten(), each(h, i), each(T, i)
        c = math.exp(-each(friction, i) * k)
        p = p - 0.5 * k * skewed.slope(x) / t
        x = x + 0.5 * k * inverse @ p
        p = c * p + math.sqrt(1 - c * c) * root @ xi[i].flatten()
        x = x + 0.5 * k * inverse @ p
        p = p - 0.5 * k * skewed.slope(x) / t
        close(new.x[i].flatten(), x)
        close(new.momentum[i].flatten(), p)
        close(new.energy[i], skewed.at(x))
        close(new.gradient[i].flatten(), skewed.slope(x))
    assert not info.diverging.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("a_chain", [False, True], ids=["one h and friction", "a chain"])
def test_one_step_metropolised(event, kind, T, a_chain, skewed, close, each, start, masses):
    mass, M = masses(kind, event)
    inverse, root = torch.linalg.inv(M), torch.linalg.cholesky(M)
    sampler = UnderdampedLangevin(skewed, mass=mass, metropolised=True)
    target, state, (xi, u) = start(sampler, event)
    u[: N // 2] = 0.0  # so that some are rejected, however heavy the mass
    h = torch.linspace(0.4, 1.9, N, dtype=F64) if a_chain else 1.3
    friction = torch.linspace(3.0, 0.2, N, dtype=F64) if a_chain else 0.7
    new, info = sampler.step(state, (xi, u), target, temperature=T, step_size=h, friction=friction)
    decisions = []
    for i in range(N):
        x, p, k, t = state.x[i].flatten(), state.momentum[i].flatten(), each(h, i), each(T, i)
        c = math.exp(-each(friction, i) * k)
        p = c * p + math.sqrt(1 - c * c) * root @ xi[i].flatten()
        q = p - 0.5 * k * skewed.slope(x) / t
        y = x + k * inverse @ q
        q = q - 0.5 * k * skewed.slope(y) / t
        log_ratio = (skewed.at(x) - skewed.at(y)) / t + 0.5 * (p @ inverse @ p - q @ inverse @ q)
        close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1))
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        y, q = (y, q) if decisions[-1] else (x, -p)
        close(new.x[i].flatten(), y)
        close(new.momentum[i].flatten(), q)
        close(new.energy[i], skewed.at(y))
        close(new.gradient[i].flatten(), skewed.slope(y))
    assert 0 < sum(decisions) < N


def test_a_momentum_that_is_forgotten_at_once_makes_it_hamiltonian_monte_carlo(seeded, skewed, close):
    x = torch.randn(50, 3, dtype=F64, generator=seeded(1))
    one = UnderdampedLangevin(skewed, 0.9, friction=1e4, mass=2.0, metropolised=True)
    other = HamiltonianMonteCarlo(skewed, 0.9, n_leapfrog_steps=1, mass=2.0)
    target = Target(skewed)
    state = one.advance(one.init(x, target, seeded()), 0, 20, target=target, generator=seeded(2))
    expected = other.advance(other.init(x, target, None), 0, 20, target=target, generator=seeded(2))
    close(state.x, expected.x)


@pytest.mark.parametrize("metropolised", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_chains_start_with_a_momentum_of_the_mass(kind, metropolised, masses, generator):
    """Fails below 1e-5."""
    n, (mass, M) = 40_000, masses(kind, (2,))
    sampler = UnderdampedLangevin(HarmonicModel(), mass=mass, metropolised=metropolised)
    p = sampler.init(torch.zeros(n, 2, dtype=F64), Target(HarmonicModel()), generator).momentum
    sd = (M * M + M.diagonal().outer(M.diagonal())).sqrt()  # of a product of two components
    assert ((p.T @ p / n - M).abs() < 5 * sd / n**0.5).all()
    assert (p.mean(0).abs() < 5 * (M.diagonal() / n) ** 0.5).all()


def test_momentum_carries_over_from_one_run_to_the_next(seeded):
    """Almost without friction, a chain goes on in the direction it had."""
    sampler, x = UnderdampedLangevin(lambda x: 0 * x.sum(-1), 0.5, friction=1e-12), torch.zeros(20, 2, dtype=F64)
    y, state = sampler.sample(x, n_steps=4, generator=seeded(), return_state=True)
    z = sampler.sample(state=state, n_steps=4, generator=seeded(1))
    torch.testing.assert_close(z, 2 * y, rtol=1e-4, atol=1e-4)


# the bias of BAOAB, for other densities in test_bias.py ---------------------------------------------------------------


def stationary_covariance(sampler, h, friction, T=1.0):
    """Of (x, p): the solution of S = A S A' + B B', since on a quadratic energy a step is an affine map."""
    target = Target(sampler.model)

    def step(z, xi):
        x = z[:1].unsqueeze(0)
        state = sampler.init(x, target, None)._replace(momentum=z[1:].unsqueeze(0))
        new, _ = sampler.step(state, (xi.unsqueeze(0),), target, temperature=T, step_size=h, friction=friction)
        return torch.cat([new.x[0], new.momentum[0]])

    origin = torch.zeros(2, dtype=F64), torch.zeros(1, dtype=F64)
    A = torch.stack([step(e, origin[1]) for e in torch.eye(2, dtype=F64)], 1)
    B = step(origin[0], torch.ones(1, dtype=F64)).unsqueeze(1)
    return torch.linalg.solve(torch.eye(4, dtype=F64) - torch.kron(A, A), (B @ B.T).flatten()).view(2, 2)


@pytest.mark.parametrize("h", [0.01, 0.5, 1.3])
@pytest.mark.parametrize(
    ("k", "mass", "friction", "T"),
    [(1.0, 1.0, 1.0, 1.0), (2.0, 1.0, 0.1, 1.0), (0.7, 3.0, 20.0, 1.0), (1.0, 1.0, 1.0, 2.5)],
)
def test_positions_of_a_harmonic_oscillator_are_exact_and_momenta_too_cold(h, k, mass, friction, T):
    sampler = UnderdampedLangevin(HarmonicModel(k), mass=mass)
    S = stationary_covariance(sampler, h, friction, T)
    expected = torch.diag(torch.tensor([T / k, mass * (1 - h * h * k / (4 * mass * T))], dtype=F64))
    torch.testing.assert_close(S, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("event", [(), (1, 2, 2)], ids=["scalar", "image"])
def test_a_normal_density_from_far_away(event, generator, has_mean):
    """Fails below 1e-5."""
    x = torch.full((10_000, *event), 5.0, dtype=F64)
    y = UnderdampedLangevin(HarmonicModel(4.0), 0.8, friction=2.0).sample(x, n_steps=60, generator=generator)
    has_mean(y, 0.0)
    has_mean(y.square(), 0.25)


def test_correlated_gaussian(generator, has_mean):
    """Fails below 1e-5."""
    cov = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=F64)
    model = GaussianModel(torch.tensor([3.0, -1.0]), cov)
    for mass in (None, torch.linalg.inv(cov), torch.tensor([0.5, 3.0])):
        x = torch.full((20_000, 2), 5.0, dtype=F64)
        y = UnderdampedLangevin(model, 0.6, mass=mass).sample(x, n_steps=80, generator=generator) - model.mean
        has_mean(y[:, 0], 0)
        for i, j in [(0, 0), (0, 1), (1, 1)]:
            has_mean(y[:, i] * y[:, j], float(cov[i, j]))


def test_one_temperature_a_chain(generator, has_mean):
    T = torch.tensor([0.5, 1.0, 2.5], dtype=F64).repeat(10_000)
    sampler, target = UnderdampedLangevin(HarmonicModel(), 0.6), Target(HarmonicModel())
    state = sampler.init(torch.zeros(len(T), 1, dtype=F64), target, generator)
    state = sampler.advance(state, 0, 80, target=target, generator=generator, temperature=T)
    for temperature in (0.5, 1.0, 2.5):
        has_mean(state.x[temperature == T].square(), temperature)


def test_unadjusted_chains_that_leave_the_support_are_reported(generator):
    """The slope of x - log x is finite below zero, where the energy is not: that must not go unnoticed."""
    sampler = UnderdampedLangevin(lambda x: (x - x.log()).sum(-1), 0.9)
    with pytest.warns(SamplingDivergenceWarning, match="of 100 chains diverged"):
        x = sampler.sample(torch.ones(100, 1), n_steps=50, generator=generator)
    assert x.isnan().any()


# the Metropolised chain leaves positions and momenta as they are ------------------------------------------------------


@pytest.mark.parametrize(("h", "friction"), [(0.2, 1.0), (1.0, 0.1), (1.0, 3.0), (2.2, 0.5)])
@pytest.mark.parametrize("n_steps", [1, 20])
def test_positions_and_momenta_are_invariant(h, friction, n_steps, gumbel, generator, agrees, has_mean):
    """Jointly: no correlation appears between functions of x and of p, odd ones included. Fails below 2e-5."""
    x = gumbel.sample(40_000, generator=generator)
    sampler, target = UnderdampedLangevin(gumbel, h, friction, mass=1.5, metropolised=True), Target(gumbel)
    with torch.no_grad():
        state = sampler.init(x, target, generator)
        state = sampler.advance(state, 0, n_steps, target=target, generator=generator)
    y, z = state.x, state.momentum / 1.5**0.5
    agrees(y, gumbel.cdf)
    agrees(z, scipy.stats.norm.cdf)
    moved = y != x
    assert moved.double().mean() > 0.2
    centred = y - np.euler_gamma
    for f in (centred, torch.exp(-y) - 1, torch.tanh(y) - torch.tanh(gumbel.sample(10**6, generator=generator)).mean()):
        has_mean(f * z, 0.0)
        has_mean(f * (z * z - 1), 0.0)


def test_without_turning_round_the_density_would_not_be_kept(gumbel, generator):
    """The momentum flip is not for show: the same chain without it is off by many standard errors."""

    class Unturned(UnderdampedLangevin):
        def step(self, state, noise, target, **parameters):
            new, info = super().step(state, noise, target, **parameters)
            stayed = new.x == state.x
            return new._replace(momentum=torch.where(stayed, -new.momentum, new.momentum)), info

    x = gumbel.sample(40_000, generator=generator)
    y = Unturned(gumbel, 1.0, 0.1, metropolised=True).sample(x, n_steps=20, generator=generator)
    assert scipy.stats.kstest(y.numpy(), gumbel.cdf).pvalue < 1e-6


def test_back_to_the_start(skewed, close, start):
    """Without noise or friction and with the momentum turned round, an accepted step undoes itself."""
    sampler = UnderdampedLangevin(skewed, 0.3, friction=1e-300, mass=2.0, metropolised=True)
    target, state, (xi, u) = start(sampler, (3,))
    noise = torch.zeros_like(xi), torch.full_like(u, 1 - 1e-16)  # accepted unless the ratio is below 1e-16
    there, _ = sampler.step(state, noise, target, step_size=0.3, friction=1e-300)
    back, _ = sampler.step(there._replace(momentum=-there.momentum), noise, target, step_size=0.3, friction=1e-300)
    assert not torch.allclose(there.x, state.x)
    close(back.x, state.x)
    close(back.momentum, -state.momentum)


def test_rejections_vanish_with_the_cube_of_the_step_size(gumbel, generator):
    x = gumbel.sample(20_000, generator=generator)
    sampler, target = UnderdampedLangevin(gumbel, metropolised=True), Target(gumbel)
    state = sampler.init(x, target, generator)
    xi, u = torch.randn(len(x), dtype=F64, generator=generator), torch.zeros(len(x), dtype=F64)
    rejected = [
        float(1 - sampler.step(state, (xi, u), target, step_size=h, friction=1.0)[1].acceptance_rate.mean())
        for h in (0.05, 0.1)
    ]
    assert abs(math.log2(rejected[1] / rejected[0]) - 3) < 0.2


def test_an_energy_error_that_has_lost_the_trajectory_is_diverging(generator):
    sampler = UnderdampedLangevin(HarmonicModel(), 30.0, metropolised=True)
    x, noted = sampler.sample(torch.ones(20, 3), n_steps=5, generator=generator, return_diagnostics=True)
    assert torch.equal(x, torch.ones(20, 3))
    assert noted["diverging"].all()
    assert (noted["acceptance_rate"] == 0).all()


# arguments ------------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"metropolised": 1}, TypeError, "metropolised must be True or False; got 1"),
    ({"metropolised": "yes"}, TypeError, "metropolised must be True or False"),
    ({"friction": 0.0}, ValueError, "friction must be greater than 0"),
    ({"mass": 0.0}, ValueError, "mass must be greater than 0"),
    ({"mass": "heavy"}, TypeError, "mass must be a number"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=lambda o: str(o)[:30])
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        UnderdampedLangevin(HarmonicModel(), **options)


def test_a_mass_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"mass has shape \[3\]"):
        UnderdampedLangevin(HarmonicModel(), mass=torch.ones(3)).sample(torch.zeros(4, 2), n_steps=1)


def test_a_target_that_nothing_would_heed_is_refused():
    with pytest.raises(TypeError, match=r"target_acceptance is for metropolised=True"):
        UnderdampedLangevin(HarmonicModel(), target_acceptance=0.5)
    assert UnderdampedLangevin(HarmonicModel()).target_acceptance is None
    assert UnderdampedLangevin(HarmonicModel(), metropolised=True, target_acceptance=0.5).target_acceptance == 0.5


def test_a_state_saved_with_the_other_accept_test_is_refused():
    one, two = (UnderdampedLangevin(HarmonicModel(), metropolised=flag) for flag in (True, False))
    for sampler, other in ((one, two), (two, one)):
        with pytest.raises(ValueError, match=r"saved with metropolised=\w+, which is fixed at construction"):
            sampler.load_state_dict(other.state_dict())
