"""Distances between sets of samples."""

import itertools
import math

import pytest
import torch

from torchebm.evaluation import (
    class_shares,
    classifier_two_sample,
    compare,
    energy_distance,
    fitted_gaussian,
    kernels,
    mmd,
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


def replicated(values, n, m):
    """The squared W2 in one dimension, from as many copies of each point as make the sets equally large."""
    one, other = values
    one, other = one.repeat_interleave(m, 0).sort(0).values, other.repeat_interleave(n, 0).sort(0).values
    return (one - other).square().mean()


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (6, 4), (5, 5), (12, 5)])
def test_sliced_wasserstein_of_sets_of_any_sizes(n, m):
    a, b, directions = normal(n, 2, 2), normal(m, 2, 2, scale=2, shift=1), projections(4, 3, generator=generator())
    projected = [[x.flatten(1) @ direction for x in (a, b)] for direction in directions.T]
    expected = sum(replicated(pair, n, m) for pair in projected) / 3
    assert sliced_wasserstein(a, b, directions) == pytest.approx(float(expected.sqrt()), rel=1e-12)
    assert sliced_wasserstein(a, b, generator=generator()) > 0


def test_directions_must_fit():
    with pytest.raises(ValueError, match=r"expected \[2, k\], unit vectors as columns"):
        sliced_wasserstein(normal(10, 2), normal(5, 2), projections(3))


def kernel(x, y, bandwidth):
    squared = (x - y).square().sum()
    return sum(torch.exp(-squared / (2 * (f * bandwidth) ** 2)) for f in (0.25, 0.5, 1.0, 2.0, 4.0)) / 5


@pytest.mark.parametrize("shape", [(), (2,), (1, 2, 3), (40,)], ids=str)
def test_mmd_and_energy_distance_are_their_formulas(shape, monkeypatch):
    """Loops over pairs; in blocks of a few rows as well."""
    a, b = normal(6, *shape) + 7, normal(9, *shape, scale=2.0, shift=7.5)
    points = torch.cat([a, b])
    apart = [float((x - y).norm()) for x, y in itertools.combinations(points, 2)]
    bandwidth = sorted(apart)[(len(apart) - 1) // 2]
    within = [sum(kernel(x, y, bandwidth) for x, y in itertools.permutations(s, 2)) / (len(s) * (len(s) - 1))
              for s in (a, b)]  # fmt: skip
    between = sum(kernel(x, y, bandwidth) for x in a for y in b) / 54
    expected = float(within[0] + within[1] - 2 * between)
    means = [[float((x - y).norm()) for x in s for y in t] for s, t in ((a, b), (a, a), (b, b))]
    distance = 2 * sum(means[0]) / 54 - sum(means[1]) / 36 - sum(means[2]) / 81
    for entries in (2**22, 20):
        monkeypatch.setattr(kernels, "ENTRIES", entries)
        assert mmd(a, b) == pytest.approx(expected, rel=1e-10)
        assert mmd(a, b, bandwidth=bandwidth) == pytest.approx(expected, rel=1e-10)
        assert energy_distance(a, b) == pytest.approx(distance, rel=1e-10)


def test_mmd_has_no_bias():
    """400 pairs of tiny sets: the mean is zero to five standard errors, which fails once in 1.7 million; a biased
    estimate would be off by forty."""
    g = generator()
    found = torch.tensor([mmd(torch.randn(8, 2, generator=g), torch.randn(5, 2, generator=g), bandwidth=1.0)
                          for _ in range(400)])  # fmt: skip
    assert abs(found.mean()) < 5 * found.std() / 20


def test_the_median_of_many_points_is_that_of_some():
    """Drawn by the generator, near the median of all (to a tenth), with the global stream left alone."""
    x, before = normal(1500, 2), torch.get_rng_state()
    found = [kernels.median_distance(x, generator()) for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(float(torch.nn.functional.pdist(x).median()), rel=0.1)
    assert mmd(x, x[:50], generator=generator()) == mmd(x, x[:50], generator=generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_energy_distance_in_closed_form():
    """Two points: 2 r. Normals one apart: from the mean absolute value of a normal."""
    assert energy_distance(torch.zeros(3, 2), torch.tensor([[3.0, 4.0]])) == 10.0
    g = generator()
    a, b = torch.randn(2, 3000, generator=g, dtype=torch.float64)
    z = torch.distributions.Normal(0.0, 1.0)

    def mean_absolute(mean):  # of a normal of variance 2
        t = torch.tensor(mean / math.sqrt(2))
        return math.sqrt(2) * float(2 * z.log_prob(t).exp() + t * (2 * z.cdf(t) - 1))

    exact = 2 * mean_absolute(1.0) - 2 * mean_absolute(0.0)
    assert energy_distance(a, b + 1) == pytest.approx(exact, abs=0.135)  # five standard errors


def test_distances_do_not_depend_on_the_origin():
    """A million standard deviations away, where squares of the points would have no digits left."""
    for d in (2, 50):
        a, b = normal(30, d), normal(40, d, scale=1.3)
        for function in (mmd, energy_distance):
            assert function(a + 1e6, b + 1e6) == pytest.approx(function(a, b), rel=1e-6)
        # of many components, the root of a rounding error for points that coincide
        assert energy_distance(a, a) == pytest.approx(0, abs=1e-12 if d == 2 else 1e-8)


def test_constant_sets():
    same = torch.ones(5, 2)
    assert mmd(same, same) == 0.0
    assert energy_distance(same, same) == 0.0
    assert sliced_wasserstein(same, same) == 0.0


FUNCTIONS = [mmd, energy_distance, sliced_wasserstein, nearest_distance, classifier_two_sample]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_bad_sets_are_named(function):
    good = normal(20, 2)
    nan = good.clone()
    nan[3, 1], nan[5, 0] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"a has entries that are not finite, in 2 of 20 points"):
        function(nan, good)
    with pytest.raises(ValueError, match="not finite, in 2 of 20 points"):
        function(good, nan)
    with pytest.raises(ValueError, match=r"holds 0 points"):
        function(good, good[:0])
    with pytest.raises(ValueError, match=r"points of shape \[2\].*\[3\]"):
        function(good, normal(20, 3))
    with pytest.raises(TypeError, match="must be a tensor"):
        function(good.tolist(), good)
    with pytest.raises(TypeError, match="real numbers"):
        function(good > 0, good)


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
