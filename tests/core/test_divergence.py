"""Energies that are not finite everywhere: a clear report or correct samples, for every sampler of the table.

Proposals there are rejected where a sampler can reject, chains that go there are counted in one warning where it
cannot, and both are flagged. No chain is moved to a point of the library's own making. What becomes of densities with
such walls is in `test_invariance.py`.
"""

import math
import warnings

import pytest
import torch
from torch.nn.functional import softplus

from torchebm.core import EnergyModel, HarmonicModel, SamplingDivergenceWarning
from torchebm.core.divergence import DivergenceWatch
from torchebm.samplers import LangevinDynamics

NAN, INF = float("nan"), float("inf")
EVERYTHING = {"return_trajectory": True, "return_diagnostics": True}


@pytest.fixture(autouse=True)
def networks_are_the_same_each_time():
    """What is drawn without a generator, as the weights of networks, is drawn from a stream that begins here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def half_space(x):
    """x - log x, NaN for negative x."""
    return (x - x.log()).sum(-1)


def box(x):
    return torch.where(x.abs() < 1, 0.5 * x.square(), INF).sum(-1)


def nan_box(x):
    return torch.where(x.abs() < 1, 0.5 * x.square(), NAN).sum(-1)


def well_of_minus_infinity(x):
    return torch.where(x.abs() < 1, 0.5 * x.square(), -INF).sum(-1)


def overflowing(x):
    """log(1 + exp(|x|² / 2)) as one writes it down: in float32 infinite, with a slope of NaN, from |x| = 13.3 on."""
    return torch.log(1 + torch.exp(0.5 * x.square().sum(-1)))


BROKEN = [half_space, box, nan_box, well_of_minus_infinity]
NOT_EVERYWHERE = [half_space, box, nan_box, overflowing]


@pytest.mark.parametrize("energy", NOT_EVERYWHERE, ids=lambda e: e.__name__)
@pytest.mark.parametrize("factor", [1, 10])
def test_no_chain_is_put_anywhere_and_what_is_not_finite_is_flagged(case, energy, factor, generator):
    """Starts near the edge. All is moved by 0.3, so that the origin, where a repair would put things, is no mode."""

    def moved(x):
        return energy(x - 0.3)

    sampler = case.make(moved, **{case.positive: factor * case.parameters[case.positive]})
    x = (9.4 if energy is overflowing else 1.2) - 0.2 * torch.rand(200, 2, generator=generator)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        trajectory, noted = sampler.sample(x, n_steps=40, generator=generator, **EVERYTHING)
    walls = {half_space: [0.3], box: [-0.7, 1.3], nan_box: [-0.7, 1.3], overflowing: []}
    for artificial in (0.0, *walls[energy]):
        assert not (trajectory == artificial).any()
    finite = moved(trajectory).isfinite()
    assert noted["diverging"][~finite].all()
    assert torch.equal(noted["energy"].isfinite(), finite)
    if case.can_reject:
        assert finite.all()
        assert record == []
        flagged = noted["diverging"]
        if "tree_depth" not in noted:  # a tree may end at a wall, and the chain go to a point before it
            assert (noted["acceptance_rate"][flagged] == 0).all()
    else:
        n_lost = int((~trajectory.isfinite().all(-1)).any(1).sum())  # a swap may bring a finite replica back
        assert len(record) == (n_lost > 0)
        assert all(f"{n_lost} of 200 chains diverged" in str(w.message) for w in record)


@pytest.mark.parametrize("factor", [1, 20])
def test_an_energy_that_overflows_far_out_is_sampled_all_the_same(exact, factor, seeded):
    """With s = |x|² / 2 the law is 1 - log(1 + exp(-s)) / log 2: Kolmogorov-Smirnov at p > 1e-6, from exact draws."""
    n = 10_000
    s = -torch.log(2 ** (1 - torch.rand(n, dtype=torch.float64, generator=seeded(1))) - 1)
    angle = 2 * math.pi * torch.rand(n, dtype=torch.float64, generator=seeded(2))
    x = ((2 * s).sqrt() * torch.stack([angle.cos(), angle.sin()])).T.float()
    step = {exact.positive: factor * exact.parameters[exact.positive]}
    options = {"n_steps": 20, "generator": seeded(), "return_diagnostics": True}
    y, noted = exact.make(overflowing, **step).sample(x, **options)
    s = (0.5 * y.double().square().sum(1)).sort().values
    cdf, at = 1 - softplus(-s) / math.log(2), torch.arange(n + 1, dtype=torch.float64) / n
    assert max((at[1:] - cdf).max(), (cdf - at[:-1]).max()) < math.sqrt(-math.log(1e-6 / 2) / (2 * n))
    assert (y != 0).all()
    options["generator"] = seeded()
    _, expected = exact.make(lambda x: softplus(0.5 * x.square().sum(-1)), **step).sample(x, **options)
    assert abs(noted["acceptance_rate"].mean() - expected["acceptance_rate"].mean()) < 0.01


@pytest.mark.parametrize("energy", BROKEN, ids=lambda e: e.__name__)
def test_a_proposal_that_is_not_finite_is_rejected_and_flagged(exact, energy, generator):
    x = torch.full((50, 2), 0.9)
    trajectory, noted = exact.make(energy).sample(x, n_steps=30, generator=generator, **EVERYTHING)
    assert energy(trajectory).isfinite().all()
    moved = (trajectory != torch.cat([x.unsqueeze(1), trajectory[:, :-1]], 1)).any(-1)
    assert moved.any()
    # outside its box a density is 0, which only trajectories need to shun
    assert noted["diverging"].any() == (energy is not box or not exact.single_steps)
    assert not (moved & noted["diverging"]).any()
    assert (noted["acceptance_rate"][noted["diverging"]] == 0).all()


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_bounded_density_is_sampled_without_divergences_by_single_steps(exact, precision, seeded):
    """Uniform on a square: a proposal outside is no sign of anything, as long as there is no trajectory to lose."""

    def square(x):
        return torch.where((x > 0) & (x < 1), 0.0 * x, INF).sum(-1)

    x = torch.rand(500, 2, generator=seeded(1))
    y, noted = exact.make(square, precision=precision).sample(
        x, n_steps=30, generator=seeded(), return_diagnostics=True
    )
    assert ((y > 0) & (y < 1)).all()
    assert noted["acceptance_rate"].min() == 0
    assert noted["diverging"].any() == (not exact.single_steps)


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
    for x in states:
        watch(1, type("State", (), {"x": x}))
    assert watch.first_steps().tolist() == first


def test_a_window_of_many_chains_is_shorter(monkeypatch):
    monkeypatch.setattr("torchebm.core.divergence._MOST_NOTES", 8)
    states = torch.zeros(10, 3, 1)
    states[4:, 1] = NAN
    watch, most = DivergenceWatch(states[0], None, 10), 0
    for x in states:
        watch(1, type("State", (), {"x": x}))
        most = max(most, len(watch._notes))
    assert most <= 8 // 3
    assert watch.first_steps().tolist() == [-1, 4, -1]


def test_large_finite_points_are_no_divergence(generator):
    x = torch.full((2, 3, 300, 300), 100.0, dtype=torch.float16)  # their sum overflows float16
    flat = EnergyModel(lambda x: 1e-3 * x.flatten(1)[:, 0])
    assert LangevinDynamics(flat).sample(x, n_steps=2, generator=generator).isfinite().all()


# starting points ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [half_space, box], ids=lambda e: e.__name__)
def test_where_no_chain_can_move_sample_raises(case, energy):
    with pytest.raises(ValueError, match="all 4 chains start where the energy or its gradient is not finite"):
        case.make(energy).sample(torch.full((4, 2), -3.0), n_steps=3)


def test_where_some_cannot_move_they_stay_flagged_and_one_warning_counts_them(case, generator):
    x = torch.tensor([[8.0, 10.0], [-50.0, -40.0], [20.0, 10.0], [-60.0, 10.0], [15.0, 20.0]])
    sampler = case.make(half_space, **{case.positive: 0.01})
    with pytest.warns(SamplingDivergenceWarning) as record:
        trajectory, noted = sampler.sample(x, n_steps=20, generator=generator, **EVERYTHING)
    assert len(record) == 1
    assert "2 of 5 chains started where the energy or its gradient is not finite" in str(record[0].message)
    assert record[0].filename == __file__
    stuck = torch.tensor([False, True, False, True, False])
    assert torch.equal(noted["diverging"], stuck.unsqueeze(1).expand(5, 20))
    assert (trajectory[stuck] == x[stuck].unsqueeze(1)).all()
    assert (trajectory[~stuck, -1] != x[~stuck]).any(1).all()


@pytest.mark.parametrize("energy", [box, nan_box], ids=lambda e: e.__name__)
def test_a_stranded_chain_takes_the_first_finite_proposal(exact, energy, generator):
    x = torch.tensor([[0.0, 0.0], [1.01, 0.5]])
    with pytest.warns(SamplingDivergenceWarning, match="1 of 2 chains started"):
        trajectory, noted = exact.make(energy).sample(x, n_steps=50, generator=generator, **EVERYTHING)
    assert noted["diverging"][1, 0]  # where it was left
    assert energy(trajectory[:, -1]).isfinite().all()
    inside = energy(trajectory[1]).isfinite()
    assert bool((inside[1:] >= inside[:-1]).all())  # and it never goes back


def test_a_point_without_slope_is_stuck_where_the_sampler_needs_one(case, generator):
    def cusp(x):
        return x.abs().sqrt().sum(-1)  # its slope at 0 is infinite

    sampler, x = case.make(cusp, **{case.positive: 0.01}), torch.zeros(2, 2)
    if case.cls.needs_gradient:
        with pytest.raises(ValueError, match="all 2 chains start where the energy or its gradient is not finite"):
            sampler.sample(x, n_steps=1, generator=generator)
    else:
        assert sampler.sample(x, n_steps=1, generator=generator).isfinite().all()


def test_no_steps_judge_nothing(case):
    assert torch.equal(case.make(box).sample(torch.full((4, 2), 3.0), n_steps=0), torch.full((4, 2), 3.0))


def test_finite_chains_do_not_warn(case, generator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case.make(HarmonicModel()).sample(dim=2, n_samples=10, n_steps=130, generator=generator)


def test_starting_points_that_nobody_gave_are_drawn_again(case, seeded):
    def half(x):
        return (0.5 * x.square() + torch.where(x > -0.5, 0.0, NAN) * x).sum(-1)

    _, noted = case.make(half).sample(
        dim=2, n_samples=50, n_steps=1, generator=seeded(), return_diagnostics=True, n_warmup=0
    )
    if case.can_reject:
        assert noted["energy"].isfinite().all()
    x = case.make(half).sample(dim=2, n_samples=50, n_steps=0, generator=seeded())
    assert (x < -0.5).any()  # without transitions nothing is evaluated


def test_there_is_an_end_to_drawing_again(case, seeded):
    drawn = []

    def nowhere(x):
        drawn.append(1)
        return x.sum(-1) * NAN

    with pytest.raises(ValueError, match="all 3 chains start where the energy or its gradient is not finite"):
        case.make(nowhere).sample(dim=2, n_samples=3, n_steps=1, generator=seeded())
    assert len(drawn) == 101
