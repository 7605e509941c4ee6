"""Neighbourhoods and modes: figures of quality and variety."""

import math

import pytest
import torch

from torchebm.evaluation import density_coverage, kernels, mode_total_variation, precision_recall

F64 = torch.float64


def radius(x, i, k):
    return sorted(float((x[i] - x[j]).norm()) for j in range(len(x)) if j != i)[k - 1]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(2,), (1, 2, 2), ()], ids=str)
def test_they_are_their_formulas(k, shape, generator, monkeypatch):
    """Loops over points, radii by sorting; in small blocks too."""
    samples = torch.randn(14, *shape, generator=generator, dtype=F64)
    data = torch.randn(9, *shape, generator=generator, dtype=F64) + 0.5
    inside = [[float((s - data[i]).norm()) <= radius(data, i, k) for i in range(9)] for s in samples]
    around = [[float((d - samples[i]).norm()) <= radius(samples, i, k) for i in range(14)] for d in data]
    for entries in (2**22, 20):
        monkeypatch.setattr(kernels, "ENTRIES", entries)
        precision, recall = precision_recall(samples, data, k)
        assert precision == pytest.approx(sum(map(any, inside)) / 14)
        assert recall == pytest.approx(sum(map(any, around)) / 9)
        density, coverage = density_coverage(samples, data, k)
        assert density == pytest.approx(sum(map(sum, inside)) / (14 * k))
        assert coverage == pytest.approx(sum(map(any, zip(*inside, strict=True))) / 9)


def test_copies_of_the_data_are_perfect_and_far_points_nothing(generator):
    data = torch.randn(50, 40, generator=generator)
    assert precision_recall(data, data) == (1.0, 1.0)
    assert density_coverage(data, data).coverage == 1.0
    assert precision_recall(data + 100, data) == (0.0, 0.0)
    assert density_coverage(data + 100, data) == (0.0, 0.0)


def test_the_surface_belongs_to_the_neighbourhood():
    data, sample = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[3.0], [3.5]])
    assert precision_recall(sample, data, 1).precision == 0.5  # of radius 1, around 2
    assert density_coverage(sample, data, 1) == (0.5, pytest.approx(1 / 3))


def test_what_is_missing_lowers_the_right_figure(generator):
    """Half of the clusters: precise, without recall. Samples twice as wide: the other way round."""
    sign = torch.randint(2, (600, 1), generator=generator) * 2.0 - 1
    data = torch.randn(600, 2, generator=generator) + 10 * sign
    held_out, train = data[:300], data[300:]
    one = held_out[held_out[:, 0] > 0]
    precision, recall = precision_recall(one, train)
    assert precision > 0.85
    assert recall < 0.6
    assert density_coverage(one, train).coverage < 0.6
    scattered = 10 * torch.randn(300, 2, generator=generator)
    precision, recall = precision_recall(scattered, train)
    assert precision < 0.6 < recall


def test_coverage_of_exact_draws(generator):
    r"""$1 - \prod_{i=1}^{k} (n - i) / (2 n - i)$ on average for n draws beside n, whatever the density; of 300 sets,
    five standard errors."""
    n, k = 20, 3
    exact = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    found = [density_coverage(*torch.rand(2, n, 2, generator=generator).exp(), k) for _ in range(300)]
    coverage = torch.tensor([f.coverage for f in found])
    density = torch.tensor([f.density for f in found])
    assert abs(coverage.mean() - exact) < 5 * coverage.std() / math.sqrt(300)
    # a ball of k neighbours among n - 1 others holds k / n of new draws: its mass is Beta(k, n - k)
    assert abs(density.mean() - 1) < 5 * density.std() / math.sqrt(300)


def test_mode_total_variation():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    samples = centres[[0, 0, 0, 1]] + 0.1
    assert mode_total_variation(samples, centres) == pytest.approx(0.5 * (3 / 4 - 1 / 3 + 1 / 3 - 1 / 4 + 1 / 3))
    weights = torch.tensor([0.75, 0.25, 0.0])
    assert mode_total_variation(samples, centres, weights) == pytest.approx(0, abs=1e-7)
    images, places = samples.reshape(4, 1, 2), centres.reshape(3, 1, 2)
    assert mode_total_variation(images, places, weights) == pytest.approx(0, abs=1e-7)


def test_mode_total_variation_of_exact_draws(generator):
    """As large as its documentation says, to a tenth: of 500 sets of 1000, five standard errors are less."""
    centres = torch.arange(8.0).unsqueeze(1)
    draws = torch.randint(8, (500, 1000, 1), generator=generator).float()
    found = [mode_total_variation(samples, centres) for samples in draws]
    assert sum(found) / 500 == pytest.approx(8 * math.sqrt(1 / 8 * 7 / 8 / (2 * math.pi * 1000)), rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: precision_recall(x, x[:3]), "data holds 3 points; at least 4"),
        (lambda x: precision_recall(x[:3], x), "samples holds 3 points; at least 4"),
        (lambda x: precision_recall(x, x, 0), "k must be at least 1"),
        (lambda x: density_coverage(x, x[:5]), "data holds 5 points, which have no 5 neighbours each: at least 6"),
        (lambda x: density_coverage(x * math.nan, x), "samples has entries that are not finite, in 8 of 8"),
        (lambda x: density_coverage(x, x[:, :1]), r"samples holds points of shape \[2\], data points of shape \[1\]"),
        (lambda x: mode_total_variation(x, x, torch.ones(8)), "that sum to 1; got shape .8. with sum 8"),
        (lambda x: mode_total_variation(x, x, torch.ones(2) / 2), r"one share for each of 8 centres"),
        (lambda x: mode_total_variation(x, x[:2], torch.tensor([1.5, -0.5])), r"none negative"),
    ],
    ids=["data", "samples", "k", "neighbours", "nan", "shapes", "sum", "number", "sign"],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(16.0).reshape(8, 2))
