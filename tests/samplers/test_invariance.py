"""Exact samplers leave their density as it is: chains that start in it stay in it, at any step size, depth and length.

Chains start at exact, independent draws, so that after any number of transitions they are exact, independent draws.
Every comparison fails once in a million seeds or less; none of the tests makes more than ten.
"""

import numpy as np
import pytest
import scipy.stats
import torch

from torchebm.core import EnergyModel, GaussianMixtureModel, GaussianModel, Target
from torchebm.core.shapes import per_chain, sum_event
from torchebm.samplers import (
    BarkerProposal,
    ChEESHamiltonianMonteCarlo,
    HamiltonianMonteCarlo,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    MicrocanonicalLangevin,
    NoUTurnSampler,
    UnderdampedLangevin,
)

F64 = torch.float64
N = 40_000

SETTINGS = {
    "HMC, small steps": lambda model: HamiltonianMonteCarlo(model, 0.2, 3),
    "HMC, large steps": lambda model: HamiltonianMonteCarlo(model, 1.2, 3),
    "HMC, unstable steps": lambda model: HamiltonianMonteCarlo(model, 2.5, 4),
    "HMC, one step": lambda model: HamiltonianMonteCarlo(model, 0.9, 1),
    "HMC, heavy": lambda model: HamiltonianMonteCarlo(model, 1.5, 3, mass=2.5),
    "HMC, step sizes that vary": lambda model: HamiltonianMonteCarlo(model, 1.0, 3, jitter=0.5),
    "HMC, paths that vary": lambda model: HamiltonianMonteCarlo(model, 0.8, 5, path_jitter=0.8),
    "HMC, momentum kept": lambda model: HamiltonianMonteCarlo(model, 0.6, 2, momentum_refresh=0.1),
    "HMC, momentum kept, all that varies": lambda model: HamiltonianMonteCarlo(
        model, 1.2, 3, mass=2.5, jitter=0.3, path_jitter=0.5, momentum_refresh=0.3
    ),
    "ChEES": lambda model: ChEESHamiltonianMonteCarlo(model, 0.5, 2.0),
    "ChEES, unstable steps": lambda model: ChEESHamiltonianMonteCarlo(model, 2.5, 8.0, mass=0.7),
    "MH, small steps": lambda model: MetropolisHastings(model, 0.2),
    "MH, large steps": lambda model: MetropolisHastings(model, 2.0),
    "MH, far too large steps": lambda model: MetropolisHastings(model, 30.0),
    "MALA, small steps": lambda model: MetropolisAdjustedLangevin(model, 0.05),
    "MALA, large steps": lambda model: MetropolisAdjustedLangevin(model, 1.0),
    "MALA, far too large steps": lambda model: MetropolisAdjustedLangevin(model, 5.0),
    "Barker, small steps": lambda model: BarkerProposal(model, 0.2),
    "Barker, large steps": lambda model: BarkerProposal(model, 2.0),
    "Barker, far too large steps": lambda model: BarkerProposal(model, 30.0),
    "underdamped, small steps": lambda model: UnderdampedLangevin(model, 0.2, 1.0, metropolised=True),
    "underdamped, large steps": lambda model: UnderdampedLangevin(model, 1.0, 0.3, metropolised=True),
    "underdamped, unstable steps": lambda model: UnderdampedLangevin(model, 2.5, 0.5, metropolised=True),
    "underdamped, heavy": lambda model: UnderdampedLangevin(model, 1.5, 2.0, mass=2.5, metropolised=True),
    "NUTS, small steps": lambda model: NoUTurnSampler(model, 0.25),
    "NUTS, steps near one": lambda model: NoUTurnSampler(model, 0.8),
    "NUTS, large steps": lambda model: NoUTurnSampler(model, 1.4),
    "NUTS, unstable steps": lambda model: NoUTurnSampler(model, 2.6),
    "NUTS, one doubling": lambda model: NoUTurnSampler(model, 0.9, max_tree_depth=1),
    "NUTS, two doublings": lambda model: NoUTurnSampler(model, 0.5, max_tree_depth=2),
    "NUTS, two doublings, large steps": lambda model: NoUTurnSampler(model, 1.5, max_tree_depth=2),
    "NUTS, three doublings": lambda model: NoUTurnSampler(model, 0.3, max_tree_depth=3),
    "NUTS, heavy": lambda model: NoUTurnSampler(model, 1.2, mass=2.5),
    "microcanonical, small steps": lambda model: MicrocanonicalLangevin(model, 0.3, 1.0, metropolised=True),
    "microcanonical, large steps": lambda model: MicrocanonicalLangevin(model, 1.5, 2.0, metropolised=True),
    "microcanonical, far too large steps": lambda model: MicrocanonicalLangevin(model, 6.0, 10.0, metropolised=True),
    "microcanonical, one step": lambda model: MicrocanonicalLangevin(model, 1.0, 1.0, metropolised=True),
    "microcanonical, heavy": lambda model: MicrocanonicalLangevin(model, 1.2, 2.0, mass=2.5, metropolised=True),
}


@pytest.fixture(params=SETTINGS)
def setting(request):
    return request.param


@pytest.fixture
def make(setting):
    return SETTINGS[setting]


@pytest.fixture
def n(setting):
    """Chains: half as many where a transition takes many steps."""
    return N // 2 if setting.startswith("NUTS") else N


@pytest.fixture
def shape(setting, n):
    """Of independent numbers: scalar events, or pairs where there must be a direction."""
    return (n // 2, 2) if setting.startswith("microcanonical") else (n,)


@pytest.mark.parametrize("n_steps", [1, 20])
def test_gumbel(make, shape, n_steps, gumbel, generator, agrees, has_mean):
    x = gumbel.sample(*shape, generator=generator)
    y = make(gumbel).sample(x, n_steps=n_steps, generator=generator)
    agrees(y, gumbel.cdf)
    has_mean(y, np.euler_gamma)
    has_mean((y - np.euler_gamma) ** 2, np.pi**2 / 6)
    has_mean(torch.exp(-y), 1.0)
    moved = y != x
    assert moved.double().mean() > 0.005
    has_mean(y - x, 0.0)  # tests in pairs, sharper than the others where few or small moves were made
    has_mean(torch.exp(-y) - torch.exp(-x), 0.0)


@pytest.mark.parametrize("n_steps", [1, 20])
def test_gaussian_mixture(make, n, n_steps, generator, agrees):
    means, scales, weights = [[-1.5, 0.0], [1.0, 2.0]], [0.5, 1.2], [0.3, 0.7]
    model = GaussianMixtureModel(
        torch.tensor(means, dtype=F64), scales=torch.tensor(scales, dtype=F64), weights=weights
    )
    x = model.sample(n, generator=generator)
    y = make(model).sample(x, n_steps=n_steps, generator=generator)
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, -0.8]):

        def cdf(t, direction=direction):
            at = np.array(means) @ direction
            return sum(w * scipy.stats.norm.cdf((t - m) / s) for w, m, s in zip(weights, at, scales, strict=True))

        agrees(y @ torch.tensor(direction, dtype=F64), cdf)


def test_images(make, gumbel, generator, agrees, has_mean):
    x = gumbel.sample(N // 16, 1, 4, 4, generator=generator)
    y = make(gumbel).sample(x, n_steps=5, generator=generator)
    assert y.shape == x.shape
    agrees(y, gumbel.cdf)  # the pixels are independent
    has_mean(y.sum((1, 2, 3)), 16 * np.euler_gamma)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_space(make, shape, dtype, generator, agrees):
    """x - 2 log x, NaN below zero: a Gamma density against a wall."""
    x = torch.from_numpy(scipy.stats.gamma(3).ppf(torch.rand(shape, dtype=F64, generator=generator).numpy())).to(dtype)
    y = make(EnergyModel(lambda x: sum_event(x - 2 * x.log()))).sample(x, n_steps=20, generator=generator)
    assert (y > 0).all()
    agrees(y, scipy.stats.gamma(3).cdf)


def test_box(make, shape, generator, agrees):
    """A slope between two walls of infinite energy."""
    law = scipy.stats.truncexpon(1)
    x = torch.from_numpy(law.ppf(torch.rand(shape, dtype=F64, generator=generator).numpy()))
    model = EnergyModel(lambda x: sum_event(torch.where((x >= 0) & (x <= 1), x, torch.inf)))
    y = make(model).sample(x, n_steps=20, generator=generator)
    agrees(y, law.cdf)


def test_one_temperature_a_chain(make, shape, gumbel, generator, agrees):
    """At temperature T, exp(-x) / T follows a Gamma law of shape 1 / T."""
    T = torch.tensor([0.5, 1.0, 2.5], dtype=F64).repeat(shape[0] // 3)
    u, power = torch.rand(len(T), *shape[1:], dtype=F64, generator=generator), per_chain(1 / T, torch.empty(shape))
    x = -torch.log(torch.from_numpy(scipy.stats.gamma.ppf(u.numpy(), power.numpy())) / power)
    sampler, target = make(gumbel), Target(gumbel)
    state = sampler.init(x, target, generator)
    with torch.no_grad():
        y = sampler.advance(state, 0, 10, target=target, generator=generator, temperature=T).x
    for temperature in (0.5, 1.0, 2.5):
        agrees(torch.exp(-y[temperature == T]) / temperature, scipy.stats.gamma(1 / temperature).cdf)


MASSES = {
    "scalar": 0.3,
    "diagonal": torch.tensor([0.4, 4.0]),
    "dense": torch.linalg.inv(torch.tensor([[2.0, 1.2], [1.2, 1.0]])),
}


DEPTHS = {1: 1500, 3: 200, 10: 40}  # of trees, and transitions that bring chains from afar


@pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES)
@pytest.mark.parametrize("kind", ["HMC", *DEPTHS])
def test_correlated_gaussian(kind, mass, generator, has_mean):
    """From exact draws, and from far away."""
    cov = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=F64)
    model = GaussianModel(torch.tensor([3.0, -1.0]), cov)
    if kind == "HMC":
        sampler, n, n_far, way = HamiltonianMonteCarlo(model, 0.3, 6, mass=mass), N, N, 60
    else:
        sampler, n, n_far, way = NoUTurnSampler(model, 0.3, kind, mass), N // 2, N // 16, DEPTHS[kind]
    for x, n_steps in [(model.sample(n, generator=generator), 3), (torch.full((n_far, 2), 10.0, dtype=F64), way)]:
        y = sampler.sample(x, n_steps=n_steps, generator=generator) - model.mean
        has_mean(y[:, 0], 0)
        has_mean(y[:, 1], 0)
        for i, j in [(0, 0), (0, 1), (1, 1)]:
            has_mean(y[:, i] * y[:, j], float(cov[i, j]))


def test_deep_trees_over_many_scales(generator, agrees):
    """Scales from 0.1 to 10 and a step for the smallest: trees that the sub-tree checks of many levels end."""
    scale = torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0], dtype=F64)
    model = EnergyModel(lambda x: (x / scale + torch.exp(-x / scale)).sum(-1))
    u = torch.rand(2000, 5, dtype=F64, generator=generator)
    x = -scale * torch.log(-torch.log(u))
    y, noted = NoUTurnSampler(model, 0.1).sample(x, n_steps=2, return_diagnostics=True, generator=generator)
    assert noted["tree_depth"].max() >= 7
    for column in (y / scale).unbind(1):
        agrees(column, scipy.stats.gumbel_r.cdf)


def test_temperature_scales_the_density(make, gumbel, seeded):
    """At one temperature for all, the chains are those of the tempered energy."""
    x = gumbel.sample(50, 2, generator=seeded())
    sampler, tempered = make(gumbel), make(gumbel.tempered(2.0))
    target, own = Target(gumbel), Target(tempered.model)
    with torch.no_grad():
        one = sampler.advance(
            sampler.init(x, target, seeded(2)), 0, 5, target=target, generator=seeded(1), temperature=2.0
        ).x
        other = tempered.advance(tempered.init(x, own, seeded(2)), 0, 5, target=own, generator=seeded(1)).x
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
