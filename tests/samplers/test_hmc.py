"""Hamiltonian Monte Carlo's variations: step sizes and paths that vary, a momentum that is kept."""

import math

import pytest
import scipy.stats
import torch

from torchebm.core import GaussianModel, HarmonicModel, Target
from torchebm.samplers import HamiltonianMonteCarlo
from torchebm.samplers.hamiltonian import as_mass, radical_inverse, squared_length, variances, whiten

F64 = torch.float64
N = 40


def E(x):
    return x + torch.exp(-x)


def dE(x):
    return 1 - torch.exp(-x)


def setup(sampler, generator):
    x = torch.randn(N, dtype=F64, generator=generator)  # scalar events
    target = Target(sampler.model)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, generator)
    return target, sampler.init(x, target, generator), noise


def integrate(x, p, m, h, n):
    for _ in range(n):
        p = p - 0.5 * h * dE(x)
        x = x + h * p / m
        p = p - 0.5 * h * dE(x)
    return x, p


@pytest.mark.parametrize("jitter", [0.0, 0.4])
@pytest.mark.parametrize("r", [1.0, 0.25])
def test_one_transition(jitter, r, gumbel, generator):
    m, h, n = 1.7, 1.3, 3
    sampler = HamiltonianMonteCarlo(gumbel, n_leapfrog_steps=n, mass=m, jitter=jitter, momentum_refresh=r)
    target, state, noise = setup(sampler, generator)
    new, info = sampler.step(state, noise, target, step_size=h)
    xi, u, decisions = noise[0], noise[1], []
    for i in range(N):
        step = h * (1 + jitter * (2 * noise[2][i] - 1)) if jitter else h
        z = math.sqrt(1 - r) * state.momentum[i] + math.sqrt(r) * xi[i] if r < 1 else xi[i]
        p = math.sqrt(m) * z
        x, q = integrate(state.x[i], p, m, step, n)
        log_ratio = E(state.x[i]) + p * p / (2 * m) - E(x) - q * q / (2 * m)
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        torch.testing.assert_close(new.x[i], x if decisions[-1] else state.x[i], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1), rtol=1e-10, atol=1e-12)
        if r < 1:
            momentum = q / math.sqrt(m) if decisions[-1] else -z  # turned back where it is rejected
            torch.testing.assert_close(new.momentum[i], momentum, rtol=1e-10, atol=1e-12)
    assert 0 < sum(decisions) < N


def test_the_momentum_that_is_kept_is_standard_normal_and_independent_of_x(gumbel, generator, agrees):
    """At any mass, one that changes on the way included; each comparison fails once in a million seeds."""
    x = gumbel.sample(20_000, generator=generator)
    sampler = HamiltonianMonteCarlo(gumbel, 0.9, 2, mass=0.5, momentum_refresh=0.2)
    _, state = sampler.sample(x, n_steps=3, generator=generator, return_state=True)
    sampler.mass = 3.0
    x, state = sampler.sample(state=state, n_steps=7, generator=generator, return_state=True)
    z = state.kernel.momentum
    agrees(z, scipy.stats.norm.cdf)
    agrees(x, gumbel.cdf)
    assert abs(scipy.stats.spearmanr(x, z).statistic) < 5 / math.sqrt(len(x))


def test_a_dense_mass_keeps_the_momentum_standard_normal(generator, agrees):
    cov = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=F64)
    model = GaussianModel(torch.zeros(2, dtype=F64), cov)
    sampler = HamiltonianMonteCarlo(model, 0.8, 2, mass=torch.linalg.inv(cov) + torch.eye(2), momentum_refresh=0.2)
    x, state = sampler.sample(model.sample(20_000, generator=generator), n_steps=5, generator=generator,
                              return_state=True)  # fmt: skip
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.6, -0.8]):
        direction = torch.tensor(direction, dtype=F64)
        agrees(state.kernel.momentum @ direction, scipy.stats.norm.cdf)
        agrees(x @ direction / (direction @ cov @ direction) ** 0.5, scipy.stats.norm.cdf)


def test_a_transition_with_kept_momentum_can_be_run_backwards(gumbel, generator):
    """Turned round, an accepted trajectory leads back to where it began."""
    sampler = HamiltonianMonteCarlo(gumbel, 0.3, 5, mass=0.6, momentum_refresh=0.5)
    target, state, (_, u) = setup(sampler, generator)
    still = torch.zeros_like(state.x), torch.full_like(u, 1 - 1e-12)  # accepted
    start = state._replace(momentum=state.momentum / 0.5**0.5)  # so that the step begins with state.momentum
    there, _ = sampler.step(start, still, target, step_size=0.3)
    back, _ = sampler.step(there._replace(momentum=-there.momentum / 0.5**0.5), still, target, step_size=0.3)
    kept = (there.x != state.x) & (back.x != there.x)
    assert kept.double().mean() > 0.5
    torch.testing.assert_close(back.x[kept], state.x[kept], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back.momentum[kept], -state.momentum[kept], rtol=1e-9, atol=1e-9)


def test_step_sizes_vary_evenly_and_from_chain_to_chain(generator, agrees):
    sampler = HamiltonianMonteCarlo(HarmonicModel(), 0.1, 1, jitter=0.5)
    xi, u, v = sampler.noise(torch.zeros(20_000, 1, dtype=F64), 2)
    sampler.draw((xi[0], u[0], v[0]), generator)
    agrees(v[0], scipy.stats.uniform.cdf)
    assert len(HamiltonianMonteCarlo(HarmonicModel()).noise(torch.zeros(3, 1), 2)) == 2  # none drawn if none is used


def test_path_lengths_follow_from_the_number_of_the_transition(counting_model, generator):
    sampler = HamiltonianMonteCarlo(counting_model, 0.1, 8, path_jitter=0.5)
    expected = [round(8 * (1 - 0.5 * radical_inverse(k))) for k in range(40)]
    assert sampler.parameter_table(0, 40)["n_leapfrog_steps"] == expected
    assert sampler.parameter_table(15, 25)["n_leapfrog_steps"] == expected[15:]
    assert (min(expected), max(expected)) == (4, 8)
    sampler.sample(torch.zeros(3, 2), n_steps=40, generator=generator)
    assert counting_model.gradients == 1 + sum(expected)


def test_paths_vary_unless_they_are_told_not_to(counting_model, generator):
    """A 10-D normal density and a path that the warm-up makes one period: without jitter chains return to the start."""
    assert HamiltonianMonteCarlo(counting_model, 0.1, 8).parameter_table(0, 2)["n_leapfrog_steps"] == [8, 6]
    fixed = HamiltonianMonteCarlo(counting_model, 0.1, 8, path_jitter=0)
    assert "n_leapfrog_steps" not in fixed.parameter_table(0, 2)
    _, noted = fixed.sample(torch.zeros(3, 2), n_steps=4, generator=generator, return_diagnostics=True)
    assert noted["n_steps"].tolist() == [[8] * 4] * 3
    model, spread = GaussianModel(torch.zeros(10, dtype=F64), torch.eye(10, dtype=F64)), []
    for path_jitter in (0.5, 0.0):
        sampler = HamiltonianMonteCarlo(model, 2 * math.sin(math.pi / 10), 10, path_jitter=path_jitter)  # one period
        x = 3 + torch.randn(32, 10, dtype=F64, generator=generator)
        draws = sampler.sample(x, n_steps=50, generator=generator, return_trajectory=True)
        spread.append(float(draws[:, 25:].mean()))
    assert abs(spread[0]) < 0.3  # 5 standard errors of independent draws, 8,000 of them, would be 0.06
    assert spread[1] > 2


def test_the_radical_inverse_mirrors_binary_digits():
    assert [radical_inverse(k) for k in range(8)] == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    values = sorted(radical_inverse(k) for k in range(1, 1024))
    assert values == [k / 1024 for k in range(1, 1024)]


MATRIX = torch.tensor([[2.0, 0.6, 0.1], [0.6, 0.5, 0.0], [0.1, 0.0, 3.0]], dtype=F64)
MASSES = {"identity": (None, torch.eye(3, dtype=F64)), "scalar": (2.5, 2.5 * torch.eye(3, dtype=F64)),
          "diagonal": (MATRIX.diagonal(), MATRIX.diagonal().diag()), "dense": (MATRIX, MATRIX)}  # fmt: skip


@pytest.mark.parametrize(("mass", "M"), MASSES.values(), ids=MASSES)
def test_what_a_mass_takes_for_lengths(mass, M, generator):
    x = torch.randn(5, 3, dtype=F64, generator=generator)
    metric = as_mass(mass, x)
    torch.testing.assert_close(whiten(metric, metric.momentum(x)), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(squared_length(metric, x), ((x @ M) * x).sum(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(variances(metric, x), torch.linalg.inv(M).diagonal(), rtol=1e-12, atol=1e-12)


REFUSED = [
    ({"n_leapfrog_steps": 0}, ValueError, "n_leapfrog_steps must be at least 1"),
    ({"n_leapfrog_steps": 2.5}, TypeError, "n_leapfrog_steps must be a whole number"),
    ({"jitter": -0.1}, ValueError, "jitter must be at least 0"),
    ({"jitter": 1.1}, ValueError, "jitter must be at most 1"),
    ({"path_jitter": 2}, ValueError, "path_jitter must be at most 1"),
    ({"momentum_refresh": 0.0}, ValueError, "momentum_refresh must be greater than 0"),
    ({"momentum_refresh": 1.5}, ValueError, "momentum_refresh must be at most 1"),
    ({"target_acceptance": 1.0}, ValueError, "target_acceptance must be less than 1"),
    ({"target_acceptance": 0.0}, ValueError, "target_acceptance must be greater than 0"),
    ({"adapt_mass": "full"}, ValueError, 'adapt_mass must be "diagonal", "dense" or None'),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=lambda o: str(o)[:40])
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        HamiltonianMonteCarlo(HarmonicModel(), **options)
    (name, value), sampler = *options.items(), HamiltonianMonteCarlo(HarmonicModel())
    before = getattr(sampler, name)
    with pytest.raises(error, match=match):  # later as well
        setattr(sampler, name, value)
    assert getattr(sampler, name) == before
