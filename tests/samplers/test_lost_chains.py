"""Chains in regions of next to no mass begin again where others are when a window of the warm-up ends; no others do."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from torchebm.core import EnergyModel, GaussianModel, Target
from torchebm.samplers import (
    ChEESHamiltonianMonteCarlo,
    HamiltonianMonteCarlo,
    LangevinDynamics,
    MetropolisAdjustedLangevin,
    NoUTurnSampler,
    ParallelTempering,
)
from torchebm.samplers.warmup import Warmup, comparable, lost, window_ends

F64 = torch.float64


def pair(height, apart=40.0):
    """Two normal modes in 2-D, the second `height` nats above the first."""
    centre = torch.tensor([apart, 0.0], dtype=F64)

    def energy(x):
        near = 0.5 * x.square().sum(1)
        far = 0.5 * (x - centre).square().sum(1) + height
        return -torch.logaddexp(-near, -far)

    return EnergyModel(energy)


def starts(n_far, n=32, apart=40.0):
    x = torch.zeros(n, 2, dtype=F64)
    x[:n_far, 0] = apart
    return x + 0.01 * torch.arange(n, dtype=F64)[:, None]


@pytest.mark.parametrize(
    "cls", [NoUTurnSampler, ChEESHamiltonianMonteCarlo, HamiltonianMonteCarlo, MetropolisAdjustedLangevin],
    ids=lambda cls: cls.__name__,
)  # fmt: skip
def test_a_mode_without_mass_is_left(cls, generator):
    sampler = cls(pair(height=400.0))
    x = sampler.warm_up(starts(n_far=5), 200, generator=generator).kernel.x
    assert (x[:, 0] < 20).all()
    assert len(x.unique(dim=0)) == len(x)  # none is the shadow of another
    assert sampler.tuning["n_restarted"] >= (0 if cls is NoUTurnSampler else 1)  # whose long paths may find out alone


def through_a_warm_up(energy, generator, n=100):
    """Where each of 32 chains, which never move by themselves, stands after each of `n` transitions."""
    model = GaussianModel(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    sampler = HamiltonianMonteCarlo(model, target_acceptance=None)
    x, target = torch.randn(32, 2, dtype=F64, generator=generator), Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), Warmup(sampler, n, "diagonal")
    state, _ = warmup.begin(state._replace(energy=energy), target, generator)

    class Rates(tuple):
        acceptance_rate = torch.full((32,), 0.8)

    stands = []
    for i in range(n):
        state, _ = warmup.update(i, state, Rates())
        stands.append((state.x[:, None] == x).all(2).int().argmax(1))
    warmup.finish()
    return torch.stack(stands), sampler.tuning["n_restarted"]  # [transition, chain]


def test_lost_chains_go_to_places_of_others_when_the_fast_phase_ends(generator):
    energy = torch.linspace(0, 40, 32, dtype=F64)
    energy[:7] += 200.0
    stands, n_restarted = through_a_warm_up(energy, generator)
    end, own = window_ends(100, 32)[0], torch.arange(32)
    assert (stands[: end - 1] == own).all()
    assert (stands[end - 1 :, 7:] == own[7:]).all()
    found = stands[-1, :7]
    assert (found >= 7).all()
    assert found.unique().numel() > 3  # not all to one place
    assert n_restarted == 7


def test_chains_that_cannot_move_begin_again_however_many(generator):
    energy = torch.where(torch.arange(32) < 20, torch.nan, 1.0).to(F64)
    stands, n_restarted = through_a_warm_up(energy, generator)
    assert (stands[-1] >= 20).all()
    assert (stands[-1, 20:] == torch.arange(20, 32)).all()
    assert n_restarted == 20


@pytest.mark.parametrize("n_high", [16, 20, 31])
def test_half_of_all_chains_are_not_lost(n_high, generator):
    stands, n_restarted = through_a_warm_up(1000.0 * (torch.arange(32) < n_high).to(F64), generator)
    assert (stands == torch.arange(32)).all()
    assert n_restarted == 0


def test_chains_of_different_conditions_are_not_compared(generator):
    """One chain in four has a target of its own, 1,000 nats above the others."""
    model = EnergyModel(lambda x, level: 0.5 * x.square().sum(1) + level)
    level = 1000 * (torch.arange(32) % 4 == 0)
    sampler = HamiltonianMonteCarlo(model)
    sampler.warm_up(torch.randn(32, 2, generator=generator), 200, model_kwargs={"level": level}, generator=generator)
    assert sampler.tuning["n_restarted"] == 0


def test_which_conditions_differ_between_chains():
    model = GaussianModel(torch.zeros(2), torch.eye(2))
    for kwargs, same in (({}, True), ({"t": 0.5}, True), ({"t": torch.ones(())}, True), ({"y": torch.ones(3)}, True),
                         ({"y": torch.ones(8)}, False), ({"y": torch.ones(8, 2), "t": 1}, False)):  # fmt: skip
        assert comparable(Target(model, kwargs), 8) is same


def test_the_bound():
    class State(NamedTuple):
        x: Tensor
        energy: Tensor

    energy = torch.tensor([0.0, 1.0, 2.0, 3.0, 49.9, 50.1, 1e9, torch.inf, torch.nan], dtype=F64)
    live = energy.isfinite()
    found = lost(State(torch.zeros(9, 2, dtype=F64), energy), live)
    assert found.tolist() == [False] * 6 + [True, True, True]  # the median is 3
    assert not lost(State(torch.zeros(9, 1, 2, 3), energy), live)[5]
    assert lost(State(torch.zeros(9, 1, 2, 3), energy), live)[6]
    assert not lost(State(torch.zeros(2, 2), energy[[0, 6]]), live[[0, 6]]).any()  # one of two is no minority
    steep = torch.tensor([0.0, 1e16, 1e17, 1e18], dtype=F64)  # more than 1/eps: no accept test works there
    assert lost(State(torch.zeros(4, 2), steep), steep.isfinite()).tolist() == [False, True, True, True]
    assert not lost(State(torch.zeros(4, 2), 1e18 + steep[[0, 0, 0, 0]]), steep.isfinite()).any()  # a constant is free


@pytest.mark.parametrize("cls", [NoUTurnSampler, ChEESHamiltonianMonteCarlo], ids=lambda cls: cls.__name__)
def test_starts_where_energies_are_beyond_rounding(cls, generator):
    """E = x² / 2 + (x / 1.5)^200: chains start where it is 1e24, and a step for all of them has no chance."""
    sampler = cls(EnergyModel(lambda x: (0.5 * x.square() + (x / 1.5) ** 200).sum(1)))
    x = torch.linspace(-2, 2, 64, dtype=F64)[:, None] * torch.tensor([1.0, 0.5], dtype=F64)
    draws = sampler.sample(x, n_steps=200, n_warmup=300, return_trajectory=True, generator=generator)
    assert draws.abs().max() < 1.6
    exact = torch.linspace(-1.6, 1.6, 100_001, dtype=F64)
    weight = torch.exp(-0.5 * exact**2 - (exact / 1.5) ** 200)
    variance = (weight * exact**2).sum() / weight.sum()
    assert draws.var() == pytest.approx(float(variance), rel=0.1)


def test_the_coldest_replicas_of_tempering_are_begun_again_as_well(generator):
    sampler = ParallelTempering(HamiltonianMonteCarlo(pair(height=400.0)), temperatures=[1.0, 1.5])
    x = sampler.warm_up(starts(n_far=5), 200, generator=generator).kernel.x
    assert (x[:, 0] < 20).all()
    assert sampler.tuning["inner"]["n_restarted"] >= 5


def test_samplers_without_an_accept_test_tune_nothing_and_begin_nothing_again(generator):
    x = LangevinDynamics(pair(height=400.0), 0.01).warm_up(starts(n_far=5), 200, generator=generator).kernel.x
    assert (x[:, 0] > 20).sum() == 5


def test_the_first_mass_is_that_of_the_lower_half(generator):
    """Of E = x⁴ / 4 with x from N(0, 1) it is √15; half of the chains start a thousand times as far out."""
    sampler = HamiltonianMonteCarlo(EnergyModel(lambda x: (x**4).sum(1) / 4))
    x, target = torch.randn(200, 2, dtype=F64, generator=generator), Target(sampler.model)
    x[100:] *= 1000
    state, warmup = sampler.init(x, target, generator), Warmup(sampler, 100, "diagonal")
    warmup.begin(state, target, generator)
    assert ((sampler.mass > 1) & (sampler.mass < 10)).all()
