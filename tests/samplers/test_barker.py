"""The Barker proposal: its formula, its balance, and how little a wrong step size costs.

That it leaves densities as they are is in `test_invariance.py`.
"""

import math

import pytest
import torch

from torchebm.core import EnergyModel, Target
from torchebm.samplers import BarkerProposal, MetropolisAdjustedLangevin

F64 = torch.float64
N = 40
S = 0.9


@pytest.fixture
def log_q(skewed):
    """`log_q(there, here, s, T)`: logarithm of the density of proposing `there` from `here`.

    Twice a normal one, times the chance of its sign.
    """

    def density(there, here, s, T):
        step = there - here
        normal = torch.distributions.Normal(0, s).log_prob(step)
        return (math.log(2) + normal - torch.log(1 + torch.exp(step * skewed.slope(here) / T))).sum()

    return density


@pytest.mark.parametrize("s", [S, torch.linspace(0.2, 3.0, N, dtype=F64)], ids=["one step size", "a chain"])
def test_one_step(event, T, s, skewed, close, each, start, log_q):
    sampler = BarkerProposal(skewed)
    target, state, (xi, v, u) = start(sampler, event)
    u[: N // 2] = 0.0  # so that some are rejected
    new, info = sampler.step(state, (xi, v, u), target, temperature=T, step_size=s)
    decisions, turned = [], []
    for i in range(N):
        x, t, k = state.x[i], each(T, i), each(s, i)
        keep = v[i] < 1 / (1 + torch.exp(k * xi[i] * skewed.slope(x) / t))
        turned.append(~keep.flatten())
        y = x + (2 * keep.double() - 1) * k * xi[i]
        log_ratio = (skewed.at(x) - skewed.at(y)) / t + log_q(x, y, k, t) - log_q(y, x, k, t)
        close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1))
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        y = y if decisions[-1] else x
        close(new.x[i], y)
        close(new.energy[i], skewed.at(y))
        close(new.gradient[i], skewed.slope(y))
    assert 0 < sum(decisions) < N
    assert 0 < torch.cat(turned).double().mean() < 1


def test_detailed_balance(skewed, close, start, log_q):
    sampler = BarkerProposal(skewed)
    target, state, (xi, v, _) = start(sampler, (3,))
    surely, kept = torch.full((N,), 1 - 1e-16, dtype=F64), torch.zeros_like(v)
    there, info = sampler.step(state, (xi, v, surely), target, step_size=S)
    back, info_back = sampler.step(there, ((state.x - there.x) / S, kept, surely), target, step_size=S)
    close(back.x, state.x)
    assert 0 < (info.acceptance_rate < 1).sum() < N
    for i in range(N):
        x, y = state.x[i], there.x[i]
        one = -skewed.at(x) + log_q(y, x, S, 1.0) + info.acceptance_rate[i].log()
        close(one, -skewed.at(y) + log_q(x, y, S, 1.0) + info_back.acceptance_rate[i].log())


def test_a_step_turns_downhill_as_often_as_the_slope_says(close, generator):
    """Its mean is E[z tanh(-z g / 2)]; fails below 1e-6. Components turn on their own."""
    slope, n = torch.tensor([2.0, -0.5], dtype=F64), 200_000
    sampler, x = BarkerProposal(EnergyModel(lambda x: x @ slope)), torch.zeros(n, 2, dtype=F64)
    target = Target(sampler.model)
    xi, v, u = (buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw((xi, v, u), generator)
    new, info = sampler.step(sampler.init(x, target, None), (xi, v, torch.full_like(u, 1 - 1e-16)), target, step_size=S)
    z = torch.linspace(-8, 8, 4001, dtype=F64)
    normal = torch.distributions.Normal(0, 1).log_prob(z).exp() * (z[1] - z[0])
    for i in range(2):
        mean = (normal * S * z * torch.tanh(-S * z * slope[i] / 2)).sum()
        assert abs(new.x[:, i].mean() - mean) < 5 * new.x[:, i].std() / n**0.5
    assert abs((new.x.sign() * xi.sign()).prod(1).mean()) < 1
    close(info.acceptance_rate, torch.ones(n, dtype=F64))  # on a plane every move is balanced by itself


def test_rejections_vanish_with_the_cube_of_the_step_size(gumbel, generator):
    x = gumbel.sample(20_000, generator=generator)
    sampler, target = BarkerProposal(gumbel), Target(gumbel)
    state = sampler.init(x, target, None)
    xi, v = torch.randn(len(x), dtype=F64, generator=generator), torch.rand(len(x), dtype=F64, generator=generator)
    rejected = [
        float(1 - sampler.step(state, (xi, v, torch.zeros_like(v)), target, step_size=s)[1].acceptance_rate.mean())
        for s in (0.05, 0.1)
    ]
    assert abs(math.log2(rejected[1] / rejected[0]) - 3) < 0.2


def test_slopes_of_any_size_leave_the_ratio_finite(generator):
    """At 1e15 a logarithm of a sum of exponentials would overflow, and a clamped one would lie."""
    x = torch.tensor([[1e3], [-1e3], [1e-3]])
    sampler = BarkerProposal(lambda x: 1e6 * x.pow(4).sum(-1))
    _, noted = sampler.sample(x, n_steps=50, generator=generator, return_diagnostics=True)
    assert not noted["diverging"].any()
    assert (noted["energy"][:2, -1] < noted["energy"][:2, 0]).all()


def test_light_tails_stop_langevin_proposals_and_not_these(seeded):
    x = torch.full((200, 1), 10.0)
    quartic = EnergyModel(lambda x: x.pow(4).sum(-1))
    arrived = BarkerProposal(quartic, 1.0).sample(x, n_steps=100, generator=seeded())
    assert (arrived.abs() < 3).all()
    assert torch.equal(MetropolisAdjustedLangevin(quartic, 0.5).sample(x, n_steps=100, generator=seeded()), x)


def test_a_scale_that_is_a_hundred_times_too_large_for_one_component_costs_little(generator):
    """Where one component is 100 times narrower, the others go on at a fraction of their pace, and do not stop."""
    sd = torch.tensor([0.01, 1.0], dtype=F64)
    model = EnergyModel(lambda x: 0.5 * (x / sd).square().sum(-1))
    x = sd * torch.randn(500, 2, dtype=F64, generator=generator)
    rates = {
        cls: cls(model, step).sample(x, n_steps=50, generator=generator, return_diagnostics=True)[1]["acceptance_rate"]
        for cls, step in ((BarkerProposal, 0.1), (MetropolisAdjustedLangevin, 0.005))  # steps of one size, 0.1
    }
    assert rates[BarkerProposal].mean() > 20 * rates[MetropolisAdjustedLangevin].mean() > 0


def test_every_sign_and_the_accept_test_have_a_uniform_of_their_own(skewed, generator):
    """Fails once in 100,000 seeds."""
    n = 20_000
    sampler = BarkerProposal(skewed)
    xi, v, u = (buffer[0] for buffer in sampler.noise(torch.zeros(n, 2, dtype=F64), 1))
    sampler.draw((xi, v, u), generator)
    correlations = torch.corrcoef(torch.cat([xi, v, u.unsqueeze(1)], 1).T) - torch.eye(5, dtype=F64)
    assert correlations.abs().max() < 5.5 / n**0.5
