"""Chains that leave the finite numbers: rejected where a sampler can, one warning where it cannot, flagged in both."""

import warnings

import pytest
import torch

from torchebm.core import EnergyModel, HarmonicModel, SamplingDivergenceWarning
from torchebm.core.divergence import DivergenceWatch
from torchebm.samplers import LangevinDynamics

NAN, INF = float("nan"), float("inf")
EVERYTHING = {"return_trajectory": True, "return_diagnostics": True}


def half_space(x):
    """x - log x, NaN for negative x."""
    return (x - x.log()).sum(-1)


def box(x):
    return torch.where(x.abs() < 1, 0.5 * x.square(), INF).sum(-1)


def nan_box(x):
    return torch.where(x.abs() < 1, 0.5 * x.square(), NAN).sum(-1)


def well_of_minus_infinity(x):
    return torch.where(x.abs() < 1, 0.5 * x.square(), -INF).sum(-1)


BROKEN = [half_space, box, nan_box, well_of_minus_infinity]


@pytest.mark.parametrize("energy", BROKEN, ids=lambda e: e.__name__)
def test_a_proposal_that_is_not_finite_is_rejected_and_flagged(exact, energy, generator):
    x = torch.full((50, 1), 0.9)
    trajectory, noted = exact.make(energy).sample(x, n_steps=30, generator=generator, **EVERYTHING)
    assert energy(trajectory).isfinite().all()
    moved = (trajectory != torch.cat([x.unsqueeze(1), trajectory[:, :-1]], 1)).squeeze(-1)
    assert moved.any()
    assert noted["diverging"].any()
    assert not (moved & noted["diverging"]).any()
    assert (noted["acceptance_rate"][noted["diverging"]] == 0).all()


@pytest.mark.parametrize("energy", [half_space, nan_box], ids=lambda e: e.__name__)
def test_without_rejection_one_warning_says_how_many_from_which_step_and_what_helps(energy, generator):
    sampler, x = LangevinDynamics(energy, step_size=0.2), torch.full((50, 1), 0.9)
    with pytest.warns(SamplingDivergenceWarning) as record:
        trajectory, noted = sampler.sample(x, n_steps=100, generator=generator, **EVERYTHING)
    diverged = ~trajectory.isfinite().squeeze(-1)  # [chain, draw]
    assert torch.equal(noted["diverging"], diverged | ~energy(trajectory).isfinite())
    first = int(diverged.any(0).int().argmax())
    assert len(record) == 1
    message = str(record[0].message)
    assert f"{int(diverged[:, -1].sum())} of 50 chains diverged, the first at step {first} of this run" in message
    assert "a smaller step_size, or gradient_clip=" in message
    assert record[0].filename == __file__  # it points at the call


@pytest.mark.parametrize("n_steps", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_watch_finds_the_first_step(n_steps, dtype):
    first = [-1, 0, n_steps // 2, n_steps - 1]
    states = torch.full((n_steps, 4, 3), 3e4, dtype=dtype)  # finite, though the sum over a point is not in float16
    for chain, step in enumerate(first):
        if step >= 0:
            states[step:, chain, 1] = [NAN, INF, -INF][chain - 1]
    watch = DivergenceWatch(states[0], None, n_steps)
    for i, x in enumerate(states):
        watch(i, type("State", (), {"x": x}), None)
    assert watch.first_steps().tolist() == first


def test_large_finite_points_are_no_divergence(generator):
    x = torch.full((2, 3, 300, 300), 100.0, dtype=torch.float16)  # their sum overflows float16
    flat = EnergyModel(lambda x: 1e-3 * x.flatten(1)[:, 0])
    assert LangevinDynamics(flat).sample(x, n_steps=2, generator=generator).isfinite().all()


# starting points ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [half_space, box], ids=lambda e: e.__name__)
def test_where_no_chain_can_move_sample_raises(case, energy):
    with pytest.raises(ValueError, match="all 4 chains start where the energy or its gradient is not finite"):
        case.make(energy).sample(torch.full((4, 1), -3.0), n_steps=3)


def test_where_some_cannot_move_they_stay_flagged_and_one_warning_counts_them(case, generator):
    x = torch.tensor([[0.8], [-50.0], [2.0], [-60.0], [1.5]])
    sampler = case.make(half_space, **{case.positive: 0.01})
    with pytest.warns(SamplingDivergenceWarning) as record:
        trajectory, noted = sampler.sample(x, n_steps=20, generator=generator, **EVERYTHING)
    assert len(record) == 1
    assert "2 of 5 chains started where the energy or its gradient is not finite" in str(record[0].message)
    assert record[0].filename == __file__
    stuck = torch.tensor([False, True, False, True, False])
    assert torch.equal(noted["diverging"], stuck.unsqueeze(1).expand(5, 20))
    assert (trajectory[stuck] == x[stuck].unsqueeze(1)).all()
    assert (trajectory[~stuck, -1] != x[~stuck]).all()


@pytest.mark.parametrize("energy", [box, nan_box], ids=lambda e: e.__name__)
def test_a_stranded_chain_takes_the_first_finite_proposal(exact, energy, generator):
    x = torch.tensor([[0.0], [1.01]])
    with pytest.warns(SamplingDivergenceWarning, match="1 of 2 chains started"):
        trajectory, noted = exact.make(energy).sample(x, n_steps=50, generator=generator, **EVERYTHING)
    assert noted["diverging"][1, 0]  # where it was left
    assert energy(trajectory[:, -1]).isfinite().all()
    inside = energy(trajectory[1]).isfinite()
    assert bool((inside[1:] >= inside[:-1]).all())  # and it never goes back


def test_a_point_without_slope_is_stuck_where_the_sampler_needs_one(case, generator):
    def cusp(x):
        return x.abs().sqrt().sum(-1)  # its slope at 0 is infinite

    sampler, x = case.make(cusp, **{case.positive: 0.01}), torch.zeros(2, 1)
    if case.cls.needs_gradient:
        with pytest.raises(ValueError, match="all 2 chains start where the energy or its gradient is not finite"):
            sampler.sample(x, n_steps=1, generator=generator)
    else:
        assert sampler.sample(x, n_steps=1, generator=generator).isfinite().all()


def test_no_steps_judge_nothing(case):
    assert torch.equal(case.make(box).sample(torch.full((4, 1), 3.0), n_steps=0), torch.full((4, 1), 3.0))


def test_finite_chains_do_not_warn(case, generator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case.make(HarmonicModel()).sample(dim=2, n_samples=10, n_steps=130, generator=generator)
