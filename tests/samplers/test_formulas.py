"""One transition with fixed noise in float64, against its formula written out chain by chain."""

import math

import pytest
import torch

from torchebm.core import GaussianModel, HarmonicModel, Target
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics, MetropolisHastings
from torchebm.samplers.warmup import Warmup

F64 = torch.float64
N = 40


def between(x, low, high):
    return torch.where(x < low, low, torch.where(x > high, high, x))


@pytest.mark.parametrize(("clamp", "clip"), [(None, None), ((-0.5, 1.0), None), (None, 0.3), ((-0.5, 1.0), 0.3)])
@pytest.mark.parametrize("s", [0.0, 1.0, 0.7])
def test_langevin(event, T, s, clamp, clip, skewed, close, each, start):
    sampler, h = LangevinDynamics(skewed, clamp=clamp), 0.05
    target, state, (xi,) = start(sampler, event)
    now = {"step_size": h, "noise_scale": s, "gradient_clip": clip}
    new, info = sampler.step(state, (xi,), target, temperature=T, **now)
    for i in range(N):
        gradient = skewed.slope(state.x[i])
        if clip is not None:
            gradient = between(gradient, -clip, clip)
        x = state.x[i] - h * gradient + s * math.sqrt(2 * h * each(T, i)) * xi[i]
        if clamp is not None:
            x = between(x, *clamp)
        close(new.x[i], x)
    assert not info.diverging.any()


def test_metropolis_hastings(event, T, skewed, close, each, start):
    sampler, scale = MetropolisHastings(skewed), 0.9
    target, state, (xi, u) = start(sampler, event)
    new, info = sampler.step(state, (xi, u), target, temperature=T, proposal_scale=scale)
    decisions = []
    for i in range(N):
        proposal = state.x[i] + scale * xi[i]
        log_ratio = (skewed.at(state.x[i]) - skewed.at(proposal)) / each(T, i)
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        x = proposal if decisions[-1] else state.x[i]
        close(new.x[i], x)
        close(new.energy[i], skewed.at(x))
        close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1))
    assert 0 < sum(decisions) < N


@pytest.mark.parametrize("n_leapfrog_steps", [1, 4])
@pytest.mark.parametrize("kind", ["identity", "scalar", "diagonal", "dense"])
def test_hamiltonian_monte_carlo(event, T, kind, n_leapfrog_steps, skewed, close, each, start, masses):
    h = 0.45
    mass, M = masses(kind, event)
    sampler = HamiltonianMonteCarlo(skewed, n_leapfrog_steps=n_leapfrog_steps, mass=mass)
    target, state, (xi, u) = start(sampler, event)
    new, info = sampler.step(state, (xi, u), target, temperature=T, step_size=h)
    inverse, root, decisions = torch.linalg.inv(M), torch.linalg.cholesky(M), []
    for i in range(N):
        t = each(T, i)
        x, p = state.x[i].flatten(), root @ xi[i].flatten()
        before = skewed.at(x) / t + 0.5 * p @ inverse @ p
        for _ in range(n_leapfrog_steps):
            p = p - 0.5 * h * skewed.slope(x) / t
            x = x + h * inverse @ p
            p = p - 0.5 * h * skewed.slope(x) / t
        log_ratio = before - (skewed.at(x) / t + 0.5 * p @ inverse @ p)
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        x = x.view(event) if decisions[-1] else state.x[i]
        close(new.x[i], x)
        close(new.energy[i], skewed.at(x))
        close(new.gradient[i], skewed.slope(x))
        close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1))
    assert sum(decisions) > 0


def test_hamiltonian_monte_carlo_rejects_somewhere(skewed, start):
    sampler = HamiltonianMonteCarlo(skewed, n_leapfrog_steps=1)
    target, state, (xi, u) = start(sampler, (3,))
    new, info = sampler.step(state, (xi, u), target, step_size=1.8)
    accepted = torch.log1p(-u) < info.acceptance_rate.log()
    assert 0 < accepted.sum() < N
    assert torch.equal((new.x == state.x).all(1), ~accepted)
    assert torch.equal(new.gradient == state.gradient, new.x == state.x)


def test_a_dense_mass_is_a_change_of_coordinates(seeded):
    """With M the inverse covariance of a normal density, chains are linear images of those on a standard normal."""
    root = torch.tensor([[2.0, 0.0], [1.5, 0.3]], dtype=F64)
    cov = root @ root.T
    to_x = torch.linalg.inv(torch.linalg.cholesky(torch.linalg.inv(cov))).T
    z = torch.randn(N, 2, dtype=F64, generator=seeded(1))
    on_z = HamiltonianMonteCarlo(HarmonicModel(), 0.8, 3)
    on_x = HamiltonianMonteCarlo(GaussianModel(torch.zeros(2), cov), 0.8, 3, mass=torch.linalg.inv(cov))
    expected = on_z.sample(z, n_steps=5, generator=seeded()) @ to_x.T
    torch.testing.assert_close(on_x.sample(z @ to_x.T, n_steps=5, generator=seeded()), expected, rtol=1e-8, atol=1e-8)


def test_noise_is_standard_normal_and_uniform(case, seeded):
    """Failure probability below 1e-6 a moment."""
    sampler, x = case.make(HarmonicModel()), torch.zeros(20_000, 1, dtype=F64)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, seeded())
    laws = [(0.0, 1.0), (0.5, 1 / 12)]
    for buffer, (mean, variance) in zip(noise, laws, strict=False):
        assert abs(buffer.mean() - mean) < 5 * (variance / len(x)) ** 0.5
        assert abs(buffer.var() / variance - 1) < 5 * (2 / len(x)) ** 0.5


def test_each_transition_draws_anew(case, generator):
    sampler, seen = case.make(HarmonicModel()), []

    class Spied(case.cls):
        def step(self, state, noise, target, **parameters):
            seen.append([buffer.clone() for buffer in noise])
            return super().step(state, noise, target, **parameters)

    Spied(sampler.model, **case.parameters).sample(torch.zeros(5, 2), n_steps=4, generator=generator)
    for buffers in zip(*seen, strict=True):
        assert len({tuple(buffer.flatten().tolist()) for buffer in buffers}) == 4


def test_a_warm_up_begins_with_the_largest_power_whose_leapfrog_steps_are_accepted(generator):
    """On a normal density, with momenta of its own; rates are off by 0.01 at most, but for one in a million seeds."""
    model, target_acceptance = HarmonicModel(), 0.8
    x = torch.randn(20_000, 5, dtype=F64, generator=generator)
    target = Target(model)
    sampler = HamiltonianMonteCarlo(model, 0.1)
    _, now = Warmup(sampler, 10).begin(sampler.init(x, target, generator), target, generator)
    h = float(now["step_size"].mean())

    def rate(h):
        p = torch.randn(x.shape, dtype=F64, generator=generator)
        q = p - 0.5 * h * x
        y = x + h * q
        q = q - 0.5 * h * y
        return float((0.5 * (x**2 + p**2 - y**2 - q**2)).sum(1).clamp(max=0).exp().mean())

    assert rate(h) > target_acceptance - 0.01
    assert rate(2 * h) < target_acceptance + 0.01
