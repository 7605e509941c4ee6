import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from torchebm import diagnostics
from torchebm.diagnostics.plots import autocorrelations, average_ranks, bfmi


@pytest.fixture
def figure():
    """A figure that pyplot does not know, drawn at the end: much of what can go wrong happens only then."""
    figure = Figure(layout="constrained")
    yield figure
    figure.canvas.draw()


@pytest.fixture
def stats():
    diverging = torch.zeros(4, 50, dtype=torch.bool)
    diverging[1, [3, 9]] = diverging[2, 9] = True
    return {"diverging": diverging}


def title(ax, where="right"):
    return ax.get_title(loc=where)


def test_trace_draws_each_chain_and_ticks_the_divergences(figure, stats, normal):
    x = normal(4, 50, 3)
    axes = diagnostics.trace(x, stats, names=["a", "b", "c"], entries=["c", "a"], figure=figure)
    assert [title(ax, "left") for ax in axes] == ["c", "a"]
    *chains, ticks = axes[0].lines
    for line, values in zip(chains, x[..., 2], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    np.testing.assert_array_equal(ticks.get_xdata(), [3, 9])
    assert title(axes[0]) == "3 divergences"


def test_of_many_entries_those_whose_chains_disagree_are_drawn(figure, normal):
    x = normal(4, 50, 2, 8, 8)
    x[0, :, 1, 2, 3] += 5
    axes = diagnostics.trace(x, max_panels=2, figure=figure)
    assert "x[1, 2, 3]" in [title(ax, "left") for ax in axes]
    assert title(axes[0]) == "2 of 128 entries, whose chains disagree most"


def test_ranks_of_agreeing_chains_are_level(figure, normal):
    x = normal(4, 2000)
    (ax,) = diagnostics.rank(x, bins=10, figure=figure)
    counts = np.array([patch.get_data()[0] for patch in ax.patches if hasattr(patch, "get_data")])
    assert counts.shape == (4, 10)
    np.testing.assert_array_equal(counts.sum(0), 800)
    np.testing.assert_array_equal(counts.sum(1), 2000)
    assert abs(counts - 200).max() < 75  # 6 standard deviations


def test_ranks_of_a_shifted_chain_are_high(figure, normal):
    x = normal(4, 200)
    x[2] += 10
    (ax,) = diagnostics.rank(x, bins=4, figure=figure)
    counts = [patch.get_data()[0] for patch in ax.patches if hasattr(patch, "get_data")]
    np.testing.assert_array_equal(counts[2], [0, 0, 0, 200])


def test_ties_share_their_rank():
    values = np.array([[3.0, 1.0, 1.0], [np.nan, 2.0, 3.0]])
    np.testing.assert_array_equal(average_ranks(values), [[4.0, 1.0, 1.0], [np.nan, 2.5, 4.0]])


def test_autocorrelation_is_that_of_the_definition(normal):
    x = normal(3, 40).numpy()
    rho = autocorrelations(x)
    for chain, values in zip(rho, x - x.mean(1, keepdims=True), strict=True):
        direct = [values[: 40 - lag] @ values[lag:] / (values @ values) for lag in range(40)]
        np.testing.assert_allclose(chain, direct, rtol=1e-10, atol=1e-12)


def test_autocorrelation_says_which_chains_have_none(figure, normal):
    x = normal(4, 50)
    x[1] = 0.1
    x[2, 7] = torch.nan
    (ax,) = diagnostics.autocorrelation(x, figure=figure)
    assert title(ax) == "2 of 4 chains constant or not finite"
    assert len(ax.lines) == 1 + 2 + 1  # zero, two chains, their mean


def test_e_bfmi_is_that_of_arviz(az, normal):
    energy = normal(4, 50).cumsum(1)
    data = az.bfmi(diagnostics.to_arviz(energy, {"energy": energy}))
    theirs = data if isinstance(data, np.ndarray) else data["energy"].values
    np.testing.assert_allclose(bfmi(energy.numpy()), theirs, rtol=1e-12)


def test_energy_tells_slow_from_fast(normal):
    fast = diagnostics.energy({"energy": normal(4, 2000)}, ax=Figure().add_subplot())
    low, high = (float(word) for word in title(fast).split()[1::2])
    assert 1.8 < low <= high < 2.2  # independent draws: 2 (1 - 0)
    slow = diagnostics.energy({"energy": normal(4, 500).cumsum(1)}, ax=Figure().add_subplot())
    assert title(slow).endswith("below 0.3 in 4 of 4 chains")


def test_energy_says_what_it_leaves_out(figure, normal):
    energy = normal(4, 50)
    energy[1] = 3.0
    energy[2, 5] = torch.inf
    ax = diagnostics.energy({"energy": energy}, ax=figure.add_subplot())
    assert title(ax).endswith("constant in 1; not finite in 1")
    diagnostics.energy({"energy": torch.zeros(4, 50)}, ax=Figure().add_subplot())


def test_pair_marks_the_divergences(figure, stats, normal):
    x = normal(4, 50, 3)
    axes = diagnostics.pair(x, stats, figure=figure)
    plain, marked = axes[2, 1].lines
    np.testing.assert_array_equal(marked.get_xdata(), x[..., 1][stats["diverging"]])
    np.testing.assert_array_equal(marked.get_ydata(), x[..., 2][stats["diverging"]])
    assert len(plain.get_xdata()) == 200 - 3
    assert [[ax is not None for ax in row] for row in axes] == [[True, False, False], [True, True, False], [True] * 3]
    assert title(axes[0, 0], "left") == "200 draws; 3 divergences"


def test_pair_thins_draws_but_no_divergence(figure, normal):
    diverging = torch.zeros(4, 2000, dtype=torch.bool)
    diverging[0, :7] = True
    axes = diagnostics.pair(normal(4, 2000, 2), {"diverging": diverging}, figure=figure)
    plain, marked = axes[1, 0].lines
    assert (len(plain.get_xdata()), len(marked.get_xdata())) == (3000, 7)
    assert title(axes[0, 0], "left") == "3000 of 8000 draws; 7 divergences"


@pytest.mark.parametrize("shape", [(3, 20), (1, 20, 1), (70, 10, 2), (2, 1, 2, 1)])
def test_every_shape_can_be_drawn(shape, normal):
    x = normal(*shape)
    for draw in (diagnostics.trace, diagnostics.rank, diagnostics.autocorrelation):
        draw(x)[0].figure.canvas.draw()
    if x[0, 0].numel() > 1:
        diagnostics.pair(x)[0, 0].figure.canvas.draw()


def test_what_is_not_finite_is_counted(normal):
    x = normal(4, 20, 2)
    x[1, 3:, 0] = torch.nan
    for draw in (diagnostics.trace, diagnostics.rank):
        axes = draw(x)
        assert title(axes[0]) == "17 values not finite"
        axes[0].figure.canvas.draw()
    axes = diagnostics.pair(x)
    assert title(axes[0, 0], "left").endswith("17 values not finite")
    axes[0, 0].figure.canvas.draw()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: diagnostics.trace(x, entries=["y"]), ValueError, "no entry 'y'; there are x.0., x.1."),
        (lambda x: diagnostics.trace(x, entries=[]), ValueError, "entries is empty"),
        (lambda x: diagnostics.trace(x[0, :, 0]), ValueError, r"expected \[chain, draw, \*event\]"),
        (lambda x: diagnostics.trace(x, {"diverging": x[:2, :, 0]}), ValueError, "another|same call"),
        (lambda x: diagnostics.trace(x, max_panels=0), ValueError, "at least 1; got 0"),
        (lambda x: diagnostics.rank(x, bins=1), ValueError, "bins must be at least 2"),
        (lambda x: diagnostics.autocorrelation(x, max_lag=20), ValueError, "from 0 to 19, in chains of 20"),
        (lambda x: diagnostics.pair(x, entries=["x[1]"]), ValueError, "needs two entries; got .'x.1.'."),
        (lambda x: diagnostics.energy({"mean": x}), ValueError, "hold .'mean'., no energy"),
        (lambda x: diagnostics.energy({"energy": x}), ValueError, r"expected \[chain, draw\]"),
        (lambda x: diagnostics.energy({"energy": x[..., 0] / 0}), ValueError, "0 of 4 chains are finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, error, message, normal):
    with pytest.raises(error, match=message):
        call(normal(4, 20, 2))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, normal):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for call in (diagnostics.trace, diagnostics.pair):
        with pytest.raises(ImportError, match=r'pip install "torchebm\[viz\]"'):
            call(normal(4, 20, 2))
