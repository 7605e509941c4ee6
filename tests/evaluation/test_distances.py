"""Distances between sets of samples."""

import math

import pytest
import torch

from torchebm.evaluation import (
    class_shares,
    classifier_two_sample,
    compare,
    fitted_gaussian,
    nearest_distance,
    projections,
    sliced_wasserstein,
    sliced_wasserstein_ratio,
)


def generator():
    return torch.Generator().manual_seed(0)


def normal(*shape, scale=1.0, shift=0.0):
    return shift + scale * torch.randn(*shape, generator=generator(), dtype=torch.float64)


def test_sliced_wasserstein_of_a_shift():
    """A shift by v moves every projection by its component: the mean square is |v|^2 / d."""
    a, v = normal(50, 3), torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64)
    directions = projections(3, 200_000, generator=generator())
    assert sliced_wasserstein(a, a + v, directions) == pytest.approx(3 / math.sqrt(3), rel=0.01)
    assert sliced_wasserstein(a, a[torch.randperm(50)], directions) == pytest.approx(0, abs=1e-12)


def test_sliced_wasserstein_wants_sets_of_one_size():
    with pytest.raises(ValueError, match="10 and 5 points"):
        sliced_wasserstein(normal(10, 2), normal(5, 2), projections(2))


def test_ratio_is_one_for_real_data_and_grows_with_the_error():
    data = torch.randn(1500, 5, generator=generator())
    real, train, held_out = data.split(500)
    ratio = sliced_wasserstein_ratio(real, train, held_out, generator=generator())
    assert 0.6 < ratio < 1.6
    assert sliced_wasserstein_ratio(real * 1.5, train, held_out, generator=generator()) > 2 * ratio


def test_nearest_distance_of_images():
    reference = torch.zeros(3, 1, 2, 2)
    assert nearest_distance(torch.ones(2, 1, 2, 2), reference).tolist() == [2.0, 2.0]


def test_classifier_two_sample():
    a, b = torch.randn(800, 2, generator=generator()).split(400)
    assert abs(classifier_two_sample(a, b) - 0.5) < 0.08
    assert classifier_two_sample(a, b + 10) == 1.0


def test_fitted_gaussian_has_the_moments_of_the_data():
    data = normal(4000, 3) @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64) + 5
    draws = fitted_gaussian(data, 200_000, generator=generator())
    torch.testing.assert_close(draws.mean(0), data.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(draws.T.cov(), data.T.cov(), atol=0.06, rtol=0)
    assert draws[:, 2].std() < 1e-5  # a constant column stays constant


def test_class_shares():
    x = torch.cat([torch.randn(50, 2, generator=generator()) + 10 * k for k in range(3)])
    labels = torch.arange(3).repeat_interleave(50)
    assert class_shares(x[:100], x, labels) == [0.5, 0.5, 0.0]


def test_comparison_prefers_real_data_to_a_gaussian():
    """Two clusters: a Gaussian cannot be told to be data by any of the figures."""
    sign = torch.randint(2, (1500, 1), generator=generator()) * 2.0 - 1
    data = torch.randn(1500, 2, generator=generator()) * 0.2 + 3 * sign
    figures = compare(data[:500], data[500:1000], data[1000:], (sign[500:1000, 0] > 0).long(), generator=generator())
    assert figures["sw2_ratio"] < figures["gaussian"]["sw2_ratio"]
    assert figures["c2st"] < figures["gaussian"]["c2st"]
    assert figures["nearest_ratio"] == pytest.approx(1.0, abs=0.25)
    assert sum(figures["class_shares"]) == pytest.approx(1.0)


def test_memorised_data_shows():
    data = torch.randn(600, 2, generator=generator())
    assert compare(data[:200] + 1e-4, data[:400], data[400:], generator=generator())["nearest_ratio"] < 0.1


def test_nearest_distance_is_exact_far_from_the_origin():
    x = 100 + 0.3 * torch.randn(1000, 2, generator=generator())
    exact = (x.double().unsqueeze(1) - x.double().roll(1, 0)).norm(dim=-1).amin(1)
    torch.testing.assert_close(nearest_distance(x, x.roll(1, 0)).double(), exact, rtol=1e-4, atol=1e-6)
    y = 100 + 0.3 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))
    exact = (y.double().unsqueeze(1) - x.double()).norm(dim=-1).amin(1)
    torch.testing.assert_close(nearest_distance(y, x).double(), exact, rtol=1e-3, atol=1e-5)
