"""Descent: its formulas, where it ends, how fast, and that it draws nothing."""

import pytest
import torch

from torchebm.core import EnergyModel, GaussianModel, HarmonicModel, SamplingDivergenceWarning, Target
from torchebm.samplers import GradientDescent, LangevinDynamics, NesterovDescent

F64 = torch.float64
N = 10
BOTH = pytest.mark.parametrize("cls", [GradientDescent, NesterovDescent])


@pytest.mark.parametrize("h", [0.3, torch.linspace(0.1, 0.5, N, dtype=F64)], ids=["one h", "h a chain"])
def test_one_step_of_gradient_descent(event, h, skewed, close, generator):
    sampler, x = GradientDescent(skewed), torch.randn(N, *event, dtype=F64, generator=generator)
    target = Target(sampler.model)
    new, info = sampler.step(sampler.init(x, target, None), (), target, step_size=h)
    for i in range(N):
        close(new.x[i], x[i] - (h if isinstance(h, float) else h[i]) * skewed.slope(x[i]))
    assert not info.diverging.any()


def test_three_steps_of_nesterov_descent(event, skewed, close, generator):
    x = torch.randn(N, *event, dtype=F64, generator=generator)
    sampler = NesterovDescent(skewed, step_size=lambda k: 0.3 / (1 + k), momentum=lambda k: (k + 1) / (k + 4))
    y = sampler.sample(x, n_steps=3)
    for i in range(N):
        z, v = x[i], torch.zeros(event, dtype=F64)
        for k in range(3):
            h, mu = 0.3 / (1 + k), (k + 1) / (k + 4)
            v = mu * v - h * skewed.slope(z + mu * v)
            z = z + v
        close(y[i], z)


def test_without_momentum_it_is_gradient_descent_which_is_langevin_without_noise(skewed, close, generator):
    x = torch.randn(N, 2, dtype=F64, generator=generator)
    one = GradientDescent(skewed, 0.2).sample(x, n_steps=7)
    close(NesterovDescent(skewed, 0.2, momentum=0.0).sample(x, n_steps=7), one)
    close(LangevinDynamics(skewed, 0.2, noise_scale=0.0).sample(x, n_steps=7), one)


@BOTH
def test_ends_at_the_mode(cls):
    model = GaussianModel(torch.tensor([3.0, -1.0]), torch.tensor([[2.0, 1.2], [1.2, 1.0]]))
    x = cls(model, 0.2).sample(torch.zeros(2, 2, dtype=F64), n_steps=1000)
    torch.testing.assert_close(x, torch.tensor([[3.0, -1.0]], dtype=F64).expand(2, 2), rtol=1e-6, atol=1e-6)


@BOTH
def test_each_chain_ends_in_the_basin_it_starts_in(cls, close):
    model = EnergyModel(lambda x: 2 * (x * x - 1).square().sum(-1))
    x = torch.tensor([[-1.4], [-0.6], [0.6], [1.4]], dtype=F64)
    options = {"momentum": 0.3} if cls is NesterovDescent else {}
    close(cls(model, 0.02, **options).sample(x, n_steps=600), x.sign())


def test_the_rate_on_a_quadratic(close):
    """Gradient descent loses the factor 1 - hk a step; with momentum it is the largest root of a quadratic equation."""
    k, h, x = 0.01, 1.0, torch.ones(1, 1, dtype=F64)
    close(GradientDescent(HarmonicModel(k), h).sample(x, n_steps=50), x * (1 - h * k) ** 50)
    best = (1 - (h * k) ** 0.5) / (1 + (h * k) ** 0.5)
    trajectory = NesterovDescent(HarmonicModel(k), h, best).sample(x, n_steps=400, return_trajectory=True).flatten()
    rate = float((trajectory[399] / trajectory[199]) ** (1 / 200))
    assert abs(rate - (1 - (h * k) ** 0.5)) < 0.01  # 0.9 instead of 0.99
    assert trajectory[100].abs() < 1e-2 * (1 - h * k) ** 100


@BOTH
def test_nothing_is_drawn(cls, seeded, skewed):
    generator = seeded()
    before = generator.get_state()
    x = cls(skewed, 0.1).sample(torch.ones(3, 2), n_steps=5, generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(x, cls(skewed, 0.1).sample(torch.ones(3, 2), n_steps=5, generator=seeded(1)))


@BOTH
def test_a_temperature_changes_nothing(cls, skewed):
    sampler, target, x = cls(skewed, 0.1), Target(skewed), torch.ones(3, 2)
    ends = [
        sampler.advance(sampler.init(x, target, None), 0, 5, target=target, temperature=temperature).x
        for temperature in (1.0, 7.0, torch.tensor([1.0, 2.0, 3.0]))
    ]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


@BOTH
def test_steps_beyond_the_stable_ones_are_reported(cls):
    with pytest.warns(SamplingDivergenceWarning, match="3 of 3 chains diverged.* a smaller step_size"):
        x = cls(HarmonicModel(), 3.0).sample(torch.ones(3, 1), n_steps=500)
    assert not x.isfinite().any()


@pytest.mark.parametrize(("momentum", "match"), [(1.5, "at most 1; got 1.5"), (-0.1, "at least 0; got -0.1")])
def test_refused_as_momentum(momentum, match):
    with pytest.raises(ValueError, match=f"momentum must be {match}"):
        NesterovDescent(HarmonicModel(), momentum=momentum)
    with pytest.raises(ValueError, match=f"momentum must be {match}"):
        NesterovDescent(HarmonicModel(), momentum=lambda k: momentum if k else 0.5).sample(dim=1, n_steps=2)
