"""Langevin dynamics: the bias that theory says it has, and what its options do."""

import math

import numpy as np
import pytest
import torch

from torchebm.core import EnergyModel, GaussianModel, HarmonicModel, SamplingDivergenceWarning, Target
from torchebm.samplers import LangevinDynamics
from torchebm.samplers.langevin import bounded

F64 = torch.float64
N = 40_000


@pytest.mark.parametrize("s", [0.5, 1.0])
@pytest.mark.parametrize(("h", "variance"), [(0.1, 1.0), (0.5, 1.0), (1.5, 1.0), (1.5, 4.0)])
def test_stationary_variance_of_a_gaussian(h, variance, s, generator, has_mean, agrees):
    """s²σ² / (1 - h / 2σ²), which the chain reaches from anywhere and then keeps. Fails below 1e-5."""
    exact = s**2 * variance / (1 - h / (2 * variance))
    sampler = LangevinDynamics(HarmonicModel(1 / variance), h, s)
    settled = torch.randn(N, 1, dtype=F64, generator=generator) * exact**0.5
    far = torch.full((N, 1), 3.0, dtype=F64)
    for x, n_steps in [(settled, 5), (far, 250)]:
        x = sampler.sample(x, n_steps=n_steps, generator=generator)
        has_mean(x, 0.0)
        has_mean(x.square(), exact)


@pytest.mark.parametrize("event", [(), (1, 4, 4)], ids=["scalar", "image"])
def test_a_skewed_density_within_standard_errors(event, gumbel, generator, has_mean):
    """Small steps from far away; the bias, of order h, is well below a standard error. Fails below 1e-5."""
    n = 4_000 // 16 if event else 4_000
    x = torch.full((n, *event), 3.0, dtype=F64)
    x = LangevinDynamics(gumbel, 0.01).sample(x, n_steps=1000, generator=generator)
    assert x.shape == (n, *event)
    has_mean(x, np.euler_gamma)
    has_mean((x - np.euler_gamma) ** 2, np.pi**2 / 6)


def test_one_temperature_a_chain(generator, has_mean):
    T, h = torch.tensor([0.5, 1.0, 2.5], dtype=F64).repeat(N // 3), 0.2
    sampler, target = LangevinDynamics(HarmonicModel(), h), Target(HarmonicModel())
    x = torch.randn(len(T), 1, dtype=F64, generator=generator)
    with torch.no_grad():
        state = sampler.advance(sampler.init(x, target, None), 0, 60, target=target, generator=generator, temperature=T)
    for temperature in (0.5, 1.0, 2.5):
        has_mean(state.x[temperature == T].square(), temperature / (1 - h / 2))


def test_noise_scale_is_the_root_of_a_temperature(seeded):
    x = torch.zeros(5, 2, dtype=F64)
    sampler, target = LangevinDynamics(HarmonicModel(), 0.2), Target(HarmonicModel())
    with torch.no_grad():
        state = sampler.advance(sampler.init(x, target, None), 0, 4, target=target, generator=seeded(), temperature=9.0)
    scaled = LangevinDynamics(HarmonicModel(), 0.2, noise_scale=3.0).sample(x, n_steps=4, generator=seeded())
    torch.testing.assert_close(state.x, scaled, rtol=1e-10, atol=0)


def test_without_noise_it_is_gradient_descent():
    model = GaussianModel(torch.tensor([3.0, -1.0]), torch.tensor([[2.0, 1.2], [1.2, 1.0]]))
    x = LangevinDynamics(model, 0.3, noise_scale=0.0).sample(torch.zeros(2, 2), n_steps=500)
    torch.testing.assert_close(x, torch.tensor([[3.0, -1.0]]).expand(2, 2), rtol=1e-4, atol=1e-4)


def test_clamp_holds_at_every_draw(generator):
    sampler = LangevinDynamics(HarmonicModel(), 0.5, clamp=(-0.25, 1))
    x = sampler.sample(torch.zeros(100, 2), n_steps=20, return_trajectory=True, generator=generator)
    assert x.min() == -0.25
    assert x.max() == 1.0


def test_gradient_clip_bounds_the_way_of_a_step():
    sampler = LangevinDynamics(EnergyModel(lambda x: 1e6 * x.square().sum(-1)), 0.1, noise_scale=0.0, gradient_clip=2.0)
    x = sampler.sample(torch.tensor([[5.0, -5.0]]), n_steps=3)
    torch.testing.assert_close(x, torch.tensor([[4.4, -4.4]]))


REFUSED = [
    ({"clamp": (2.0, 1.0)}, ValueError, "clamp must be .low, high. with low < high"),
    ({"clamp": (1.0, 1.0)}, ValueError, "clamp must be .low, high. with low < high"),
    ({"clamp": (float("nan"), 1.0)}, ValueError, "each bound of clamp must be finite"),
    ({"clamp": (0.0, float("inf"))}, ValueError, "each bound of clamp must be finite"),
    ({"clamp": (True, 2.0)}, TypeError, "each bound of clamp must be a number"),
    ({"clamp": (1.0,)}, TypeError, r"clamp must be \(low, high\), such as"),
    ({"clamp": 1.0}, TypeError, r"clamp must be \(low, high\), such as"),
    ({"gradient_clip": 0.0}, ValueError, "gradient_clip must be greater than 0"),
    ({"gradient_clip": float("nan")}, ValueError, "gradient_clip must be finite"),
    ({"gradient_clip": True}, TypeError, "gradient_clip must be a number"),
    ({"noise_scale": -0.1}, ValueError, "noise_scale must be at least 0"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=lambda o: str(o)[:30])
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        LangevinDynamics(HarmonicModel(), **options)


def test_bounds_do_not_hide_what_is_not_finite():
    t = torch.tensor([-math.inf, -2.0, -0.5, 2.0, math.inf, math.nan])
    expected = torch.tensor([math.nan, -1.0, -0.5, 1.0, math.nan, math.nan])
    torch.testing.assert_close(bounded(t, -1.0, 1.0), expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"clamp": (-5.0, 5.0)}, {"gradient_clip": 1.0}], ids=str)
def test_a_chain_that_diverges_inside_bounds_is_reported(options, generator):
    sampler = LangevinDynamics(lambda x: (x - x.log()).sum(-1), 0.3, **options)
    with pytest.warns(SamplingDivergenceWarning, match="of 100 chains diverged"):
        x = sampler.sample(torch.ones(100, 1), n_steps=50, generator=generator)
    assert x.isnan().any()


def test_every_parameter_may_differ_by_chain_and_follow_a_schedule():
    sampler = LangevinDynamics(lambda x: 0.5 * x.square().sum(-1), gradient_clip=lambda k: 10.0 / (k + 1))
    assert sampler.parameter_table(0, 2)["gradient_clip"] == [10.0, 5.0]
    sampler.gradient_clip = None
    assert sampler.gradient_clip is None
    target = Target(sampler.model)
    state = sampler.init(torch.ones(2, 2), target, None)
    new, _ = sampler.step(state, (torch.zeros(2, 2),), target, step_size=torch.tensor([0.1, 0.5]),
                          noise_scale=torch.tensor([1.0, 2.0]), gradient_clip=torch.tensor([9.0, 0.5]))  # fmt: skip
    assert new.x.tolist() == [[pytest.approx(0.9)] * 2, [pytest.approx(0.75)] * 2]
