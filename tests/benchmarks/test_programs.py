"""What the benchmarks compute from what they measure; nothing here looks at a clock."""

import math
import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

LEAST = 32  # of `rig`


def row(cell, **us):
    return {"cell": str(cell), **cell._asdict(), "us": {name: [2 * t, t, 3 * t] for name, t in us.items()},
            "call_us": {name: LEAST * t + 100 for name, t in us.items()}}  # fmt: skip


@pytest.fixture
def cell(program):
    return program("cells").Cell


def test_lengths_are_multiples_that_take_about_as_long_as_asked(program):
    rig = program("rig")
    assert rig.LEAST == LEAST
    assert rig.next_length(LEAST, 0.02, 0.2) == 320
    assert rig.next_length(LEAST, 0.022, 0.2) == 320  # 290.9 rounded up
    assert rig.next_length(LEAST, 5.0, 0.2) == LEAST
    assert rig.next_length(LEAST, 0.0, 0.2) == rig.MOST


@pytest.mark.parametrize(("longest", "rounds"), [(math.inf, 7), (5.5, 6), (0.0, 5)])
def test_cells_that_take_long_have_fewer_rounds_and_each_begins_at_rest(longest, rounds, program, cell, monkeypatch):
    rests = []
    monkeypatch.setattr(time, "sleep", rests.append)

    class Steady:
        name = "steady"

        def ask(self, **request):
            return {"seconds": 1.0, "known": True}

    rig = program("rig")
    row = rig.measure(cell("langevin", "mlp", 1000, 2), [Steady()], 7, 0.1, longest)
    assert len(row["us"]["steady"]) == rounds
    assert rests == [rig.REST] * rounds
    assert rig.FEWEST == 5


@pytest.mark.parametrize(("took", "untimed"), [(1e-4, 3), (1.0, 0)])
def test_short_runs_are_timed_after_one_that_is_not(took, untimed, program, cell, monkeypatch):
    asked = []
    monkeypatch.setattr(time, "sleep", lambda seconds: asked.append("rest"))

    class Steady:
        name = "steady"

        def ask(self, **request):
            asked.append(request["n_steps"])
            return {"seconds": took * request["n_steps"], "known": True}

    rig = program("rig")
    row = rig.measure(cell("langevin", "mlp", 1000, 2), [Steady()], 3, 0.1)
    n = row["n_steps"]["steady"]
    assert n == (1024 if untimed else LEAST)
    assert asked[asked.index("rest") :] == ["rest", *([LEAST] if untimed else []), n] * 3
    assert row["us"]["steady"] == pytest.approx([took * 1e6] * 3)


def test_figures_in_tables(program):
    rig = program("rig")
    assert [rig.short(x) for x in (12345.6, 99.94, 0.01234, math.nan)] == ["12,346", "99.9", "0.0123", "-"]
    assert rig.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == 4.5
    assert rig.spread([3.0]) == 1.0
    assert rig.geometric_mean(x for x in (1.0, 4.0)) == 2.0
    assert math.isnan(rig.geometric_mean([]))
    assert rig.markdown(["a", "b"], [["x", "1"]]) == ["| a | b |", "|---|---:|", "| x | 1 |"]


@pytest.mark.parametrize("energy", ["mlp", "conv"])
def test_operations_are_those_that_pytorch_counts(program, cell, energy):
    one = cell("hmc", energy, 3, 64)
    network, x = program("torch_energies").network(one), torch.randn(3, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        network(x).sum().backward()
    counted = counter.get_total_flops()
    edges = 0.12 if energy == "conv" else 1e-12  # what is padded is counted as well, forward and backward
    assert counted == pytest.approx(3 * one.operations, rel=edges)


def test_ratios_are_of_compiled_to_blackjax_and_of_the_better_to_others(program, cell):
    grid = program("grid")
    one = row(cell("langevin", "mlp", 1000, 2), eager=2.0, compiled=4.0, blackjax=6.0, ebmkit=6.0)
    assert grid.ratio(one, "blackjax") == 1.5
    assert grid.ratio(one, "ebmkit") == 3.0
    other = row(cell("mala", "mlp", 1, 2), eager=2.0, compiled=4.0, blackjax=1.0, ebmkit=6.0)
    assert "geometric mean 1.50, lowest 1.50 (langevin mlp 1000x2)" in grid.against([one, other], "blackjax", 1000)
    assert "all cells: geometric mean 3.00" in grid.against([one, other], "ebmkit")
    assert grid.against([one], "plain") == ""


@pytest.mark.parametrize(
    ("chains", "sampler", "us", "said"),
    [
        (1000, "langevin", {"compiled": 2.0, "blackjax": 1.0, "floor": 1.0}, "0.50 of BlackJAX"),
        (1000, "mala", {"compiled": 1.2, "blackjax": 1.0, "floor": 1.0}, None),
        (1000, "langevin", {"compiled": 2.5, "blackjax": 3.0, "floor": 1.0}, "2.5 x the floor"),
        (1, "langevin", {"compiled": 3.9, "blackjax": 1.0, "floor": 1.0}, None),
        (1, "mala", {"compiled": 5.0, "blackjax": 1.0}, "0.200 of BlackJAX, for a single chain"),
        (1, "hmc", {"compiled": 9.0, "blackjax": 1.0}, None),
        (1, "hmc", {"compiled": 11.0, "blackjax": 1.0}, "0.091 of BlackJAX, for a single chain"),
        (1, "mala", {"compiled": 2.0, "eager": 3.0, "ebmkit": 1.0}, "0.50 of ebmkit"),
    ],
)
def test_what_falls_short_is_said(program, cell, chains, sampler, us, said):
    lines = program("grid").shortfalls([row(cell(sampler, "mlp", chains, 2), **us)])
    assert lines[1:] == ([] if said is None else [f"    - {sampler} mlp {chains}x2: {said}."])
    assert lines[0].endswith(": none." if said is None else "floor):")


def test_cells_beside_the_grid_count_in_no_mean(program, cell):
    grid, cells = program("grid"), program("cells")
    inside = row(cell("langevin", "mlp", 1000, 2), compiled=1.0, eager=1.0, blackjax=2.0)
    beside = row(cells.BESIDE[0], compiled=1.0, eager=1.0, blackjax=200.0)
    text = grid.report([inside, beside])
    assert "geometric mean 2.00" in text
    assert "Beside the grid" in text
    assert str(cells.BESIDE[0]) in text


def test_what_a_call_costs_is_what_is_left_of_a_short_run(program, cell):
    text = program("grid").fixed_costs([row(cell("langevin", "mlp", 1, 2), eager=5.0, floor=1.0)])
    assert text.endswith(": eager 100.")


def test_slower_means_beyond_the_tolerance(program):
    assert program("grid").slower({"a": 1.19, "b": 1.21, "new": 9.0}, {"a": 1.0, "b": 1.0}) == ["b"]


def test_slopes_are_those_of_powers(program):
    growth = program("growth")
    sizes = [1, 2, 30, 100, 5000]
    assert growth.slope(sizes, [5.0, *(2 * n**1.5 for n in sizes[1:])]) == pytest.approx(1.5)
    assert growth.cell_at("hmc", "chains", 7)[0].chains == 7
    assert growth.cell_at("hmc", "dimensions", 7)[0].dim == 7
    assert growth.cell_at("hmc", "steps", 7)[1] == 7


def test_plots_are_drawn(program, cell, tmp_path):
    pytest.importorskip("matplotlib")
    grid, growth = program("grid"), program("growth")
    one = row(cell("langevin", "mlp", 1000, 2), eager=2.0, compiled=4.0, blackjax=6.0)
    grid.plot([one], tmp_path / "grid.png")
    line = {"sampler": "hmc", "mode": "eager", "axis": "steps", "sizes": [1, 2], "seconds": [1.0, 2.0], "slope": 1.0}
    growth.plot([line, line | {"mode": "compiled", "axis": "chains"}], tmp_path / "growth.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("grid.png", "growth.png"))


def test_growth_is_reported(program):
    line = {"sampler": "hmc", "mode": "compiled", "axis": "steps", "sizes": [1, 2], "seconds": [1, 2], "slope": 1.0}
    held = {"compiled": {"above_import": 200_000_000, "above_loaded": 150_000_000}}
    text = program("growth").report([line], held)
    assert "| hmc, compiled | 1.00 |" in text
    assert "40 MB of numbers" in text
    assert "compiled 200 MB above the import, 150 MB of it for the run" in text


def test_figures_go_between_the_comments(program, tmp_path):
    figures = program("figures")
    (tmp_path / "growth.md").write_text("slopes\n")
    (tmp_path / "grid.md").write_text("table\n")
    (tmp_path / "growth.png").touch()
    inside = figures.figures(tmp_path, tmp_path)
    assert inside.index("### Transitions\n\ntable") < inside.index("### Growth\n\nslopes\n\n![")
    assert "benchmarks.png" not in inside
    page = f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n"
    new = figures.filled(page, inside)
    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")
    assert "old" not in new
    assert figures.filled(new, inside) == new
    with pytest.raises(ValueError, match="figures go between them"):
        figures.filled("a page", inside)


def test_the_page_has_the_figures_on_record(program):
    figures = program("figures")
    page = figures.PAGE.read_text()
    assert figures.filled(page, figures.figures()) == page, "run `python benchmarks/figures.py`"


# posteriors -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def posteriors(program):
    return program("posteriors")


def measured(posteriors, **changes):
    figures = {"contender": "our NUTS", "label": "eager", "chains": 4, "ess": 1000.0, "r_hat": 1.0, "error": 0.1,
               "warmup_s": 1.0, "draws_s": 3.0, "all_s": 9.0, "gradients": 8000}  # fmt: skip
    return posteriors.Measured(**figures | changes)


@pytest.mark.parametrize(("change", "sound"), [({}, True), ({"r_hat": 1.02}, False), ({"r_hat": math.nan}, False),
                                               ({"error": 0.2}, False), ({"error": math.nan}, False),
                                               ({"error": 0.2, "ess": 400.0}, True)])  # fmt: skip
def test_a_run_counts_if_it_is_right(posteriors, change, sound):
    run = measured(posteriors, **change)
    assert run.sound is sound
    assert run.rate == (run.ess / 4.0 if sound else 0.0)
    assert posteriors.line(run).endswith("does not count") is not sound


def test_the_best_round_counts_and_wrong_ones_do_not(posteriors):
    runs = [measured(posteriors, ess=1000.0), measured(posteriors, ess=2000.0, draws_s=1.0),
            measured(posteriors, ess=9000.0, r_hat=2.0)]  # fmt: skip
    found = posteriors.summarised([r._asdict() | {"rate": r.rate, "sound": r.sound} for r in runs])
    assert found["rate"] == 1000.0
    assert found["rate_of_draws"] == 2000.0
    assert found["per_gradient"] == 0.25
    nothing = posteriors.summarised([runs[2]._asdict() | {"rate": 0.0, "sound": False}])
    assert all(math.isnan(value) for value in nothing.values())


def test_losses_are_explained_by_draws_and_gradients(posteriors):
    def result(rate, per_gradient, gradients_per_s):
        return {"rate": rate, "rate_of_draws": rate, "first": rate, "first_s": 3.0, "seconds": 1.0, "chains": 4,
                "label": "eager", "per_gradient": per_gradient, "gradients_per_s": gradients_per_s}  # fmt: skip

    table = {"nes": {"our NUTS": result(100.0, 0.2, 500.0), "our ChEES": result(math.nan, 1.0, 1.0),
                     "nutpie": result(400.0, 0.1, 4000.0)},
             "arK": {"our NUTS": result(800.0, 1.0, 1.0), "nutpie": result(200.0, 1.0, 1.0)}}  # fmt: skip
    text = posteriors.report(table, "settings")
    assert (
        "- nes: 0.25 of nutpie. our NUTS gets 2.00 x as many effective samples from a gradient, and computes 0.12 x"
        in text
    )
    assert "- arK: 4" not in text
    assert "| geometric mean |  |  |  | **1.00** |" in text
    assert "| arK | 800 | - | 200 | 4 |" in text
    del table["arK"]["nutpie"]
    text = posteriors.report(table, "settings", ["our NUTS", "our ChEES", "NumPyro", "nutpie"])
    assert "- nes: no run of NumPyro counts." in text
    assert "- arK: no run of nutpie counts." in text
    assert "- arK: no run of our ChEES counts." in text
    assert "no run of nutpie counts" not in text.replace("- arK: no run of nutpie", "")


def test_sums_of_a_regression_give_the_squares(program, generator):
    reference = program("reference")
    design, y = np.random.default_rng(0).normal(size=(20, 3)), np.random.default_rng(1).normal(size=20)
    made, beta = reference.regression(design, y), np.array([0.3, -1.0, 2.0])
    away = beta - made["estimate"]
    assert away @ made["gram"] @ away + made["rest"] == pytest.approx(((y - design @ beta) ** 2).sum(), rel=1e-12)
    draws = np.arange(20.0).reshape(1, 2, 10)
    by_name = reference.named("eight_schools", draws)
    np.testing.assert_array_equal(by_name["tau"], draws[..., 9])
    np.testing.assert_array_equal(reference.stacked("eight_schools", by_name), draws)


# contenders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ours.py", "training_ours.py"])
def test_contenders_answer_until_they_stop(program, name):
    rig, cells = program("rig"), program("cells")
    cell = cells.TrainingCell(2, 8, 4, 2) if "training" in name else cells.Cell("hmc", "mlp", 4, 2)
    contender = rig.Contender("one", name, "eager")
    try:
        assert contender.ask(cell=cell._asdict(), n_steps=2)["known"]
        assert contender.ask(n_steps=2)["known"]
        with pytest.raises(rig.ContenderError, match="one stopped on"):
            contender.ask(cell={"nonsense": 1}, n_steps=1)
    finally:
        contender.close()


def test_ours_samples_a_posterior(program, tmp_path):
    rig = program("rig")
    contender, out = rig.Contender("one", "posteriors_ours.py"), tmp_path / "draws.npy"
    try:
        found = contender.ask(posterior="eight_schools", n_warmup=10, n_draws=4, seed=0, chains=3, out=str(out),
                              sampler_kind="ChEES")  # fmt: skip
    finally:
        contender.close()
    assert np.load(out).shape == (3, 4, 10)
    assert found["gradients"] > 0
