import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from torchebm import viz


def words(ax):
    return " ".join(text.get_text() for text in ax.texts)


def test_histogram_integrates_to_one_and_draws_the_density(ax, generator):
    normal = torch.distributions.Normal(0.0, 1.0)
    viz.histogram(torch.randn(400, 1, generator=generator), density=lambda x: normal.log_prob(x).exp(), ax=ax)
    height, edges, _ = ax.patches[0].get_data()
    assert (height * np.diff(edges)).sum() == pytest.approx(1)
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(y, np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), rtol=1e-5)


def test_histogram_counts_what_its_bounds_leave_out(ax):
    viz.histogram(torch.linspace(0, 1, 100), bounds=(0.5, 2), bins=10, ax=ax)
    height, edges, _ = ax.patches[0].get_data()
    assert len(height) == 10
    assert (height * np.diff(edges)).sum() == pytest.approx(0.5)
    assert "50 of 100 samples outside" in words(ax)


def test_histogram_of_a_constant_is_drawn(ax):
    viz.histogram(torch.full((10,), 1e9), ax=ax)


def test_marginals_use_the_same_bins_and_the_names(generator):
    data, samples = torch.randn(200, 5, generator=generator), torch.randn(100, 5, generator=generator)
    axes = viz.marginals(data, samples, ["a", "b", "c", "d", "e"], figure=Figure(layout="constrained"))
    assert [ax.get_xlabel() for ax in axes] == ["a", "b", "c", "d", "e"]
    for ax in axes:
        (height, edges, _), (_, other, _) = (patch.get_data() for patch in ax.patches)
        np.testing.assert_array_equal(edges, other)
        assert (height * np.diff(edges)).sum() == pytest.approx(1)
    axes[0].figure.canvas.draw()


def test_marginals_say_how_many_columns_they_leave_out():
    axes = viz.marginals(torch.zeros(10, 30), max_columns=6)
    assert len(axes) == 6
    assert axes[-1].get_title(loc="left") == "6 of 30 columns drawn"


def test_scatter_draws_both_clouds_and_counts_samples_outside(ax, generator):
    data = torch.rand(50, 2, generator=generator)
    viz.scatter(data, data + 10, ax=ax)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), data)
    np.testing.assert_allclose(ax.collections[1].get_offsets(), data + 10)
    assert "50 of 50 samples outside" in words(ax)


@pytest.mark.parametrize("shape", [(6, 8, 5), (6, 1, 8, 5), (6, 3, 8, 5)])
def test_sample_grid_has_every_pixel_in_its_place(shape, ax, generator):
    images = torch.rand(shape, generator=generator)
    viz.sample_grid(images, n_columns=4, value_range=(0, 1), ax=ax)
    canvas = np.asarray(ax.images[0].get_array())
    assert canvas.shape == (2 * 8 + 1, 4 * 5 + 3, 4)
    expected = images.view(6, -1, 8, 5)[5].permute(1, 2, 0)  # the second of the second row
    np.testing.assert_allclose(canvas[9:17, 6:11, :3], expected.expand(8, 5, 3), atol=1e-6)
    assert (canvas[8, :, 3] == 0).all()  # the gap
    assert (canvas[9:, 12:, 3] == 0).all()  # the places that are left
    assert ax.images[0].get_interpolation() == "nearest"


def test_sample_grid_scales_by_the_range_and_bytes_by_255(ax):
    viz.sample_grid(torch.tensor([[[0, 51]]], dtype=torch.uint8), ax=ax)
    viz.sample_grid(torch.tensor([[[-1.0, 0.0, 3.0]]]), value_range=(-1, 1), ax=ax)
    viz.sample_grid(torch.tensor([[[2.0, 3.0, 4.0]]]), ax=ax)
    rows = [np.asarray(image.get_array())[0, :, 0].tolist() for image in ax.images]
    assert rows == [[0, 0.2], [0, 0.5, 1], [0, 0.5, 1]]


def test_sample_grid_leaves_pixels_that_are_not_finite_blank(ax):
    viz.sample_grid(torch.tensor([[[0.0, torch.nan, 1.0]]]), ax=ax)
    assert np.asarray(ax.images[0].get_array())[0, :, 3].tolist() == [1, 0, 1]
    assert "1 pixels not finite" in words(ax)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.histogram(torch.zeros(0)), r"samples has shape \[0\]; expected \[n\] or \[n, 1\] with n > 0"),
        (lambda: viz.histogram(torch.zeros(5, 2)), r"samples\[:, 0\]"),
        (lambda: viz.marginals(torch.zeros(5)), r"data has shape \[5\]; expected \[n, d\]"),
        (lambda: viz.marginals(torch.zeros(5, 3), torch.zeros(5, 2)), r"expected \[m, 3\], the columns of data"),
        (lambda: viz.marginals(torch.zeros(5, 3), names=["a"]), "names has 1 entries; expected 3"),
        (lambda: viz.marginals(torch.zeros(5, 3), max_columns=0), "max_columns is 0"),
        (lambda: viz.scatter(torch.zeros(5, 3)), r"data\[:, :2\]"),
        (lambda: viz.scatter(torch.zeros(5, 2), bounds=((0, 1), (1, 0))), "low < high"),
        (lambda: viz.sample_grid(torch.zeros(5, 64)), r"\[5, 64\].*view\(-1, 1, height, width\)"),
        (lambda: viz.sample_grid(torch.zeros(5, 8, 8, 3)), "channels go before height"),
        (lambda: viz.sample_grid(torch.zeros(5, 8, 8), n_columns=0), "expected at least 1"),
    ],
)
def test_wrong_shapes_are_refused_with_the_fix(call, message):
    with pytest.raises(ValueError, match=message):
        call()
