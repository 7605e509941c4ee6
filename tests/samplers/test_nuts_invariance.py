"""The no-U-turn sampler leaves its density as it is: chains that start in it stay in it, at any step size and depth.

Chains start at exact, independent draws, so that after any number of transitions they are exact, independent draws.
Every comparison fails once in a million seeds or less; none of the tests makes more than ten.
"""

import numpy as np
import pytest
import scipy.stats
import torch

from torchebm.core import EnergyModel, GaussianMixtureModel, GaussianModel, Target
from torchebm.samplers import NoUTurnSampler

F64 = torch.float64
N = 20_000

SETTINGS = {
    "small steps": {"step_size": 0.25},
    "steps near one": {"step_size": 0.8},
    "large steps": {"step_size": 1.4},
    "unstable steps": {"step_size": 2.6},
    "one doubling": {"step_size": 0.9, "max_tree_depth": 1},
    "two doublings": {"step_size": 0.5, "max_tree_depth": 2},
    "two doublings, large steps": {"step_size": 1.5, "max_tree_depth": 2},
    "three doublings": {"step_size": 0.3, "max_tree_depth": 3},
    "heavy": {"step_size": 1.2, "mass": 2.5},
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def make(request):
    return lambda model: NoUTurnSampler(model, **request.param)


@pytest.mark.parametrize("n_steps", [1, 20])
def test_gumbel(make, n_steps, gumbel, generator, agrees, has_mean):
    x = gumbel.sample(N, generator=generator)  # scalar events
    y = make(gumbel).sample(x, n_steps=n_steps, generator=generator)
    agrees(y, gumbel.cdf)
    has_mean(y, np.euler_gamma)
    has_mean((y - np.euler_gamma) ** 2, np.pi**2 / 6)
    has_mean(torch.exp(-y), 1.0)
    assert (y != x).double().mean() > 0.3
    has_mean(y - x, 0.0)  # tests in pairs, sharper than the others where few or small moves were made
    has_mean(torch.exp(-y) - torch.exp(-x), 0.0)


@pytest.mark.parametrize("n_steps", [1, 20])
def test_gaussian_mixture(make, n_steps, generator, agrees):
    means, scales, weights = [[-1.5, 0.0], [1.0, 2.0]], [0.5, 1.2], [0.3, 0.7]
    model = GaussianMixtureModel(
        torch.tensor(means, dtype=F64), scales=torch.tensor(scales, dtype=F64), weights=weights
    )
    x = model.sample(N, generator=generator)
    y = make(model).sample(x, n_steps=n_steps, generator=generator)
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, -0.8]):

        def cdf(t, direction=direction):
            at = np.array(means) @ direction
            return sum(w * scipy.stats.norm.cdf((t - m) / s) for w, m, s in zip(weights, at, scales, strict=True))

        agrees(y @ torch.tensor(direction, dtype=F64), cdf)


def test_images(make, gumbel, generator, agrees, has_mean):
    x = gumbel.sample(N // 10, 1, 4, 4, generator=generator)
    y = make(gumbel).sample(x, n_steps=5, generator=generator)
    assert y.shape == x.shape
    agrees(y, gumbel.cdf)  # the pixels are independent
    has_mean(y.sum((1, 2, 3)), 16 * np.euler_gamma)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_space(make, dtype, generator, agrees):
    """x - 2 log x, NaN below zero: a Gamma density against a wall."""
    x = torch.from_numpy(scipy.stats.gamma(3).ppf(torch.rand(N, dtype=F64, generator=generator).numpy())).to(dtype)
    y = make(EnergyModel(lambda x: x - 2 * x.log())).sample(x, n_steps=20, generator=generator)
    assert (y > 0).all()
    agrees(y, scipy.stats.gamma(3).cdf)


def test_box(make, generator, agrees):
    """A slope between two walls of infinite energy."""
    law = scipy.stats.truncexpon(1)
    x = torch.from_numpy(law.ppf(torch.rand(N, dtype=F64, generator=generator).numpy()))
    model = EnergyModel(lambda x: torch.where((x >= 0) & (x <= 1), x, torch.inf))
    y = make(model).sample(x, n_steps=20, generator=generator)
    agrees(y, law.cdf)


def test_one_temperature_a_chain(make, gumbel, generator, agrees):
    """At temperature T, exp(-x) / T follows a Gamma law of shape 1 / T."""
    T = torch.tensor([0.5, 1.0, 2.5], dtype=F64).repeat(N // 3)
    u = torch.rand(len(T), dtype=F64, generator=generator)
    x = -torch.log(T * torch.from_numpy(scipy.stats.gamma.ppf(u.numpy(), 1 / T.numpy())))
    sampler, target = make(gumbel), Target(gumbel)
    state = sampler.init(x, target, generator)
    with torch.no_grad():
        y = sampler.advance(state, 0, 10, target=target, generator=generator, temperature=T).x
    for temperature in (0.5, 1.0, 2.5):
        agrees(torch.exp(-y[temperature == T]) / temperature, scipy.stats.gamma(1 / temperature).cdf)


def test_temperature_scales_the_density(make, gumbel, seeded):
    """At one temperature for all, the chains are those of the tempered energy."""
    x = gumbel.sample(50, generator=seeded())
    sampler, tempered = make(gumbel), make(gumbel.tempered(2.0))
    target, own = Target(gumbel), Target(tempered.model)
    with torch.no_grad():
        one = sampler.advance(
            sampler.init(x, target, None), 0, 5, target=target, generator=seeded(1), temperature=2.0
        ).x
        other = tempered.advance(tempered.init(x, own, None), 0, 5, target=own, generator=seeded(1)).x
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


MASSES = {
    "scalar": 0.3,
    "diagonal": torch.tensor([0.4, 4.0]),
    "dense": torch.linalg.inv(torch.tensor([[2.0, 1.2], [1.2, 1.0]])),
}


@pytest.mark.parametrize("max_tree_depth", [1, 3, 10])
@pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES)
def test_correlated_gaussian(mass, max_tree_depth, generator, has_mean):
    cov = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=F64)
    model = GaussianModel(torch.tensor([3.0, -1.0]), cov)
    sampler = NoUTurnSampler(model, 0.3, max_tree_depth, mass=mass)
    x = model.sample(N, generator=generator)
    far = torch.full((N // 8, 2), 10.0, dtype=F64)
    for start, n_steps in [(x, 3), (far, {1: 1500, 3: 200, 10: 40}[max_tree_depth])]:
        y = sampler.sample(start, n_steps=n_steps, generator=generator) - model.mean
        has_mean(y[:, 0], 0)
        has_mean(y[:, 1], 0)
        for i, j in [(0, 0), (0, 1), (1, 1)]:
            has_mean(y[:, i] * y[:, j], float(cov[i, j]))


def test_more_dimensions_than_one_scale(generator, agrees):
    """Scales from 0.1 to 10 and a step for the smallest: deep trees, ended by the sub-tree checks of many levels."""
    scale = torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0], dtype=F64)
    model = EnergyModel(lambda x: (x / scale + torch.exp(-x / scale)).sum(-1))
    u = torch.rand(2000, 5, dtype=F64, generator=generator)
    x = -scale * torch.log(-torch.log(u))
    y, noted = NoUTurnSampler(model, 0.1).sample(x, n_steps=2, return_diagnostics=True, generator=generator)
    assert noted["tree_depth"].max() >= 7
    for column in (y / scale).unbind(1):
        agrees(column, scipy.stats.gumbel_r.cdf)
