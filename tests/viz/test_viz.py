"""What every picture has in common: it returns the axes it was given, and changes neither inputs nor global state."""

import importlib
import sys

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchebm import viz


def bowl(x):
    return 0.5 * (x**2).flatten(1).sum(1)


PICTURES = {
    "energy_landscape": lambda x, ax: viz.energy_landscape(bowl, samples=x[:, :2], resolution=20, ax=ax),
    "energy_1d": lambda x, ax: viz.energy_1d(bowl, (-3, 3), data=x[:, 0], samples=x[:, :1], ax=ax),
    "energy_histograms": lambda x, ax: viz.energy_histograms({"data": x[:, 0], "other": x[:, 1]}, ax=ax),
    "histogram": lambda x, ax: viz.histogram(x[:, 0], ax=ax),
    "scatter": lambda x, ax: viz.scatter(x[:, :2], x[:, 1:3], ax=ax),
    "sample_grid": lambda x, ax: viz.sample_grid(x[:10].view(10, 2, 2), ax=ax),
    "trace": lambda x, ax: viz.trace(x, ax=ax),
    "particle_flow": lambda x, ax: viz.particle_flow(x, ax=ax),
}


@pytest.fixture
def x(generator):
    return torch.randn(60, 4, generator=generator)


@pytest.mark.parametrize("name", PICTURES)
def test_draws_on_the_axes_given_and_returns_them(name, x, ax):
    assert PICTURES[name](x, ax) is ax
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", PICTURES)
def test_makes_a_figure_of_its_own_without_axes(name, x):
    drawn = PICTURES[name](x, None)
    assert isinstance(drawn, Axes)
    assert plt.get_fignums() == [drawn.figure.number]
    drawn.figure.canvas.draw()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", PICTURES)
def test_any_dtype_with_gradients_is_drawn_and_left_alone(name, dtype, x, ax):
    x = x.to(dtype).requires_grad_()
    before, state = x.detach().clone(), torch.get_rng_state()
    PICTURES[name](x, ax)
    assert torch.equal(x, before)
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "sample_grid"])
def test_values_that_are_not_finite_are_counted_on_the_picture(name, x, ax):
    x[3] = torch.nan
    PICTURES[name](x, ax)
    words = " ".join(text.get_text() for text in ax.texts)
    assert "NaN" in words or "not finite" in words or "outside" in words


def test_exports_are_sorted_and_exist():
    assert viz.__all__ == sorted(viz.__all__)
    assert all(hasattr(viz, name) for name in viz.__all__)


def test_without_matplotlib_the_import_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torchebm.viz")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "torchebm\[viz\]"'):
        importlib.import_module("torchebm.viz")


def test_animation_and_panels_leave_pyplot_alone(x, tmp_path):
    flow = viz.animate_flow(x, ax=Figure().add_subplot())
    assert isinstance(flow, FuncAnimation)
    viz.save_animation(flow, tmp_path / "flow.gif", dpi=30)
    viz.marginals(x, figure=Figure())
    viz.training_curves([{"step": 0, "loss": 1.0}], figure=Figure())
    viz.histogram_flow(x, steps=[0, 3], axes=Figure().subplots(1, 2))
    assert plt.get_fignums() == []
