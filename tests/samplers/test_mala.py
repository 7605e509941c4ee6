"""The Metropolis-adjusted Langevin algorithm: its formula, its balance, and what a preconditioner is.

That it leaves densities as they are is in `test_invariance.py`.
"""

import math

import pytest
import torch

from torchebm.core import EnergyModel, GaussianModel, HarmonicModel, Target
from torchebm.samplers import LangevinDynamics, MetropolisAdjustedLangevin

F64 = torch.float64
N = 40
H = 0.4
NAN = float("nan")


@pytest.fixture
def log_q(skewed):
    """`log_q(there, here, h, T, C)`: logarithm of the density of proposing `there` from `here`."""

    def density(there, here, h, T, C):
        mean = here - h * C * skewed.slope(here) / T
        return torch.distributions.Normal(mean, (2 * h * C).sqrt()).log_prob(there).sum()

    return density


@pytest.mark.parametrize("h", [H, torch.linspace(0.1, 1.5, N, dtype=F64)], ids=["one h", "h a chain"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_one_step(event, preconditioned, T, h, skewed, close, each, start, log_q, generator):
    C = torch.rand(event, dtype=F64, generator=generator) + 0.5 if preconditioned else None
    sampler = MetropolisAdjustedLangevin(skewed, preconditioner=C)
    target, state, (xi, u) = start(sampler, event)
    new, info = sampler.step(state, (xi, u), target, temperature=T, step_size=h)
    C = torch.ones(event, dtype=F64) if C is None else C
    decisions = []
    for i in range(N):
        x, t, k = state.x[i], each(T, i), each(h, i)
        y = x - k * C * skewed.slope(x) / t + (2 * k * C).sqrt() * xi[i]
        log_ratio = (skewed.at(x) - skewed.at(y)) / t + log_q(x, y, k, t, C) - log_q(y, x, k, t, C)
        close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1))
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        y = y if decisions[-1] else x
        close(new.x[i], y)
        close(new.energy[i], skewed.at(y))
        close(new.gradient[i], skewed.slope(y))
    assert 0 < sum(decisions) <= N


def test_some_are_rejected_and_keep_what_they_knew(skewed, start):
    sampler = MetropolisAdjustedLangevin(skewed)
    target, state, (xi, u) = start(sampler, (3,))
    new, info = sampler.step(state, (xi, u), target, step_size=1.5)
    accepted = torch.log1p(-u) < info.acceptance_rate.log()
    assert 0 < accepted.sum() < N
    assert torch.equal((new.x == state.x).all(1), ~accepted)
    assert torch.equal(new.energy == state.energy, ~accepted)
    assert torch.equal((new.gradient == state.gradient).all(1), ~accepted)


def test_detailed_balance(skewed, close, start, log_q):
    """The way back has the noise that undoes the move, and exp(-E) q a is the same both ways."""
    h, C = 0.2, torch.tensor([0.5, 1.0, 1.5], dtype=F64)
    sampler = MetropolisAdjustedLangevin(skewed, preconditioner=C)
    target, state, (xi, _) = start(sampler, (3,), scale=0.5)  # none is sure to be rejected
    surely = torch.full((N,), 1 - 1e-16, dtype=F64)
    there, info = sampler.step(state, (xi, surely), target, step_size=h)
    undo = (state.x - there.x + h * C * there.gradient) / (2 * h * C).sqrt()
    back, info_back = sampler.step(there, (undo, surely), target, step_size=h)
    close(back.x, state.x)
    assert 0 < (info.acceptance_rate < 1).sum() < N
    for i in range(N):
        x, y = state.x[i], there.x[i]
        one = -skewed.at(x) + log_q(y, x, h, 1.0, C) + info.acceptance_rate[i].log()
        close(one, -skewed.at(y) + log_q(x, y, h, 1.0, C) + info_back.acceptance_rate[i].log())


def test_rejections_vanish_with_the_power_three_halves_of_the_step_size(gumbel, generator):
    x = gumbel.sample(20_000, generator=generator)
    sampler, target = MetropolisAdjustedLangevin(gumbel), Target(gumbel)
    state = sampler.init(x, target, None)
    xi, u = torch.randn(len(x), dtype=F64, generator=generator), torch.zeros(len(x), dtype=F64)
    rejected = [
        float(1 - sampler.step(state, (xi, u), target, step_size=h)[1].acceptance_rate.mean()) for h in (0.0025, 0.01)
    ]
    assert abs(math.log(rejected[1] / rejected[0], 4) - 1.5) < 0.1


def test_small_steps_are_those_of_langevin_dynamics(seeded, skewed, close):
    """At h = 1e-4 none of 200 proposals is rejected, but for one in a million seeds."""
    x = torch.randn(20, 2, dtype=F64, generator=seeded())
    one, two = MetropolisAdjustedLangevin(skewed, 1e-4), LangevinDynamics(skewed, 1e-4)
    target = Target(skewed)
    state, other = one.init(x, target, None), two.init(x, target, None)
    for k in range(10):
        xi = torch.randn(20, 2, dtype=F64, generator=seeded(k))
        state, _ = one.step(state, (xi, torch.full((20,), 0.9, dtype=F64)), target, step_size=1e-4)
        other, _ = two.step(other, (xi,), target, step_size=1e-4, noise_scale=1.0)
    close(state.x, other.x)


# the preconditioner ---------------------------------------------------------------------------------------------------


def test_a_preconditioner_is_a_change_of_units(seeded):
    """With the variances of a normal density, chains are scaled images of those on a standard normal."""
    C = torch.tensor([[0.01, 1.0], [25.0, 400.0]], dtype=F64)
    scaled = EnergyModel(lambda x: 0.5 * (x.square() / C).flatten(1).sum(1))
    z = torch.randn(50, 2, 2, dtype=F64, generator=seeded(1))
    expected = MetropolisAdjustedLangevin(HarmonicModel(), 0.5).sample(z, n_steps=20, generator=seeded()) * C.sqrt()
    x = MetropolisAdjustedLangevin(scaled, 0.5, preconditioner=C).sample(z * C.sqrt(), n_steps=20, generator=seeded())
    torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-8)


def test_a_preconditioner_leaves_the_density_as_it_is(generator, has_mean):
    """A badly chosen one too. Fails below 1e-5."""
    cov = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=F64)
    model = GaussianModel(torch.tensor([3.0, -1.0]), cov)
    sampler = MetropolisAdjustedLangevin(model, 0.3, preconditioner=torch.tensor([0.3, 4.0]))
    y = sampler.sample(model.sample(40_000, generator=generator), n_steps=5, generator=generator) - model.mean
    for i, j in [(0, 0), (0, 1), (1, 1)]:
        has_mean(y[:, i] * y[:, j], float(cov[i, j]))
    has_mean(y[:, 0], 0.0)
    has_mean(y[:, 1], 0.0)


def test_a_preconditioner_that_changes_is_followed(seeded):
    C = torch.ones(2, dtype=F64)
    sampler, x = MetropolisAdjustedLangevin(HarmonicModel(), 0.1, C), torch.ones(4, 2, dtype=F64)
    one = sampler.sample(x, n_steps=3, generator=seeded())
    C *= 2
    two = sampler.sample(x, n_steps=3, generator=seeded())
    sampler.preconditioner = None
    assert torch.equal(sampler.sample(x, n_steps=3, generator=seeded()), one)
    assert not torch.equal(one, two)
    C[0] = -1
    sampler = MetropolisAdjustedLangevin(HarmonicModel(), 0.1)
    with pytest.raises(ValueError, match="must be positive and finite"):
        sampler.preconditioner = C


REFUSED = [
    (2.0, TypeError, "must be a tensor of the event's shape, .* got float"),
    ([1.0, 1.0], TypeError, "must be a tensor of the event's shape, .* got list"),
    (torch.tensor([1.0, 0.0]), ValueError, "must be positive and finite in every entry"),
    (torch.tensor([1.0, -1.0]), ValueError, "must be positive and finite in every entry"),
    (torch.tensor([1.0, NAN]), ValueError, "must be positive and finite in every entry"),
    (torch.tensor([1.0, float("inf")]), ValueError, "must be positive and finite in every entry"),
    (torch.ones(2, dtype=torch.complex64), TypeError, "must hold real numbers; got torch.complex64"),
    (torch.ones(2, dtype=torch.bool), TypeError, "must hold real numbers; got torch.bool"),
]


@pytest.mark.parametrize(("preconditioner", "error", "match"), REFUSED, ids=lambda o: str(o)[:30])
def test_refused(preconditioner, error, match):
    with pytest.raises(error, match=f"preconditioner {match}"):
        MetropolisAdjustedLangevin(HarmonicModel(), preconditioner=preconditioner)


@pytest.mark.parametrize("shape", [(3,), (), (4, 2), (1,)])
def test_refused_where_it_meets_points_of_another_shape(shape, each):
    sampler = MetropolisAdjustedLangevin(HarmonicModel(), preconditioner=torch.ones(shape))
    with pytest.raises(ValueError, match=r"preconditioner has shape .*; expected \[2\], one number for each component"):
        sampler.sample(torch.zeros(4, 2), n_steps=1)


def test_refused_on_another_device():
    sampler = MetropolisAdjustedLangevin(HarmonicModel(), preconditioner=torch.ones(2))
    with pytest.raises(ValueError, match="preconditioner is on cpu, the chains on meta"):
        sampler.diagonal(torch.zeros(4, 2, device="meta"))
