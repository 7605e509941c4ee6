"""Known answers. Draws come from one fixed seed; what must hold for most seeds is asserted with room to spare."""

import json
import math
import time

import numpy as np
import pytest
import torch

from torchebm import diagnostics
from torchebm.diagnostics import summary
from torchebm.diagnostics.entries import Entries, screen


def autoregressive(noise, rho):
    x = noise.clone()
    for t in range(1, x.shape[1]):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
    return x


def test_independent_normal_draws(normal):
    s = summary(2 * normal(4, 1000, 3) + 1)
    n = 4000
    for label in ("x[0]", "x[1]", "x[2]"):
        row = s[label]
        assert abs(row["mean"] - 1) < 5 * 2 / math.sqrt(n)
        assert row["sd"] == pytest.approx(2, rel=5 / math.sqrt(2 * n))
        assert row["mcse_mean"] == pytest.approx(2 / math.sqrt(n), rel=0.15)
        assert row["ess_bulk"] == pytest.approx(n, rel=0.2)
        assert row["ess_tail"] == pytest.approx(n, rel=0.2)
        assert row["r_hat"] < 1.01
    assert s.advice == ()
    assert (s.n_chains, s.n_draws, s.n_entries, s.divergences, s.n_divergences) == (4, 1000, 3, None, None)


def test_figures_are_those_of_arviz(az, normal):
    x = autoregressive(normal(4, 400, 3), 0.5)
    x[1, :, 1] += 0.5
    s, data = summary(x), diagnostics.to_arviz(x)
    for name, own in (("r_hat", az.rhat(data)), ("ess_bulk", az.ess(data)), ("mcse_mean", az.mcse(data))):
        np.testing.assert_allclose(list(getattr(s, name).values()), own["x"].values, rtol=1e-10)
    np.testing.assert_allclose(
        list(s.ess_tail.values()), az.ess(data, method="tail", prob=(0.05, 0.95))["x"].values, rtol=1e-10
    )
    np.testing.assert_allclose(list(s.sd.values()), x.flatten(0, 1).std(0))


def test_an_autoregressive_chain_has_the_ess_of_theory(normal):
    rho = 0.8
    s = summary(autoregressive(normal(16, 4000), rho))
    assert s.ess_bulk["x"] == pytest.approx(16 * 4000 * (1 - rho) / (1 + rho), rel=0.1)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_figures_do_not_depend_on_units(scale, shift, normal):
    x = normal(4, 300)
    one, other = summary(x)["x"], summary(scale * (x + shift))["x"]
    for name in ("ess_bulk", "ess_tail", "r_hat"):
        assert other[name] == pytest.approx(one[name], rel=1e-4)
    assert other["mcse_mean"] == pytest.approx(scale * one["mcse_mean"], rel=1e-4)


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (None, "x[2]"),
        (["a", "b", "c", "d"], "c"),
        ({"a": 0, "b": slice(1, 4)}, "b[1]"),
        ({"a": (), "b": (3,)}, "b[1]"),
        ({"m": (2, 2)}, "m[1, 0]"),
    ],
)
def test_shifted_chains_are_named(names, label, normal):
    x = normal(8, 500, 4)
    x[0, :, 2] += 2
    s = summary(x, names=names)
    (line,) = (line for line in s.advice if "R-hat" in line)
    assert line == f"R-hat {s.r_hat[label]:.2f} on {label}: run longer or temper"
    assert [other for other, value in s.r_hat.items() if value > 1.01] == [label]
    assert f"! {line}" in str(s).splitlines()


def test_the_worst_is_named_and_the_others_counted(normal):
    x = normal(4, 200, 5)
    x[0, :, 1:4] += torch.tensor([1.0, 4.0, 2.0])
    assert any(line.startswith("R-hat ") and "on x[2] and off on 2 more:" in line for line in summary(x).advice)


def test_divergences_are_counted_for_each_chain(normal):
    diverging = torch.zeros(64, 100, dtype=torch.bool)
    diverging[3, 5] = diverging[10, :4] = diverging[63, 99] = True
    stats = {"diverging": diverging, "acceptance_rate": torch.full((64, 100), 0.8), "mean": torch.zeros(100, 2),
             "n_steps": torch.full((64, 100), 7)}  # fmt: skip
    s = summary(normal(64, 100, 2), stats)
    assert (s.divergences[3], s.divergences[10], s.divergences[63], s.n_divergences) == (1, 4, 1, 6)
    assert s.advice == ("3 of 64 chains diverged: raise target_acceptance or reparameterise",)
    assert "divergences: 6" in str(s)
    del stats["n_steps"]  # of a sampler whose step size is not at fault
    mend = "3 of 64 chains diverged: mend the energy where it is NaN or minus infinity, or take smaller steps"
    assert summary(normal(64, 100, 2), stats).advice == (mend,)
    stats["swap_rate"] = torch.full((64, 100, 2), 0.3)  # of one that has no target, though it rejects
    assert summary(normal(64, 100, 2), stats).advice == ("3 of 64 chains diverged: lower step_size or reparameterise",)
    del stats["acceptance_rate"]  # of a sampler that cannot reject, and so has no target
    assert summary(normal(64, 100, 2), stats).advice == ("3 of 64 chains diverged: lower step_size or reparameterise",)


def test_nothing_diverged_is_not_the_same_as_nobody_looked(normal):
    assert "divergences: 0" in str(summary(normal(4, 200), {"diverging": torch.zeros(4, 200, dtype=torch.bool)}))
    assert "divergences: not recorded" in str(summary(normal(4, 200)))


def test_a_low_ess_is_named(normal):
    x = normal(4, 1000, 3)
    x[..., 1], x[..., 2] = autoregressive(x[..., 1], 0.9), autoregressive(x[..., 2], 0.97)
    s = summary(x)
    assert s.ess_bulk["x[2]"] < s.ess_bulk["x[1]"] < 400 < s.ess_bulk["x[0]"]
    assert any(f"bulk ESS {s.ess_bulk['x[2]']:.0f} on x[2] and off on 1 more" in line for line in s.advice)


def test_chains_that_never_moved_are_counted(normal):
    x = normal(8, 100, 2)
    x[2:4] = 0.3
    assert summary(x).advice[0] == "2 of 8 chains never moved: lower step_size, or start them elsewhere"


def test_where_chains_diverged_there_is_one_cure(normal):
    """And no other, for those that never moved or for few acceptances."""
    x, stats = normal(8, 400, 2), {"diverging": torch.zeros(8, 400, dtype=torch.bool)}
    stats |= {"acceptance_rate": torch.full((8, 400), 0.03), "n_steps": torch.full((8, 400), 7)}
    stats["diverging"][:3, 7] = True
    cure = "raise target_acceptance or reparameterise"
    x[2:4] = 0.3
    assert summary(x, stats).advice[:2] == (f"3 of 8 chains diverged: {cure} (2 never moved)",
                                            f"acceptance rate 0.03: {cure}")  # fmt: skip
    assert not any("step_size" in line for line in summary(x, stats).advice)
    x[:] = 0.3
    only = f"3 of 8 chains diverged and none ever moved: {cure}, and start where the energy is finite"
    assert summary(x, stats).advice == (only,)


@pytest.mark.parametrize(
    ("limit", "n_full", "beyond", "line"),
    [
        (10, 40, 0, "10 % of transitions reached the largest tree depth, 10: raise max_tree_depth or adapt a dense "
                    "mass"),
        (8, 5, 0, "1 % of transitions reached the largest tree depth, 8: raise max_tree_depth or adapt a dense mass"),
        (10, 4, 0, None),  # rarely
        (7, 400, 0, None),  # as short as a tree may well be
        (9, 40, 100, None),  # one went on and turned back later: there is no limit
    ],
)  # fmt: skip
def test_trees_that_are_full_are_counted(limit, n_full, beyond, line, normal):
    depth = torch.full((4, 100), limit - 1)
    depth.view(-1)[:n_full] = limit
    n_steps = 2**depth - 1
    n_steps[0, 0] += beyond
    advice = summary(normal(4, 100, 2), {"tree_depth": depth, "n_steps": n_steps}).advice
    assert [a for a in advice if "tree" in a] == ([line] if line else [])


def test_the_trees_of_a_sampler_are_told_to_be_full():
    from torchebm.core import GaussianModel
    from torchebm.samplers import NoUTurnSampler

    model = GaussianModel(mean=torch.zeros(1), cov=torch.eye(1))
    options = {"return_trajectory": True, "return_diagnostics": True, "n_samples": 2}
    for max_tree_depth, told in ((8, True), (12, False)):
        sampler = NoUTurnSampler(model, step_size=0.005, max_tree_depth=max_tree_depth)
        draws, found = sampler.sample(n_steps=5, generator=torch.Generator().manual_seed(0), **options)
        assert any("% of transitions reached the largest tree depth, 8:" in a
                   for a in summary(draws, found).advice) is told  # fmt: skip


def test_if_no_chain_moved_that_is_all_there_is_to_say():
    apart, together = torch.arange(4.0)[:, None, None].expand(4, 100, 2), torch.ones(4, 100, 2)
    for x, r_hat in ((apart, math.inf), (together, math.nan)):
        s = summary(x)
        assert s.advice == ("no chain ever moved: lower step_size, and start where the energy is finite",)
        assert s.r_hat["x[0]"] == pytest.approx(r_hat, nan_ok=True)
        assert "x[0]" in str(s)
    assert math.isnan(summary(together).ess_bulk["x[0]"])  # not the number of draws


def test_an_entry_that_never_changed_is_named(normal):
    x = normal(4, 500, 4)
    x[..., 1] = x[..., 3] = 2.0
    s = summary(x)
    assert s.advice == ("x[1] and 1 more never changed in any chain: check that the energy depends on it",)
    assert math.isnan(s.r_hat["x[1]"])
    assert (s.mean["x[1]"], s.sd["x[1]"]) == (2.0, 0.0)


def test_an_entry_of_two_values_has_figures(normal):
    s = summary((normal(4, 500) > 0).long())
    assert s.advice == ()
    assert s.r_hat["x"] < 1.01
    assert s.mean["x"] == pytest.approx(0.5, abs=0.06)


def test_few_acceptances_are_noticed(normal):
    line = "acceptance rate 0.02: lower step_size or the scale of proposals"
    assert summary(normal(4, 200), {"acceptance_rate": torch.full((4, 200), 0.02)}).advice == (line,)


def test_one_chain_cannot_agree_with_itself(normal):
    s = summary(normal(1, 1000))
    assert math.isnan(s.r_hat["x"])
    assert s.ess_bulk["x"] > 800
    assert s.advice == ("one chain: whether chains agree cannot be told from one, run four or more",)
    assert str(s).startswith("1 chain of 1000 draws")


def test_draws_that_are_not_finite_are_refused(normal):
    x = normal(64, 20, 2)
    x[3, 7:, 0], x[9, 11, 1] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 of 64 chains hold draws that are not finite, 14 of 1280 draws, the first "
                                         "at draw 7"):  # fmt: skip
        summary(x)
    keep = x.flatten(1).isfinite().all(1)  # as the message says
    assert summary(x[keep], {"diverging": torch.zeros(64, 20, dtype=torch.bool)[keep]}).n_chains == 62


def test_too_little_is_refused(normal):
    with pytest.raises(ValueError, match=r"have 3 draws; R-hat .* at least 4"):
        summary(normal(4, 3))
    with pytest.raises(ValueError, match="max_entries must be at least 1; got 0"):
        summary(normal(4, 10), max_entries=0)
    with pytest.raises(TypeError, match="max_entries must be a whole number"):
        summary(normal(4, 10), max_entries=2.0)


def test_of_images_the_worst_pixels_are_judged(normal):
    x = normal(8, 50, 3, 32, 32).float()
    x[..., 0, :] = 0.0  # a border that does not move
    x[0, :, 1, 5, 7] += 3
    x[:, 25:, 2, 9, 9] += 3  # the same drift in all chains
    began = time.perf_counter()
    s = summary(x, max_entries=20)
    assert time.perf_counter() - began < 5
    assert (s.n_entries, len(s.mean)) == (3 * 32 * 32, 20)
    assert {"x[1, 5, 7]", "x[2, 9, 9]"} == {label for label, value in s.r_hat.items() if value > 1.1}
    assert "3072 entries, of which these are the 20 whose chains disagree most" in str(s)
    assert any("x[0, 0, 0] and 95 more never changed" in line for line in s.advice)


def test_the_screening_ranks_as_r_hat_does(normal):
    x = autoregressive(normal(8, 200, 30), 0.5)
    x[0] += torch.linspace(0, 3, 30)
    assert np.corrcoef(screen(Entries(x)).disagreement, [v**2 for v in summary(x).r_hat.values()])[0, 1] > 0.95


def test_a_long_table_is_cut_and_says_so(normal):
    x = normal(4, 50, 60)
    x[0, :, 44] += 5
    s = summary(x)
    lines = str(s).splitlines()
    assert len(s.table) == 60
    assert sum(line.startswith("x[") for line in lines) == 24
    assert any(line.startswith("x[44]") for line in lines)
    assert "... and 36 better rows in .table" in lines


def test_the_table_is_a_frame_and_the_rest_plain(normal):
    s = summary(normal(4, 100, 2), {"diverging": torch.zeros(4, 100, dtype=torch.bool)}, names=["a", "b"])
    assert list(s.table.columns) == ["mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
    assert s.table.loc["b", "r_hat"] == s.r_hat["b"] == s["b"]["r_hat"]
    assert json.loads(json.dumps(s.as_dict()))["divergences"] == [0, 0, 0, 0]
    with pytest.raises(KeyError, match="there is no row 'c'; there are a, b"):
        s["c"]


def test_the_printed_table():
    """Every column in its place, the mean with the digits that its error leaves."""
    phase = torch.arange(400, dtype=torch.float64)
    x = torch.stack([torch.sin(phase * phase + k) for k in range(4)])
    printed = str(summary(100 + x, {"diverging": torch.zeros(4, 400, dtype=torch.bool)}, names="level")).splitlines()
    assert printed[0] == "4 chains of 400 draws"
    assert printed[1].split() == ["mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
    name, mean, sd, error, *_ = printed[2].split()
    assert name == "level"
    assert len(mean.split(".")[1]) == len(sd.split(".")[1]) == len(error.split(".")[1]) == 3
    assert len(printed[1]) == len(printed[2])
    assert printed[3] == "divergences: 0"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_draws_have_figures_in_float64(dtype, normal):
    x = normal(4, 500, 2).to(dtype)
    s = summary(x)
    assert s.mean["x[0]"] == pytest.approx(float(x[..., 0].double().mean()), rel=1e-12)
    assert s.r_hat["x[0]"] < 1.01


def test_the_input_is_not_modified(normal):
    x = normal(4, 100, 2)
    before = x.clone()
    summary(x)
    assert torch.equal(x, before)


def test_many_chains_stay_fast(normal):
    x = normal(64, 200, 10)
    summary(x)  # the first call imports
    began = time.perf_counter()
    summary(x)
    assert time.perf_counter() - began < 2  # 0.08 s on a free machine


def test_a_sampler_s_run_is_read_as_it_is():
    from torchebm.core import GaussianModel
    from torchebm.samplers import HamiltonianMonteCarlo

    model = GaussianModel(mean=torch.zeros(3), cov=torch.eye(3))
    sampler = HamiltonianMonteCarlo(model, step_size=0.5, n_leapfrog_steps=3)
    trajectory, found = sampler.sample(n_samples=8, n_steps=200, n_warmup=20, return_trajectory=True,
                                       return_diagnostics=True, generator=torch.Generator().manual_seed(0))  # fmt: skip
    s = summary(trajectory, found)
    assert s.n_divergences == 0
    assert max(s.r_hat.values()) < 1.05
    stats = diagnostics.to_arviz(trajectory, found).sample_stats
    assert set(stats.data_vars) == {"acceptance_rate", "diverging", "energy", "n_steps", "step_size"}
