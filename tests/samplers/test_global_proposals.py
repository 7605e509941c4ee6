"""Global proposals: the step written out, what they leave invariant, and what surrounds them."""

import numpy as np
import pytest
import torch

from torchebm.core import EnergyModel, GaussianMixtureModel, HarmonicModel
from torchebm.samplers import (
    GlobalProposals,
    HamiltonianMonteCarlo,
    LangevinDynamics,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    ParallelTempering,
    SamplingDivergenceWarning,
    StochasticGradientLangevin,
    UnderdampedLangevin,
)

F64 = torch.float64
INNER = {
    "langevin": lambda model: LangevinDynamics(model, 0.1),
    "mala": lambda model: MetropolisAdjustedLangevin(model, 0.3),
    "hmc": lambda model: HamiltonianMonteCarlo(model, 0.5, 3, jitter=0.5, path_jitter=0.0),
    "hmc, momentum kept": lambda model: HamiltonianMonteCarlo(model, 0.5, 2, path_jitter=0.0, momentum_refresh=0.3),
    "metropolis": lambda model: MetropolisHastings(model, 0.7),
    "underdamped": lambda model: UnderdampedLangevin(model, 0.5, metropolised=True),
}
every_inner = pytest.mark.parametrize("inner", INNER.values(), ids=INNER)


@every_inner
def test_a_step_written_out(inner, skewed, start, event, T, each, close):
    mean = torch.linspace(-0.5, 0.8, int(np.prod(event)), dtype=F64).view(event)
    local = inner(skewed)
    sampler = GlobalProposals(local, mean=mean, scale=1.7, n_proposals=3)
    target, state, (z, u, *inner_noise) = start(sampler, event)
    parameters = {name: values[0] for name, values in sampler.parameter_table(0, 1).items()}
    new, info = sampler.step(state, (z, u, *inner_noise), target, temperature=T, **parameters)
    x, rates = state.x.clone(), []
    for i in range(len(x)):
        t, rates_of_chain = each(T, i), []
        for k in range(3):
            there = mean + 1.7 * z[i, k]
            log_q = [-((y - mean) ** 2).sum() / (2 * 1.7**2) for y in (x[i], there)]
            log_ratio = (skewed.at(x[i]) - skewed.at(there)) / t + log_q[0] - log_q[1]
            rates_of_chain.append(log_ratio.exp().clamp(max=1))
            if 1 - u[i, k] < log_ratio.exp():
                x[i] = there
        rates.append(sum(rates_of_chain) / 3)
    moved = (x != state.x).reshape(len(x), -1).any(1)
    assert 0 < moved.sum() < len(x)
    close(info.global_acceptance_rate, torch.stack(rates))
    local_start = local.refresh(state._replace(x=x), target)
    expected, local_info = local.step(local_start, tuple(inner_noise), target, temperature=T, **parameters)
    for leaf, wanted in zip(new, expected, strict=True):
        close(leaf, wanted)
    assert torch.equal(info.diverging, local_info.diverging)


@pytest.mark.parametrize("scale", [0.7, 2.0, 10.0])
@pytest.mark.parametrize("inner", ["still", "mala", "hmc", "hmc, momentum kept", "metropolis", "underdamped"])
@pytest.mark.parametrize("n_steps", [1, 10])
def test_a_skewed_density_is_invariant(inner, scale, n_steps, gumbel, generator, agrees, has_mean):
    """Chains that start at exact draws end at exact draws; each comparison fails once in a million."""
    make = INNER.get(inner, lambda model: MetropolisHastings(model, 1e-9))  # global proposals alone
    sampler = GlobalProposals(make(gumbel), mean=torch.tensor(0.4, dtype=F64), scale=scale, n_proposals=2)
    x = gumbel.sample(20_000, generator=generator)
    y = sampler.sample(x, n_steps=n_steps, generator=generator)
    agrees(y, gumbel.cdf)
    has_mean(y, np.euler_gamma)
    has_mean(torch.exp(-y), 1.0)
    moved = (y - x).abs() > 1e-6
    assert moved.double().mean() > 0.1
    has_mean(y - x, 0.0)
    has_mean(torch.exp(-y) - torch.exp(-x), 0.0)


@every_inner
def test_modes_have_their_shares(inner, generator):
    """From one of two modes sixteen deviations apart; 4,000 independent chains, so 5 deviations are 0.037."""
    model = GaussianMixtureModel(means=[[-4.0], [4.0]], scales=0.5, weights=[0.3, 0.7])
    x = torch.full((4000, 1), 4.0)
    y = GlobalProposals(inner(model), scale=5.0, n_proposals=4).sample(x, n_steps=40, generator=generator)
    assert abs((y < 0).double().mean() - 0.3) < 0.037


def test_proposals_are_judged_by_all_of_the_data(generator, has_mean):
    """Beside a sampler that sees a minibatch, and hardly moves: what is left is the posterior, from all rows."""
    data = 1 + 3 * torch.randn(100, dtype=F64, generator=generator)

    def energy(x, batch):
        return (x / 2).square() / 2 + len(data) * ((x.unsqueeze(1) - batch) / 3).square().mean(1) / 2

    precision = 1 / 4 + len(data) / 9
    mean = float(data.sum()) / 9 / precision
    local = StochasticGradientLangevin(energy, 1e-9, data=data, batch_size=5)
    sampler = GlobalProposals(local, mean=torch.tensor(1.0, dtype=F64), scale=1.0, n_proposals=4)
    x = sampler.sample(torch.zeros(4000, dtype=F64), n_steps=25, generator=generator)
    has_mean(x, mean)
    has_mean((x - mean).square(), 1 / precision)


def test_what_is_not_finite_is_rejected_and_flagged(generator):
    def energy(x):
        return torch.where(x[:, 0] > -1.0, 0.5 * x.square().sum(1), torch.nan)

    sampler = GlobalProposals(energy, inner=MetropolisHastings, proposal_scale=1e-3, scale=2.0, n_proposals=4)
    trajectory, noted = sampler.sample(
        torch.zeros(200, 2), n_steps=20, return_trajectory=True, return_diagnostics=True, generator=generator
    )
    assert (trajectory[..., 0] > -1.0).all()
    assert 0.2 < noted["diverging"].double().mean() < 1.0
    assert 0.1 < noted["global_acceptance_rate"].mean() < 0.6


def test_a_stranded_chain_is_freed(generator):
    def energy(x):
        return torch.where(x.square().sum(1) < 25.0, 0.5 * x.square().sum(1), torch.inf)

    x = torch.zeros(100, 2)
    x[:50] = 100.0
    sampler = GlobalProposals(energy, inner=MetropolisHastings, proposal_scale=0.1, scale=2.0)
    with pytest.warns(SamplingDivergenceWarning, match="50 of 100 chains started where"):
        y = sampler.sample(x, n_steps=20, generator=generator)
    assert (y.norm(dim=1) < 5).all()


def test_a_warm_up_tunes_the_inner_sampler(generator):
    sampler = GlobalProposals(HarmonicModel(k=100.0, dim=2), step_size=5.0, n_leapfrog_steps=3, scale=0.2)
    sampler.warm_up(n_steps=300, n_samples=50, generator=generator)
    assert sampler.inner.step_size != 5.0
    assert sampler.tuning is sampler.inner.tuning is not None
    acceptance = sampler.sample(n_samples=200, n_steps=50, return_diagnostics=True, generator=generator)[1]
    assert 0.5 < acceptance["acceptance_rate"][:, 20:].mean() < 0.98


def test_it_is_saved_and_loaded():
    mean = torch.tensor([1.0, -2.0])
    sampler = GlobalProposals(HarmonicModel(dim=2), step_size=0.3, mean=mean, scale=2.5, n_proposals=3)
    other = GlobalProposals(HarmonicModel(dim=2), step_size=0.1)
    other.load_state_dict(sampler.state_dict())
    assert (other.inner.step_size, other.scale, other.n_proposals) == (0.3, 2.5, 3)
    assert torch.equal(other.mean, mean)
    with pytest.raises(ValueError, match="another kind of sampler"):
        other.load_state_dict(sampler.inner.state_dict())
    with pytest.raises(ValueError, match="this is a MetropolisHastings"):
        GlobalProposals(MetropolisHastings(HarmonicModel())).load_state_dict(sampler.state_dict())


def test_it_moves_replicas(generator):
    """5 deviations of 2,000 draws are 0.051."""
    model = GaussianMixtureModel(means=[[-4.0], [4.0]], scales=0.5, weights=[0.3, 0.7])
    inside = GlobalProposals(MetropolisAdjustedLangevin(model, 0.1), scale=5.0)
    sampler = ParallelTempering(inside, temperatures=[1.0, 4.0])
    x, noted = sampler.sample(torch.full((2000, 1), 4.0), n_steps=60, return_diagnostics=True, generator=generator)
    assert abs((x < 0).double().mean() - 0.3) < 0.051
    assert noted["global_acceptance_rate"].shape == noted["acceptance_rate"].shape == (2000, 60)


def test_refused():
    with pytest.raises(TypeError, match="the cold replica alone"):
        GlobalProposals(ParallelTempering(HarmonicModel(dim=2)))
    with pytest.raises(TypeError, match="MetropolisHastings is a sampler already: leave step_size, inner out"):
        GlobalProposals(MetropolisHastings(HarmonicModel()), inner=LangevinDynamics, step_size=0.1)
    with pytest.raises(TypeError, match="inner must be a class of samplers"):
        GlobalProposals(HarmonicModel(), inner="hmc")
    with pytest.raises(ValueError, match="MetropolisHastings has no momentum"):
        GlobalProposals(MetropolisHastings(HarmonicModel())).register_scheduler("momentum", 0.1)
    with pytest.raises(ValueError, match="mean must be finite"):
        GlobalProposals(HarmonicModel(), mean=torch.tensor([torch.nan]))
    sampler = GlobalProposals(EnergyModel(lambda x: x.square().sum(1)), mean=torch.zeros(3))
    with pytest.raises(ValueError, match=r"mean has shape \[3\]; expected \[2\]"):
        sampler.sample(torch.zeros(4, 2), n_steps=1)
