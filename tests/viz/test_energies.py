import math

import numpy as np
import pytest
import torch
from torch import nn

from torchebm import viz


def double_well(x):
    return 2 * (x[:, 0] ** 2 - 1) ** 2 + (x[:, 1] ** 2 if x.shape[1] > 1 else 0)


def words(ax):
    return " ".join(text.get_text() for text in ax.texts)


def test_landscape_draws_the_energy_at_the_grid_points_uncapped(ax):
    viz.energy_landscape(double_well, ((-2, 2), (-1, 3)), resolution=41, ax=ax)
    drawn = ax.images[0].get_array()
    x, y = np.linspace(-2, 2, 41), np.linspace(-1, 3, 41)
    np.testing.assert_allclose(drawn, 2 * (x[None] ** 2 - 1) ** 2 + y[:, None] ** 2, atol=1e-5)
    assert ax.get_xlim() == (-2, 2)
    assert ax.get_ylim() == (-1, 3)
    label = ax.images[0].colorbar.ax.get_ylabel()
    assert "percentile 75" in label
    assert f"{drawn.max():.3g}" in label


def test_landscape_density_integrates_to_one(ax):
    viz.energy_landscape(double_well, resolution=101, density=True, ax=ax)
    drawn = ax.images[0].get_array()
    assert drawn.sum() * 0.06**2 == pytest.approx(1, rel=1e-4)


def test_landscape_leaves_undefined_points_blank_and_counts_them(ax):
    def energy(x):
        return torch.where(x[:, 0] < 0, torch.nan, double_well(x))

    viz.energy_landscape(energy, resolution=20, ax=ax)
    mask = ax.images[0].get_array().mask
    assert mask[:, :10].all()
    assert not mask[:, 10:].any()
    assert "200 of 400 points not finite" in words(ax)


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_landscape_of_a_constant_is_drawn(value, ax):
    viz.energy_landscape(lambda x: torch.full((len(x),), value), resolution=5, ax=ax)


def test_landscape_draws_samples_and_trajectories_where_they_are(ax, generator):
    samples, trajectory = torch.randn(20, 2, generator=generator), torch.randn(3, 9, 2, generator=generator)
    samples[:4] = 9.0
    viz.energy_landscape(double_well, samples=samples, trajectory=trajectory, resolution=20, levels=0, ax=ax)
    start, end, dots = ax.collections
    np.testing.assert_allclose(ax.lines[1].get_xydata(), trajectory[1])
    np.testing.assert_allclose(start.get_offsets(), trajectory[:, 0])
    np.testing.assert_allclose(end.get_offsets(), trajectory[:, -1])
    np.testing.assert_allclose(dots.get_offsets(), samples)
    assert "4 of 20 samples outside" in words(ax)


def test_many_trajectories_are_drawn_too(ax):
    viz.energy_landscape(double_well, trajectory=torch.zeros(40, 2, 2), resolution=5, ax=ax)
    assert len(ax.lines) == 40


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.calls = []

    def forward(self, x):
        self.calls.append((x.dtype, self.net[1].training, torch.is_grad_enabled(), len(x)))
        return self.net(x).squeeze(-1)


def test_a_module_is_asked_once_in_its_dtype_in_eval_mode_and_its_modes_come_back(ax):
    model = Network().double()
    model.net[0].eval()
    viz.energy_landscape(model, resolution=10, ax=ax)
    assert model.calls == [(torch.float64, False, False, 100)]
    assert [m.training for m in (model, model.net[0], model.net[1])] == [True, False, True]


def test_energy_1d_draws_energy_density_histogram_and_truth(ax, generator):
    normal = torch.distributions.Normal(5.0, 1.0)
    data = 5 + torch.randn(500, 1, generator=generator)
    viz.energy_1d(lambda x: 0.5 * (x[:, 0] - 5) ** 2, (0, 10), data=data, truth=lambda x: normal.log_prob(x).exp(),
                  ax=ax)  # fmt: skip
    x, energy = ax.lines[0].get_data()
    np.testing.assert_allclose(energy, 0.5 * (x - 5) ** 2, atol=1e-5)
    right = ax.figure.axes[-1]
    model, truth = (line.get_ydata() for line in right.lines)
    np.testing.assert_allclose(model, truth, atol=1e-5)
    assert np.trapezoid(model, x) == pytest.approx(1, rel=1e-6)
    height, edges, _ = right.patches[0].get_data()
    assert (height * np.diff(edges)).sum() == pytest.approx(1)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "energy", "data", "density of the model", "true density"]  # fmt: skip


def test_energy_1d_with_a_wall_has_zero_density_behind_it_and_a_gap_in_the_energy(ax):
    viz.energy_1d(lambda x: torch.where(x[:, 0] < 0, torch.inf, x[:, 0]), (-1, 1), resolution=100, ax=ax)
    x, energy = ax.lines[0].get_data()
    assert np.isnan(energy[x < 0]).all()
    density = ax.figure.axes[-1].lines[0].get_ydata()
    assert (np.asarray(density)[x < 0] == 0).all()
    assert density[50] == pytest.approx(math.exp(-0.01) / (1 - math.exp(-1)), rel=0.02)
    assert "50 of 100 points" in words(ax)


def test_energy_1d_can_leave_the_density_out(ax):
    viz.energy_1d(double_well, (-2, 2), density=False, ax=ax)
    assert ax.figure.axes == [ax]


def test_energy_histograms_share_bins_and_count_what_is_outside(ax, generator):
    data, noise = torch.randn(1000, generator=generator), 100 + torch.randn(50, generator=generator)
    viz.energy_histograms({"data": data, "samples": data + 1, "noise": noise}, bins=30, ax=ax)
    (h_data, e_data, _), (_, e_samples, _), (h_noise, _, _) = (patch.get_data() for patch in ax.patches)
    np.testing.assert_array_equal(e_data, e_samples)
    inside = ((data >= e_data[0]) & (data <= e_data[-1])).double().mean()
    assert (h_data * np.diff(e_data)).sum() == pytest.approx(float(inside))
    assert h_noise.sum() == 0
    assert "50 of 50 noise outside" in words(ax)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.energy_landscape(lambda x: x[:, :1]), r"shape \[40000, 1\]; expected \[40000\].*squeeze"),
        (lambda: viz.energy_landscape(lambda x: 1.0), "returned float"),
        (lambda: viz.energy_landscape(double_well, samples=torch.zeros(5, 3)), r"samples has shape \[5, 3\]"),
        (lambda: viz.energy_landscape(double_well, trajectory=torch.zeros(9, 2)), r"expected \[chain, draw, 2\]"),
        (lambda: viz.energy_landscape(double_well, ((3, -3), (0, 1))), r"bounds\[0\] is \(3, -3\)"),
        (lambda: viz.energy_landscape(double_well, resolution=1), "resolution is 1"),
        (lambda: viz.energy_1d(double_well, (0, math.inf)), "two finite numbers"),
        (lambda: viz.energy_1d(double_well, (0, 1), data=torch.zeros(5, 2)), r"expected \[n\] or \[n, 1\]"),
        (lambda: viz.energy_1d(double_well, (0, 1), truth=lambda x: x.sum()), r"density returned values of shape \[\]"),
        (lambda: viz.energy_histograms({}), "empty"),
        (lambda: viz.energy_histograms({"data": torch.zeros(4, 1)}), r"\['data'\] has shape \[4, 1\]"),
    ],
)
def test_wrong_shapes_are_refused_with_the_fix(call, message):
    with pytest.raises(ValueError, match=message):
        call()
