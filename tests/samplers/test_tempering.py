"""Parallel tempering: the swap written out, the law of every replica, round trips, and the tuning of the ladder.

Comparisons of laws fail once in a million seeds or less, by `agrees` and `has_mean`.
"""

import pickle

import numpy as np
import pytest
import scipy.stats
import torch

from torchebm.core import BaseModel, EnergyModel, GaussianMixtureModel, HarmonicModel, Target
from torchebm.samplers import (
    BarkerProposal,
    HamiltonianMonteCarlo,
    LangevinDynamics,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    NoUTurnSampler,
    UnderdampedLangevin,
)
from torchebm.samplers.ladder import equal_rates
from torchebm.samplers.replicas import ReplicaTarget, swaps
from torchebm.samplers.tempering import ParallelTempering

F64 = torch.float64
LADDER = [1.0, 1.7, 4.0]
EVENTS = {"vector": (2,), "image": (1, 2, 2), "scalar": ()}


class Skewed(BaseModel):
    """E = sum(x + exp(-x)) + (sum x)² / 20."""

    def forward(self, x):
        x = x.reshape(len(x), -1)
        return (x + torch.exp(-x)).sum(1) + x.sum(1).square() / 20


def E(x):
    return float((x + torch.exp(-x)).sum() + x.sum() ** 2 / 20)


def at(sampler, replicas, target):
    """A state with each replica where it is told to be."""
    state = sampler.init(replicas[:, 0], target, torch.Generator().manual_seed(12345))
    return sampler.refresh(state._replace(x=replicas[:, 0], replica_x=replicas), target)


def noise_for(sampler, x, generator):
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, generator)
    return noise


# formulas -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, torch.linspace(0.5, 3.0, 30, dtype=F64)], ids=["1", "2", "chain"])
@pytest.mark.parametrize("time", [0, 1])
def test_a_transition_written_out(event, temperature, time, generator):
    ladder = [1.0, 1.5, 2.5, 6.0]
    sampler = ParallelTempering(Skewed(), inner=MetropolisHastings, proposal_scale=0.7, temperatures=ladder)
    target, n = Target(sampler.model), 30
    start = at(sampler, torch.randn(n, 4, *event, dtype=F64, generator=generator), target)
    start = start._replace(time=start.time + time)
    xi, u, v = noise_for(sampler, start.x, generator)
    new, info = sampler.step(start, (xi, u, v), target, temperature=temperature, proposal_scale=0.7)
    n_swapped = 0
    for c in range(n):
        T = [t * float(temperature[c] if isinstance(temperature, torch.Tensor) else temperature) for t in ladder]
        x = list(start.replica_x[c])
        for r in range(4):
            y = x[r] + 0.7 * xi[c, r]
            ratio = np.exp((E(x[r]) - E(y)) / T[r])
            if r == 0:
                assert float(info.acceptance_rate[c]) == pytest.approx(min(1, ratio), rel=1e-10)
            if 1 - float(u[c, r]) < ratio:
                x[r] = y
        for i in range(time, 3, 2):
            ratio = np.exp((1 / T[i] - 1 / T[i + 1]) * (E(x[i]) - E(x[i + 1])))
            assert float(info.swap_rate[c, i]) == pytest.approx(min(1, ratio), rel=1e-10)
            if 1 - float(v[c, i]) < ratio:
                x[i], x[i + 1], n_swapped = x[i + 1], x[i], n_swapped + 1
        torch.testing.assert_close(new.replica_x[c], torch.stack(x), rtol=1e-10, atol=1e-12)
        energies = torch.tensor([E(y) for y in x], dtype=F64)
        torch.testing.assert_close(new.replica_energy[c], energies, rtol=1e-10, atol=1e-12)
    assert 0 < n_swapped < n * (2 - time)
    assert torch.equal(new.x, new.replica_x[:, 0])
    assert torch.equal(new.energy, new.replica_energy[:, 0])
    turns = torch.tensor([pair % 2 == time for pair in range(3)])
    assert torch.equal(~info.swap_rate.isnan(), turns.expand(n, 3))


@pytest.mark.parametrize("inner", [LangevinDynamics, HamiltonianMonteCarlo, UnderdampedLangevin])
def test_replicas_move_as_the_inner_sampler_would_and_whole_states_are_swapped(inner, generator):
    sampler = ParallelTempering(Skewed(), inner=inner, step_size=0.3, temperatures=LADDER)
    target, n = Target(sampler.model), 20
    start = at(sampler, torch.randn(n, 3, 2, dtype=F64, generator=generator), target)
    *noise, v = noise_for(sampler, start.x, generator)
    parameters = {name: values[0] for name, values in sampler.parameter_table(0, 1).items()}
    new, _ = sampler.step(start, (*noise, v), target, **parameters)
    names = type(start).inner._fields
    moved = []
    for r, T in enumerate(LADDER):
        state = type(start).inner(*(getattr(start, f"replica_{name}")[:, r] for name in names))
        moved.append(sampler.inner.step(state, tuple(z[:, r] for z in noise), target, temperature=T, **parameters)[0])
    energy = torch.stack([target.energy(state.x) for state in moved], 1)
    swapped = torch.log1p(-v[:, 0]) < (1 - 1 / LADDER[1]) * (energy[:, 0] - energy[:, 1])
    assert 0 < swapped.sum() < n
    for k, name in enumerate(names):
        cold, warm, hot = (state[k] for state in moved)
        leaf, mask = getattr(new, f"replica_{name}"), swapped.view(-1, *[1] * (cold.ndim - 1))
        torch.testing.assert_close(leaf[:, 0], torch.where(mask, warm, cold), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(leaf[:, 1], torch.where(mask, cold, warm), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(leaf[:, 2], hot, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("swap_every", "expected"), [(1, "eoeoeoeo"), (2, "-e-o-e-o"), (3, "--e--o--")])
def test_even_and_odd_pairs_take_turns_also_when_a_run_is_continued(swap_every, expected, generator):
    seen = []

    class Spied(ParallelTempering):
        def step(self, *args, **options):
            state, info = super().step(*args, **options)
            seen.append(~info.swap_rate.isnan())
            return state, info

    ladder = [1.0, 1.5, 2.0, 3.0, 4.0]
    sampler = Spied(HarmonicModel(), inner=MetropolisHastings, temperatures=ladder, swap_every=swap_every)
    _, state = sampler.sample(torch.zeros(2, 1), n_steps=3, generator=generator, return_state=True)
    sampler.sample(state=state, n_steps=5, generator=generator)
    pairs = {"e": [True, False, True, False], "o": [False, True, False, True], "-": [False] * 4}
    assert [tried.tolist() for tried in seen] == [[pairs[turn]] * 2 for turn in expected]


def test_an_energy_that_is_not_finite_is_never_swapped_into_the_cold_chain():
    inf, nan = float("inf"), float("nan")
    energy = torch.tensor([[0.0, inf], [0.0, nan], [0.0, -inf], [inf, 0.0], [nan, 0.0], [nan, nan], [1e30, 0.0]])
    swapped, rate = swaps(energy, torch.tensor([[1.0, 2.0]]).expand(7, 2), torch.zeros(7, 1))
    assert swapped.flatten().tolist() == [False, False, False, True, True, False, True]
    assert rate.flatten().tolist() == [0, 0, 0, 1, 1, 0, 1]


def test_swaps_are_decided_in_float32_at_least():
    energy = torch.tensor([[1001.0, 1000.0]], dtype=torch.float32)
    _, rate = swaps(energy, torch.tensor([[2.0, 4.0]], dtype=torch.bfloat16), torch.zeros(1, 1))
    assert rate.dtype == torch.float32
    _, rate = swaps(energy.flip(1), torch.tensor([[2.0, 4.0]], dtype=torch.bfloat16), torch.zeros(1, 1))
    assert rate.item() == pytest.approx(np.exp(-0.25), rel=1e-6)


# invariance -----------------------------------------------------------------------------------------------------------

INNER = {
    "HMC": lambda model: HamiltonianMonteCarlo(model, 0.5, 3),
    "HMC, too large steps": lambda model: HamiltonianMonteCarlo(model, 2.5, 3),
    "MH": lambda model: MetropolisHastings(model, 1.5),
    "MH, far too large steps": lambda model: MetropolisHastings(model, 30.0),
    "MALA": lambda model: MetropolisAdjustedLangevin(model, 0.5),
    "Barker": lambda model: BarkerProposal(model, 1.0),
    "NUTS": lambda model: NoUTurnSampler(model, 0.5, max_tree_depth=3),
    "underdamped": lambda model: UnderdampedLangevin(model, 0.5, metropolised=True),
}


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
@pytest.mark.parametrize("n_steps", [1, 20])
def test_exact_draws_of_a_skewed_density_stay_so_at_all_temperatures(
    inner, n_steps, gumbel, generator, agrees, has_mean
):
    """At temperature T, exp(-x) / T follows a Gamma law of shape 1 / T."""
    T = torch.tensor(LADDER, dtype=F64)
    u = torch.rand(6000, 3, dtype=F64, generator=generator)
    x = -torch.log(T * torch.from_numpy(scipy.stats.gamma.ppf(u.numpy(), 1 / T.numpy())))
    sampler, target = ParallelTempering(inner(gumbel), temperatures=LADDER), Target(gumbel)
    with torch.no_grad():
        y = sampler.advance(at(sampler, x, target), 0, n_steps, target=target, generator=generator).replica_x
    for r, t in enumerate(LADDER):
        agrees(torch.exp(-y[:, r]) / t, scipy.stats.gamma(1 / t).cdf)
    has_mean((y[:, 0] - x[:, 0]), 0.0)  # in pairs, and sharper
    u = torch.from_numpy(scipy.stats.gamma.cdf((torch.exp(-y) / T).numpy(), 1 / T.numpy()))
    for i, j in [(0, 1), (1, 2), (0, 2)]:
        has_mean((u[:, i] - 0.5) * (u[:, j] - 0.5), 0.0)  # and independent of each other


@pytest.mark.parametrize("inner", [INNER[k] for k in ("HMC", "MH")], ids=["HMC", "MH"])
@pytest.mark.parametrize("n_steps", [1, 20])
def test_exact_draws_of_two_modes_stay_so_at_all_temperatures(inner, n_steps, generator, agrees):
    model = GaussianMixtureModel(torch.tensor([[-2.0], [2.5]], dtype=F64), scales=torch.tensor([0.5, 1.0], dtype=F64),
                                 weights=[0.3, 0.7])  # fmt: skip
    grid = torch.linspace(-25, 25, 50_001, dtype=F64)
    energy = model(grid.unsqueeze(1))
    laws = [torch.cumsum(torch.exp(-energy / t), 0) for t in LADDER]
    laws = [(law / law[-1]).numpy() for law in laws]
    u = torch.rand(6000, 3, dtype=F64, generator=generator).numpy()
    x = torch.from_numpy(np.stack([np.interp(u[:, r], laws[r], grid) for r in range(3)], 1)).unsqueeze(2)
    sampler, target = ParallelTempering(inner(model), temperatures=LADDER), Target(model)
    with torch.no_grad():
        y = sampler.advance(at(sampler, x, target), 0, n_steps, target=target, generator=generator).replica_x
    for r in range(3):
        agrees(y[:, r], lambda t, law=laws[r]: np.interp(t, grid, law))


def test_the_bias_of_an_unadjusted_inner_sampler_is_its_own_at_each_temperature(generator, has_mean):
    """Langevin on a normal density at temperature T has variance T / (1 - h / 2): swaps see it as another T."""
    T, h = torch.tensor(LADDER, dtype=F64), 0.4
    x = (T / (1 - h / 2)).sqrt() * torch.randn(20_000, 3, dtype=F64, generator=generator)
    model = HarmonicModel()
    sampler = ParallelTempering(LangevinDynamics(model, h), temperatures=LADDER)
    target = Target(EnergyModel(lambda x: 0.5 * x.square()))
    with torch.no_grad():
        y = sampler.advance(at(sampler, x, target), 0, 1, target=target, generator=generator).replica_x
    has_mean(y[:, 2] ** 2, LADDER[2] / (1 - h / 2))  # not its turn yet


def test_half_a_space_without_energy(generator, agrees):
    """x - 2 log x, NaN below zero: a Gamma density against a wall."""
    law = scipy.stats.gamma(3)
    model = EnergyModel(lambda x: x - 2 * x.log())
    sampler = ParallelTempering(model, step_size=0.7, n_leapfrog_steps=4, temperatures=LADDER)
    u = torch.rand(10_000, 3, dtype=F64, generator=generator).numpy()
    x = [law.ppf(u[:, 0])] + [scipy.stats.gamma(1 + 2 / t, scale=t).ppf(u[:, r]) for r, t in [(1, 1.7), (2, 4.0)]]
    target = Target(model)
    with torch.no_grad():
        y = sampler.advance(at(sampler, torch.from_numpy(np.stack(x, 1)), target), 0, 20, target=target,
                            generator=generator)  # fmt: skip
    assert (y.replica_x > 0).all()
    agrees(y.x, law.cdf)


# what it is for -------------------------------------------------------------------------------------------------------


def far_apart():
    return GaussianMixtureModel(means=[[0.0, 0.0], [12.0, 0.0]], scales=1.0, weights=[0.3, 0.7])


def r_hat(chains):
    """Of `[chain, draw]`: the square root of the pooled variance over that within chains."""
    n = chains.shape[1]
    within = chains.var(1).mean()
    return float((((n - 1) / n * within + chains.mean(1).var()) / within).sqrt())


@pytest.mark.parametrize("start", [0.0, 12.0])
def test_both_of_two_modes_12_standard_deviations_apart_are_found_with_their_weights(start, generator):
    """The share of draws in one mode has a standard deviation of 0.0036 over seeds: 0.02 is more than 5 of them."""
    x = torch.tensor([start, 0.0]).repeat(800, 1)
    sampler = ParallelTempering(far_apart(), step_size=0.5, n_leapfrog_steps=5)
    trajectory, noted = sampler.sample(
        x, n_steps=200, n_warmup=200, generator=generator, return_trajectory=True, return_diagnostics=True
    )
    left = (trajectory[..., 0] < 6).float()
    assert abs(left.mean() - 0.3) < 0.02
    assert r_hat(trajectory[..., 0]) < 1.1
    assert noted["round_trips"].sum(1).float().mean() > 10
    assert pair_rates(noted).min() > 0.6


def test_hmc_alone_does_not_find_them_and_only_chains_in_both_modes_show_it(generator):
    x = torch.tensor([[0.0, 0.0], [12.0, 0.0]]).repeat(20, 1)
    sampler = HamiltonianMonteCarlo(far_apart(), 0.5, 5)
    trajectory = sampler.sample(x, n_steps=300, generator=generator, return_trajectory=True)[..., 0]
    assert ((trajectory < 6) == (x[:, :1] < 6)).float().mean() > 0.99  # one transition in 70 million can cross
    assert r_hat(trajectory) > 1.5
    assert r_hat(trajectory[::2]) < 1.01  # the blind spot: all in one mode


# round trips, the ladder ----------------------------------------------------------------------------------------------


def pair_rates(noted):
    """`[pair]`: the mean over chains and draws in which the pair had its turn."""
    return noted["swap_rate"].nanmean((0, 1))


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_round_trips_where_every_swap_is_accepted(n, generator):
    flat = EnergyModel(lambda x: 0 * x.sum(-1))
    sampler = ParallelTempering(flat, inner=MetropolisHastings, temperatures=[1.0 + r for r in range(n)])
    _, noted = sampler.sample(torch.zeros(2, 1), n_steps=10 * n, return_diagnostics=True, generator=generator)
    names, been_hot, expected = list(range(n)), dict.fromkeys(range(n)), []  # None: not yet seen at the cold end
    been_hot[0] = False
    for step in range(10 * n):
        for i in range(step % 2, n - 1, 2):
            names[i], names[i + 1] = names[i + 1], names[i]
        if been_hot[names[-1]] is False:
            been_hot[names[-1]] = True
        expected.append(int(been_hot[names[0]] is True))
        been_hot[names[0]] = False
    assert noted["round_trips"].tolist() == [expected] * 2
    assert sum(expected) >= 3 * n  # one in 2 n transitions for each replica
    assert torch.equal(pair_rates(noted), torch.ones(n - 1))


def test_diagnostics_of_swaps_are_averaged_over_draws(seeded):
    sampler = ParallelTempering(HarmonicModel(), inner=MetropolisHastings, temperatures=LADDER, swap_every=2)
    options = {"n_warmup": 3, "return_diagnostics": True}
    x = torch.zeros(5, 1)
    each = sampler.sample(x, n_steps=16, generator=seeded(), **options)[1]
    thinned = sampler.sample(x, n_steps=18, thin=4, generator=seeded(), **options)[1]
    rate = each["swap_rate"].view(5, 4, 4, 2)  # one pair at every other transition
    assert torch.equal(rate.isnan().sum(2), torch.full((5, 4, 2), 3))
    torch.testing.assert_close(thinned["swap_rate"], rate.nanmean(2))
    assert torch.equal(thinned["round_trips"], each["round_trips"].view(5, 4, 4).sum(2))


def test_diagnostics_leave_the_warm_up_out(seeded):
    sampler, x = ParallelTempering(HarmonicModel(), inner=LangevinDynamics, temperatures=LADDER), torch.ones(9, 1)
    whole = sampler.sample(x, n_steps=30, return_diagnostics=True, generator=seeded())[1]
    after = sampler.sample(x, n_steps=23, n_warmup=7, return_diagnostics=True, generator=seeded())[1]
    for name in ("swap_rate", "round_trips"):
        torch.testing.assert_close(after[name], whole[name][:, 7:], rtol=0, atol=0, equal_nan=True)


def test_equal_rates_divides_the_barrier_evenly():
    ladder, rejected = [1.0, 2.0, 4.0, 16.0], [0.5, 0.1, 0.3]  # the barrier is 0, 0.5, 0.6, 0.9
    expected = [1.0, 2 ** (0.3 / 0.5), 4.0, 16.0]
    np.testing.assert_allclose(equal_rates(ladder, rejected), expected, rtol=1e-12)
    np.testing.assert_allclose(equal_rates(ladder, [0.4, 0.4, 0.4]), ladder, rtol=1e-12)
    np.testing.assert_allclose(equal_rates(ladder, [0.0, 0.0, 0.0]), ladder, rtol=1e-12)
    moved = equal_rates(ladder, [0.0, 1.0, 0.0])
    assert moved[0] == 1.0
    assert moved[-1] == 16.0
    assert all(2.0 < t < 4.0 for t in moved[1:-1])


def narrow_and_wide():
    """From narrow to wide near temperature 2, where a geometric ladder is too coarse."""
    return GaussianMixtureModel(torch.zeros(2, 6), scales=torch.tensor([0.5, 2.0]), weights=[1.0, 2.5e-4])


def test_a_warm_up_makes_swap_rates_equal(seeded):
    """Over seeds, the rates afterwards are 0.61 with a standard deviation below 0.01."""
    kernel = {"step_size": lambda step: 0.4, "n_leapfrog_steps": 4, "adapt_mass": None}
    options = kernel | {"n_temperatures": 7, "max_temperature": 6.0}
    sampler, x = ParallelTempering(narrow_and_wide(), **options), torch.randn(200, 6, generator=seeded(1))
    geometric = sampler.temperatures
    np.testing.assert_allclose(geometric, 6.0 ** (np.arange(7) / 6))
    run = {"n_steps": 200, "return_diagnostics": True, "generator": seeded()}
    before = pair_rates(sampler.sample(x, **run)[1])
    after = pair_rates(sampler.sample(x, n_warmup=300, **run)[1])
    assert sampler.tuning["temperatures"] == list(sampler.temperatures)
    assert (sampler.temperatures[0], sampler.temperatures[-1]) == (geometric[0], geometric[-1])
    assert before.max() - before.min() > 0.15
    assert after.max() - after.min() < 0.06
    assert sampler.tuning["barrier"] == pytest.approx(float((1 - after).sum()), abs=0.15)


def test_a_warm_up_begins_with_the_ladder_that_was_given(seeded):
    """So one generator gives the same again."""
    sampler, x = ParallelTempering(narrow_and_wide(), step_size=0.4, n_temperatures=4), torch.zeros(30, 6)
    given, runs = sampler.temperatures, []
    for _ in range(2):
        runs.append(sampler.sample(x, n_warmup=60, n_steps=1, generator=seeded()))
        assert sampler.temperatures != given
    assert torch.equal(*runs)


def test_temperatures_that_were_given_are_kept(generator):
    sampler = ParallelTempering(narrow_and_wide(), temperatures=LADDER)
    sampler.sample(n_samples=20, n_warmup=60, n_steps=1, generator=generator)
    assert sampler.temperatures == tuple(LADDER)
    assert len(sampler.tuning["swap_rates"]) == 2


def test_a_warm_up_tunes_the_inner_sampler_on_the_cold_replica(seeded):
    model = EnergyModel(lambda x: 0.5 * (x / 0.01).square().sum(-1))
    sampler = ParallelTempering(model, temperatures=LADDER)
    alone = HamiltonianMonteCarlo(model)
    x = torch.zeros(64, 2)
    _, noted = sampler.sample(x, n_steps=50, n_warmup=150, generator=seeded(), return_diagnostics=True)
    alone.sample(x, n_steps=1, n_warmup=150, generator=seeded())
    assert sampler.step_size == sampler.inner.step_size
    assert noted["step_size"][0, 0] == pytest.approx(sampler.step_size)
    if alone.tuning is not None:
        assert sampler.inner.tuning["acceptance_rate"] == pytest.approx(alone.tuning["acceptance_rate"], abs=0.1)
        assert noted["acceptance_rate"].mean() > 0.5


def test_a_warm_up_that_fails_leaves_the_ladder_as_it_was(generator):
    calls = []

    def energy(x):
        calls.append(1)
        if len(calls) > 60:
            raise ArithmeticError("on purpose")
        return x.abs().sum(-1)

    sampler = ParallelTempering(energy, inner=MetropolisHastings, n_temperatures=3)
    before = sampler.temperatures
    with pytest.raises(ArithmeticError, match="on purpose"):
        sampler.sample(torch.ones(9, 1), n_warmup=100, generator=generator)
    assert sampler.temperatures == before


# conditions, states, arguments ----------------------------------------------------------------------------------------


def test_conditions_belong_to_chains_also_where_a_shape_could_mislead(seeded):
    """As many chains as entries: a condition of the event's shape is not one a chain."""

    def energy(x, at):
        return (x - at).square().sum(-1)

    x, at_each = torch.zeros(2, 2), torch.tensor([3.0, -3.0])
    sampler = ParallelTempering(energy, step_size=0.3, temperatures=LADDER)
    y = sampler.sample(x, n_steps=20, model_kwargs={"at": at_each}, generator=seeded())
    bound = ParallelTempering(lambda x: energy(x, at_each), step_size=0.3, temperatures=LADDER)
    torch.testing.assert_close(y, bound.sample(x, n_steps=20, generator=seeded()))


def test_replicas_are_evaluated_each_under_its_chains_conditions():
    at_chain, x = torch.tensor([[1.0], [2.0], [3.0]]), torch.arange(6.0).view(6, 1)  # two replicas a chain
    model = EnergyModel(lambda x, at: (x - at).square().sum(-1))
    target = ReplicaTarget(Target(model, {"at": at_chain}), 2)
    off = x - at_chain.repeat_interleave(2, 0)
    energy, gradient = target(x)
    torch.testing.assert_close(energy, off.square().sum(-1))
    torch.testing.assert_close(gradient, 2 * off)
    torch.testing.assert_close(target.energy(x), energy)
    torch.testing.assert_close(target.gradient(x), gradient)


def test_a_state_survives_pickling(seeded):
    sampler = ParallelTempering(HarmonicModel(), temperatures=LADDER)
    _, state = sampler.sample(torch.zeros(3, 2), n_steps=4, generator=seeded(), return_state=True)
    again = pickle.loads(pickle.dumps(state))
    assert type(again.kernel) is type(state.kernel)
    one, two = (sampler.sample(state=s, n_steps=3, generator=seeded(1)) for s in (state, again))
    assert torch.equal(one, two)


def test_what_a_warm_up_found_can_be_saved(seeded):
    options = {"n_temperatures": 4, "max_temperature": 6.0}
    sampler, other = (ParallelTempering(narrow_and_wide(), **options) for _ in range(2))
    sampler.sample(n_samples=50, n_warmup=80, n_steps=1, generator=seeded())
    other.load_state_dict(sampler.state_dict())
    assert (other.tuning, other.inner.tuning) == (sampler.tuning, sampler.inner.tuning)
    with pytest.raises(ValueError, match="another kind of sampler: ParallelTempering has temperatures"):
        other.load_state_dict(sampler.inner.state_dict())
    assert other.temperatures == sampler.temperatures
    assert other.temperatures != ParallelTempering(HarmonicModel(), **options).temperatures
    x = torch.zeros(5, 6)
    assert torch.equal(*(s.sample(x, n_steps=5, generator=seeded(1)) for s in (sampler, other)))


def test_a_replica_that_is_lost_is_flagged(generator):
    """Finite where the cold chain is, NaN beyond: the hot replica of an unadjusted sampler goes there."""
    model = EnergyModel(lambda x: torch.where(x.abs() < 4, 0.5 * x.square(), torch.nan).sum(-1))
    sampler = ParallelTempering(model, inner=LangevinDynamics, step_size=0.1, temperatures=[1.0, 400.0])
    x, noted = sampler.sample(torch.zeros(20, 1), n_steps=50, generator=generator, return_diagnostics=True)
    assert x.isfinite().all()
    assert noted["diverging"][:, -1].all()


REFUSED = [
    ({"temperatures": [1.0]}, ValueError, r"temperatures must rise from 1.0, .*; got \[1.0\]"),
    ({"temperatures": [2.0, 3.0]}, ValueError, "temperatures must rise from 1.0"),
    ({"temperatures": [1.0, 3.0, 3.0]}, ValueError, "temperatures must rise from 1.0"),
    ({"temperatures": [1.0, float("inf")]}, ValueError, "each temperature must be finite"),
    ({"temperatures": [1.0, "2"]}, TypeError, "each temperature must be a number"),
    ({"temperatures": 4}, TypeError, "temperatures must be a list"),
    ({"n_temperatures": 1}, ValueError, "n_temperatures must be at least 2"),
    ({"max_temperature": 1.0}, ValueError, "max_temperature must be greater than 1"),
    ({"temperatures": [1.0, 2.0], "n_temperatures": 3}, TypeError, "not both"),
    ({"temperatures": [1.0, 2.0], "max_temperature": float("nan")}, TypeError, "not both"),
    ({"swap_every": 0}, ValueError, "swap_every must be at least 1"),
    ({"inner": "hmc"}, TypeError, "inner must be a class of samplers"),
    ({"inner": HarmonicModel}, TypeError, "inner must be a class of samplers"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=[str(r[0]) for r in REFUSED])
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        ParallelTempering(HarmonicModel(), **options)


def test_parameters_are_those_of_the_inner_sampler(generator):
    inner = MetropolisHastings(HarmonicModel(), 0.5)
    sampler = ParallelTempering(inner, temperatures=torch.tensor(LADDER))
    assert sampler.inner is inner
    assert sampler.schedulers is inner.schedulers
    with pytest.raises(ValueError, match="MetropolisHastings has no step_size; it has proposal_scale"):
        sampler.step_size = 0.1
    with pytest.raises(TypeError, match="MetropolisHastings is a sampler already: leave proposal_scale out"):
        ParallelTempering(inner, proposal_scale=0.1)
    with pytest.raises(TypeError, match="MetropolisHastings is a sampler already: leave inner out"):
        ParallelTempering(inner, inner=LangevinDynamics)
    inner.proposal_scale = lambda step: 0.1 / (step + 1)
    assert sampler.sample(dim=2, n_samples=3, n_steps=5, generator=generator).shape == (3, 2)
    assert inner.schedulers["proposal_scale"].step_count == 5
