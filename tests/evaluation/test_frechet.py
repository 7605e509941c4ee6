"""The Fréchet distance, against closed forms and a root of the product."""

import warnings

import numpy as np
import pytest
import torch

from torchebm.evaluation import frechet_distance

F64 = torch.float64


def with_moments(n, mean, covariance, generator):
    """n points with exactly this mean and covariance."""
    x = torch.randn(n, len(mean), generator=generator, dtype=F64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False)
    return mean + white.T @ torch.linalg.cholesky(covariance).T


def covariance(d, generator):
    root = torch.randn(d, d, generator=generator, dtype=F64)
    return root @ root.T + 0.1 * torch.eye(d, dtype=F64)


def test_gaussians_that_share_axes(generator):
    """|μ - ν|² + Σ (σ - τ)²: the squared Wasserstein distance, axis by axis."""
    mean, sd, other = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.1, 3.0], [0.5, 0.1, 7.0]], dtype=F64)
    a = with_moments(50, mean, sd.square().diag(), generator)
    b = with_moments(70, -mean, other.square().diag(), generator)
    exact = 4 * mean.square().sum() + (sd - other).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e6])
def test_any_two_gaussians(scale, generator):
    """Against the eigenvalues of the product of the covariances, in other units too."""
    covs = [covariance(4, generator) for _ in range(2)]
    a, b = (scale * with_moments(30, torch.zeros(4, dtype=F64), c, generator) for c in covs)
    root = np.sqrt(np.linalg.eigvals((covs[0] @ covs[1]).numpy()).real).sum()
    exact = float(covs[0].trace() + covs[1].trace()) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(scale**2 * exact, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(scale**2 * exact, rel=1e-8)


def test_covariances_that_differ_by_sixteen_orders(generator):
    """A nearly singular covariance, whose product has no digits for the small axis: 1 and 1e-8 against 1 and 2e-8."""
    one, other = (torch.tensor([1.0, s], dtype=F64) for s in (1e-8, 3e-8))
    a, b = (with_moments(40, torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64), generator) for _ in range(2))
    difference = frechet_distance(a * one, b * other)
    assert difference == pytest.approx(0, abs=1e-14)
    assert frechet_distance((a * one)[:, 1:], (b * other)[:, 1:]) == pytest.approx(4e-16, rel=1e-8)


def test_equal_sets_and_their_order(generator):
    a = torch.randn(100, 1, 2, 3, generator=generator)
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-12)


def test_more_features_than_points_warn(generator):
    a, b = torch.randn(2, 5, 20, generator=generator)
    with pytest.warns(UserWarning, match=r"5 and 5 points with 20 features each.*Take 200 points"):
        found = frechet_distance(a, b)
    covs = [x.double().T.cov() for x in (a, b)]
    values, vectors = torch.linalg.eigh(covs[0])
    root = vectors * values.relu().sqrt() @ vectors.T
    between = torch.linalg.eigvalsh(root @ covs[1] @ root).relu().sqrt().sum()
    means = (a.double().mean(0) - b.double().mean(0)).square().sum()
    assert found == pytest.approx(float(means + covs[0].trace() + covs[1].trace() - 2 * between), rel=1e-6)
    with pytest.warns(UserWarning, match="20 and 30 points"):
        frechet_distance(torch.randn(20, 20), torch.randn(30, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(torch.randn(21, 20), torch.randn(30, 20))


def test_features_of_any_network(generator):
    """In batches, without a graph; the points themselves if there is none."""
    network, seen = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), []

    def features(x):
        seen.append((len(x), torch.is_grad_enabled()))
        return network(x).unsqueeze(-1)

    a, b = torch.randn(50, 1, 2, 2, generator=generator), 2 * torch.randn(30, 1, 2, 2, generator=generator)
    found = frechet_distance(a, b, features, batch_size=20)
    assert seen == [(20, False), (20, False), (10, False), (20, False), (10, False)]
    with torch.no_grad():
        assert found == pytest.approx(frechet_distance(network(a), network(b)), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: frechet_distance(x[:1], x), "a holds 1 points; at least 2"),
        (lambda x: frechet_distance(x, x[:0], lambda y: y), r"b must be a tensor .* got shape \[0, 2\]"),
        (lambda x: frechet_distance(x, x, lambda y: y.sum()), r"returned shape \[\] for 9 points; expected \[9"),
        (lambda x: frechet_distance(x, x, lambda y: y / 0), "features of a has entries that are not finite"),
        (lambda x: frechet_distance(x, x, batch_size=0, features=lambda y: y), "batch_size must be at least 1"),
    ],
    ids=["few", "empty", "shape", "nan", "batch"],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(18.0).reshape(9, 2))
