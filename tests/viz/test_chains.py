import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from torchebm import viz


def bowl(x):
    return 0.5 * (x**2).sum(1)


@pytest.fixture
def walk(generator):
    return torch.randn(30, 16, 1, generator=generator).cumsum(1)  # [chain, draw, 1]


@pytest.mark.parametrize("index", [(1, 2), (-1, -1)])
def test_trace_draws_one_coordinate_of_each_chain(index, ax, generator):
    trajectory = torch.randn(3, 10, 2, 3, generator=generator)
    viz.trace(trajectory, index=index, ax=ax)
    for line, chain in zip(ax.lines, trajectory, strict=True):
        np.testing.assert_allclose(line.get_ydata(), chain[:, 1, 2])
    assert ax.get_ylabel() == "$x_{2,3}$"


def test_trace_of_a_statistic_needs_no_index(ax):
    assert viz.trace(torch.zeros(2, 5), ax=ax).get_ylabel() == "value"


def test_particle_flow_draws_each_path_against_the_step(walk, ax):
    viz.particle_flow(walk, ax=ax)
    segments = ax.collections[0].get_segments()
    assert len(segments) == 30
    np.testing.assert_allclose(segments[7][:, 0], np.arange(16))
    np.testing.assert_allclose(segments[7][:, 1], walk[7, :, 0])


def test_particle_flow_counts_the_particles_it_draws(walk, ax):
    viz.particle_flow(walk, max_particles=10, ax=ax)
    assert len(ax.collections[0].get_segments()) == 10
    assert "10 of 30 particles" in ax.texts[0].get_text()


def test_histogram_flow_draws_each_step_in_the_same_bins(walk):
    normal = torch.distributions.Normal(0.0, 4.0)
    axes = viz.histogram_flow(walk, lambda x: normal.log_prob(x).exp())
    assert [ax.get_title(loc="left") for ax in axes] == ["step 0", "step 1", "step 3", "step 7", "step 15"]
    edges = [ax.patches[0].get_data()[1] for ax in axes]
    for ax in axes:
        height = ax.patches[0].get_data()[0]
        np.testing.assert_array_equal(ax.patches[0].get_data()[1], edges[0])
        assert (height * np.diff(edges[0])).sum() == pytest.approx(1)
        assert len(ax.lines) == 1
    axes[0].figure.canvas.draw()


def test_histogram_flow_uses_the_axes_given(walk):
    places = Figure().subplots(1, 2)
    assert list(viz.histogram_flow(walk, steps=[0, 15], axes=places)) == list(places)


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("model", [None, bowl])
def test_animation_is_written_frame_by_frame(dimension, model, ax, tmp_path, generator):
    trajectory = torch.randn(20, 4, dimension, generator=generator).cumsum(1)
    path = viz.save_animation(viz.animate_flow(trajectory, model, interval=50, ax=ax), tmp_path / "flow.gif", dpi=40)
    with Image.open(path) as image:
        assert image.n_frames == 4
        assert image.info["duration"] == 50
    assert ax.get_title(loc="left") == "step 3"
    if dimension == 2:
        np.testing.assert_allclose(ax.collections[-1].get_offsets(), trajectory[:, -1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.trace(torch.zeros(5)), r"\[5\]; expected \[chain, draw, \*event\]"),
        (lambda: viz.trace(torch.zeros(2, 5, 3), index=3), r"index is 3; expected 1 number\(s\) inside .* \[3\]"),
        (lambda: viz.trace(torch.zeros(2, 5), index=0), r"expected 0 number"),
        (lambda: viz.particle_flow(torch.zeros(2, 5, 2)), r"\[2, 5, 2\]; expected \[chain, draw, 1\]"),
        (lambda: viz.histogram_flow(torch.zeros(2, 5), steps=[5]), "from 0 to 4"),
        (lambda: viz.histogram_flow(torch.zeros(2, 5), axes=[]), "axes has 0 entries"),
        (lambda: viz.animate_flow(torch.zeros(2, 5, 3)), r"expected \[chain, draw, 2\] or \[chain, draw, 1\]"),
        (lambda: viz.animate_flow(torch.zeros(2, 5, 2), bounds=(0, 1)), "for points in the plane"),
        (lambda: viz.save_animation(None, "flow.mp4"), r"expected a name that ends in .gif: 'flow.gif'"),
    ],
)
def test_wrong_shapes_are_refused_with_the_fix(call, message):
    with pytest.raises(ValueError, match=message):
        call()
