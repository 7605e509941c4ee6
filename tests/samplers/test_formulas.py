"""One transition with fixed noise in float64, against its formula written out chain by chain."""

import math

import pytest
import torch

from torchebm.core import BaseModel, GaussianModel, HarmonicModel, Target
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics, MetropolisHastings

F64 = torch.float64
N = 40
TEMPERATURES = {"one": 1.0, "two": 2.0, "a chain": torch.linspace(0.5, 3.0, N, dtype=F64)}
EVENTS = {"vector": (3,), "image": (1, 2, 2), "scalar": ()}


class Skewed(BaseModel):
    """E = sum(x + exp(-x)) + (sum x)² / 20."""

    def forward(self, x):
        x = x.reshape(len(x), -1)
        return (x + torch.exp(-x)).sum(1) + x.sum(1).square() / 20


def E(x):
    return (x + torch.exp(-x)).sum() + x.sum() ** 2 / 20


def dE(x):
    return 1 - torch.exp(-x) + x.sum() / 10


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def between(x, low, high):
    return torch.where(x < low, low, torch.where(x > high, high, x))


def setup(sampler, event, generator):
    """State and noise, as the loop would make them."""
    x = torch.randn(N, *event, dtype=F64, generator=generator)
    target = Target(sampler.model)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, generator)
    return target, sampler.init(x, target, generator), noise


def temperature_of(temperature, i):
    return float(temperature[i]) if isinstance(temperature, torch.Tensor) else temperature


@pytest.fixture(params=EVENTS.values(), ids=EVENTS)
def event(request):
    return request.param


@pytest.fixture(params=TEMPERATURES.values(), ids=TEMPERATURES)
def temperature(request):
    return request.param


@pytest.mark.parametrize(("clamp", "clip"), [(None, None), ((-0.5, 1.0), None), (None, 0.3), ((-0.5, 1.0), 0.3)])
@pytest.mark.parametrize("s", [0.0, 1.0, 0.7])
def test_langevin(event, temperature, s, clamp, clip, generator):
    sampler, h = LangevinDynamics(Skewed(), clamp=clamp), 0.05
    target, state, (xi,) = setup(sampler, event, generator)
    now = {"step_size": h, "noise_scale": s, "gradient_clip": clip}
    new, info = sampler.step(state, (xi,), target, temperature=temperature, **now)
    for i in range(N):
        gradient = dE(state.x[i])
        if clip is not None:
            gradient = between(gradient, -clip, clip)
        x = state.x[i] - h * gradient + s * math.sqrt(2 * h * temperature_of(temperature, i)) * xi[i]
        if clamp is not None:
            x = between(x, *clamp)
        close(new.x[i], x)
    assert not info.diverging.any()


def test_metropolis_hastings(event, temperature, generator):
    sampler, scale = MetropolisHastings(Skewed()), 0.9
    target, state, (xi, u) = setup(sampler, event, generator)
    new, info = sampler.step(state, (xi, u), target, temperature=temperature, proposal_scale=scale)
    decisions = []
    for i in range(N):
        proposal = state.x[i] + scale * xi[i]
        log_ratio = (E(state.x[i]) - E(proposal)) / temperature_of(temperature, i)
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        x = proposal if decisions[-1] else state.x[i]
        close(new.x[i], x)
        close(new.energy[i], E(x))
        close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1))
    assert 0 < sum(decisions) < N


def masses(d, generator):
    """Each kind as the user gives it, and as a matrix."""
    diagonal = torch.rand(d, dtype=F64, generator=generator) + 0.5
    root = torch.randn(d, d, dtype=F64, generator=generator)
    dense = root @ root.T + 0.5 * torch.eye(d, dtype=F64)
    return {"identity": (None, torch.eye(d, dtype=F64)), "scalar": (1.7, 1.7 * torch.eye(d, dtype=F64)),
            "diagonal": (diagonal, torch.diag(diagonal)), "dense": (dense, dense)}  # fmt: skip


@pytest.mark.parametrize("n_leapfrog_steps", [1, 4])
@pytest.mark.parametrize("kind", ["identity", "scalar", "diagonal", "dense"])
def test_hamiltonian_monte_carlo(event, temperature, kind, n_leapfrog_steps, generator):
    d, h = math.prod(event), 0.45
    mass, M = masses(d, generator)[kind]
    mass = mass.view(event) if kind == "diagonal" else mass
    sampler = HamiltonianMonteCarlo(Skewed(), n_leapfrog_steps=n_leapfrog_steps, mass=mass)
    target, state, (xi, u) = setup(sampler, event, generator)
    new, info = sampler.step(state, (xi, u), target, temperature=temperature, step_size=h)
    inverse, root, decisions = torch.linalg.inv(M), torch.linalg.cholesky(M), []
    for i in range(N):
        T = temperature_of(temperature, i)
        x, p = state.x[i].flatten(), root @ xi[i].flatten()
        before = E(x) / T + 0.5 * p @ inverse @ p
        for _ in range(n_leapfrog_steps):
            p = p - 0.5 * h * dE(x) / T
            x = x + h * inverse @ p
            p = p - 0.5 * h * dE(x) / T
        log_ratio = before - (E(x) / T + 0.5 * p @ inverse @ p)
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        x = x.view(event) if decisions[-1] else state.x[i]
        close(new.x[i], x)
        close(new.energy[i], E(x))
        close(new.gradient[i], dE(x))
        close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1))
    assert sum(decisions) > 0


def test_hamiltonian_monte_carlo_rejects_somewhere(generator):
    sampler = HamiltonianMonteCarlo(Skewed(), n_leapfrog_steps=1)
    target, state, (xi, u) = setup(sampler, (3,), generator)
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
