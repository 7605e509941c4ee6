"""Parameters and data drawn together: exact samplers keep their joint law while each is renewed given the other.

Parameters come from the prior, data from the parameters. Then rounds of a transition given the data, and new data
given the parameters, leave the pair distributed as it was (Geweke 2004, https://doi.org/10.1198/016214504000001132),
and as chains are independent, what is left is an exact test (Gandy & Scott 2020, https://arxiv.org/abs/2001.06465).
Every chain has data of its own, through `model_kwargs`, so that conditions and the refreshed caches of a changed target
are tested as well.
"""

import numpy as np
import pytest
import scipy.stats
import torch

from torchebm.core import BaseModel, Target
from torchebm.samplers import HamiltonianMonteCarlo, MetropolisHastings, NoUTurnSampler, ParallelTempering

F64 = torch.float64
N = 20_000  # chains
SIZE = 4  # observations of each
SHAPE, RATE, KAPPA, CENTRE = 3.0, 2.0, 0.5, 0.5  # of the prior


def holds(**p_values):
    """All of them together: fails once in a million seeds."""
    worst = min(p_values, key=p_values.get)
    assert p_values[worst] * len(p_values) > 1e-6, f"{worst}: p = {p_values[worst]:.1e}"


class NormalGamma(BaseModel):
    """precision ~ Gamma(3, 2), mean ~ Normal(½, 2 / precision), y ~ Normal(mean, 1 / precision).

    x = (mean, log precision); the logarithm brings its Jacobian, the precision itself.
    """

    event_shape = torch.Size([2])

    def forward(self, x, y):
        mean, log_precision = x.unbind(1)
        residuals = (y - mean.unsqueeze(1)).square().sum(1) + KAPPA * (mean - CENTRE) ** 2
        return log_precision.exp() * (RATE + 0.5 * residuals) - (SHAPE + 0.5 + 0.5 * SIZE) * log_precision


def prior(generator):
    u = torch.rand(N, dtype=F64, generator=generator).numpy()
    precision = torch.from_numpy(scipy.stats.gamma.ppf(u, SHAPE, scale=1 / RATE))
    mean = CENTRE + torch.randn(N, dtype=F64, generator=generator) / (KAPPA * precision).sqrt()
    return torch.stack([mean, precision.log()], 1)


def data(x, generator):
    mean, log_precision = x.unbind(1)
    noise = torch.randn(N, SIZE, dtype=F64, generator=generator)
    return mean.unsqueeze(1) + noise * (-0.5 * log_precision).exp().unsqueeze(1)


def pivots(x, y):
    """Two numbers a chain that are uniform, and independent of each other and of y, if x follows the posterior."""
    (mean, precision), y = (x[:, 0].numpy(), x[:, 1].exp().numpy()), y.numpy()
    kappa, average = KAPPA + SIZE, y.mean(1)
    rate = RATE + 0.5 * y.var(1) * SIZE + 0.5 * KAPPA * SIZE * (average - CENTRE) ** 2 / kappa
    centre = (KAPPA * CENTRE + SIZE * average) / kappa
    return (
        scipy.stats.gamma.cdf(precision, SHAPE + 0.5 * SIZE, scale=1 / rate),
        scipy.stats.norm.cdf((mean - centre) * np.sqrt(kappa * precision)),
    )


def p_uniform(u):
    return scipy.stats.kstest(u, "uniform").pvalue


def p_independent(one, other):
    return scipy.stats.spearmanr(one, other).pvalue


def check(x, y):
    u, v = pivots(x, y)
    average, spread = y.mean(1).numpy(), y.var(1).numpy()
    student = scipy.stats.t(2 * SHAPE, loc=CENTRE, scale=(RATE / (SHAPE * KAPPA)) ** 0.5)
    holds(
        precision_given_data=p_uniform(u),
        mean_given_both=p_uniform(v),
        precision=p_uniform(scipy.stats.gamma.cdf(x[:, 1].exp().numpy(), SHAPE, scale=1 / RATE)),
        mean=p_uniform(student.cdf(x[:, 0].numpy())),
        between_pivots=p_independent(u, v),
        precision_and_average=p_independent(u, average),
        precision_and_spread=p_independent(u, spread),
        mean_and_average=p_independent(v, average),
        mean_and_spread=p_independent(v, spread),
    )


def test_the_law_is_the_one_that_the_test_takes_it_for(generator):
    x = prior(generator)
    check(x, data(x, generator))


def keeps_the_joint_law(sampler, generator):
    """20 rounds, of which each continues the state of the last under the new data."""
    start = x = prior(generator)
    given = {"x": x}
    for _ in range(20):
        y = data(x, generator)
        x, state = sampler.sample(**given, n_steps=1, model_kwargs={"y": y}, generator=generator, return_state=True)
        given = {"state": state}
    assert (x != start).any(1).double().mean() > 0.1
    check(x, y)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.0], ids=["small steps", "usual steps", "large steps"])
def test_parameters_and_data_keep_their_joint_law(exact, scale, generator):
    sampler = exact.make(NormalGamma(), **{exact.positive: scale * exact.parameters[exact.positive]})
    keeps_the_joint_law(sampler, generator)


@pytest.mark.parametrize("step_size", [0.3, 0.6])
def test_deep_trees_do_too(step_size, generator):
    keeps_the_joint_law(NoUTurnSampler(NormalGamma(), step_size), generator)


def test_a_posterior_with_the_wrong_data_is_found_out(generator):
    """The test is not blind: chains that see their neighbour's data fail it."""
    x = prior(generator)
    y = data(x, generator)
    x = MetropolisHastings(NormalGamma(), 0.5).sample(
        x, n_steps=50, model_kwargs={"y": y.roll(1, 0)}, generator=generator
    )
    with pytest.raises(AssertionError, match="p = "):
        check(x, y)


INNER = {
    "MH": lambda model: MetropolisHastings(model, 1.0),
    "HMC": lambda model: HamiltonianMonteCarlo(model, 0.6, 3),
    "NUTS": lambda model: NoUTurnSampler(model, 0.6, max_tree_depth=2),
}


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_replicas_at_all_temperatures_keep_theirs(inner, generator):
    """y ~ Normal(x, 1), x ~ Normal(0, 1): at temperature T the posterior is Normal(y / 2, T / 2)."""

    class Location(BaseModel):
        def forward(self, x, y):
            return 0.5 * x.square() + 0.5 * (y - x).square()

    ladder = torch.tensor([1.0, 2.0, 6.0], dtype=F64)
    cold = torch.randn(N, dtype=F64, generator=generator)
    y = cold + torch.randn(N, dtype=F64, generator=generator)
    replicas = y.unsqueeze(1) / 2 + (ladder / 2).sqrt() * torch.randn(N, 3, dtype=F64, generator=generator)
    replicas[:, 0] = cold
    model = Location()
    sampler, target = ParallelTempering(inner(model), temperatures=ladder.tolist()), Target(model, {"y": y})
    state = sampler.init(cold, target, generator)
    state = sampler.refresh(state._replace(x=cold, replica_x=replicas), target)
    with torch.no_grad():
        end = sampler.advance(state, 0, 6, target=target, generator=generator)
    u = scipy.stats.norm.cdf(((end.replica_x - y.unsqueeze(1) / 2) / (ladder / 2).sqrt()).numpy())
    holds(
        cold=scipy.stats.kstest(end.x.numpy(), "norm").pvalue,
        **{f"replica_{r}": p_uniform(u[:, r]) for r in range(3)},
        **{f"replica_{r}_and_data": p_independent(u[:, r], y.numpy()) for r in range(3)},
        **{f"replicas_{i}_{j}": p_independent(u[:, i], u[:, j]) for i, j in [(0, 1), (1, 2), (0, 2)]},
    )
