"""Whole values in the coordinates of a Gaussian copula: its density, its moments, and what lies at the edges."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from torchebm.core import EnergyModel, HarmonicModel
from torchebm.core.copula import CopulaModel, CopulaTransform
from torchebm.samplers import HamiltonianMonteCarlo

F64 = torch.float64
MASSES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25]], dtype=F64)
MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=F64)
MATRIX = torch.tensor([[1.2, 0.1, 0.0], [0.4, 0.8, -0.3], [0.0, 0.2, 0.9]], dtype=F64)
COUNTS = [[0, 1], [0, 2], [1, 2], [0, 0], [3, 2], [0, 2]]


def copula(inner=None, d=3, low=-0.5, width=1.0):
    return CopulaModel(HarmonicModel() if inner is None else inner, MEAN[:d], MATRIX[:d, :d], MASSES[:d], low, width)


def points(n, d=3, seed=0, bins=3):
    return bins * torch.rand(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed)) - 0.5


# the density ----------------------------------------------------------------------------------------------------------


def normal_values(x, low=-0.5, width=1.0):
    """By the definition: a piecewise linear distribution function, then the normal quantile."""
    knots = low + width * np.arange(MASSES.shape[1] + 1)
    columns = [np.interp(x[:, i].numpy(), knots, np.concatenate([[0], np.cumsum(MASSES[i].numpy())])) for i in
               range(x.shape[1])]  # fmt: skip
    return scipy.stats.norm.ppf(np.stack(columns, 1))


@pytest.mark.parametrize(("low", "width"), [(-0.5, 1.0), (10.0, 0.25)])
def test_the_base_is_a_gaussian_copula(low, width):
    """Its density: that of a normal vector, times densities of the marginals over those of normal numbers."""
    x = low + width * (points(200) + 0.5)
    t = normal_values(x, low, width)
    joint = scipy.stats.multivariate_normal(MEAN.numpy(), (MATRIX @ MATRIX.T).numpy()).logpdf(t)
    bins = ((x - low) / width).floor().long()
    heights = np.log(MASSES[torch.arange(3), bins].numpy() / width)
    expected = joint + (heights - scipy.stats.norm.logpdf(t)).sum(1)
    found = -copula(low=low, width=width)(x) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-9, atol=1e-9)


def test_independent_components_have_their_histograms_as_density():
    model = CopulaModel(HarmonicModel(), torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64), MASSES)
    x = points(100)
    expected = MASSES[torch.arange(3), x.round().long()].log().sum(1)
    torch.testing.assert_close(-model(x) - 1.5 * math.log(2 * math.pi), expected, rtol=1e-9, atol=1e-9)


def test_the_mass_is_that_of_the_inner_density():
    inner = EnergyModel(lambda z: (0.5 * z.square() + z.sin()).sum(1))
    z = torch.linspace(-12, 12, 20_001, dtype=F64).unsqueeze(1)
    expected = float(torch.exp(-inner(z)).sum() * (z[1] - z[0]))
    model = CopulaModel(inner, MEAN[:1], torch.eye(1, dtype=F64), MASSES[:1])
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(400))
    mass = sum(float((0.5 * weights * torch.exp(-model((k + 0.5 * nodes).unsqueeze(1)))).sum()) for k in range(3))
    assert mass == pytest.approx(expected, rel=1e-4)


def test_the_gradient_is_that_of_the_energy():
    x = points(5).requires_grad_()
    assert torch.autograd.gradcheck(copula(), (x,), atol=1e-6)


def test_the_jacobian():
    model, x = copula(), points(4)
    z = model.transform.inv(x)
    for k in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda row: model.transform(row.unsqueeze(0))[0], z[k])
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(model.transform.log_abs_det_jacobian(z, x)[k], expected, rtol=1e-8, atol=1e-8)


def test_there_and_back():
    model, x = copula(), points(500)
    torch.testing.assert_close(model.transform(model.transform.inv(x)), x, rtol=0, atol=1e-9)
    z = torch.randn(500, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.transform.inv(model.transform(z)), z, rtol=1e-9, atol=1e-7)


def test_values_increase_with_the_normal_values_across_the_edges_of_bins():
    model = CopulaModel(HarmonicModel(), MEAN[:1] * 0, torch.eye(1, dtype=F64), MASSES[:1])
    edge = scipy.stats.norm.ppf(0.7)
    z = torch.tensor([edge - 1e-9, edge, edge + 1e-9], dtype=F64).unsqueeze(1)
    x = model.transform(z)[:, 0]
    assert bool((x.diff() >= 0).all())
    torch.testing.assert_close(x, torch.full((3,), 0.5, dtype=F64), rtol=0, atol=1e-6)


# the edges of the support ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_what_is_far_out_still_has_a_value_strictly_inside(dtype):
    model = copula().to(dtype)
    x = model.transform(torch.tensor([[40.0] * 3, [-40.0] * 3], dtype=dtype))
    assert x.dtype == dtype
    assert bool(((x > -0.5) & (x < 2.5)).all())
    assert bool(model(x).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_energies_are_infinite_outside_and_finite_at_the_very_ends(dtype):
    x = torch.tensor([[1.0, -0.6, 1.0], [1.0, 1.0, 2.6], [-0.5, 1.0, 2.5], [1.0, 1.0, 1.0]], dtype=dtype)
    energy = copula().to(dtype)(x)
    assert energy.dtype == dtype
    assert energy.isinf().tolist() == [True, True, False, False]
    assert not bool(energy.isnan().any())
    assert bool(copula().to(dtype).gradient(x[3:]).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("width", [0.1, 0.63, 1e-3])
@pytest.mark.parametrize("low", [-0.05, -0.315, -7.7, 100.1])  # of 0.63 three times from -0.315 the division rounds up
def test_ends_that_are_no_numbers_of_the_dtype(low, width, dtype):
    model = copula(low=low, width=width).to(dtype)
    ends = torch.tensor([[low] * 3, [low + 3 * width] * 3], dtype=F64).to(dtype)
    inside = torch.nextafter(ends, ends.flip(0))
    energy = model(model.transform(model.transform.inv(inside)))
    assert bool(energy.isfinite().all())


def test_the_map_follows_the_model():
    model = CopulaModel.from_data(HarmonicModel(), torch.tensor(COUNTS).float(), 0, 3).double()
    linear = model.transform.linear
    assert (linear.mean.dtype, linear.matrix.dtype, linear.inverse.dtype) == (F64, F64, F64)


def test_samplers_refuse_starts_outside():
    model = copula()
    with pytest.raises(ValueError, match="must lie inside"):
        HamiltonianMonteCarlo(model, step_size=0.1).sample(x=torch.full((2, 3), 3.0, dtype=F64), n_steps=1)


def test_chains_draw_from_the_histograms():
    """Of 4,000 independent draws; each share within 6 standard errors, so that one of nine fails once in 5e7 times."""
    model = CopulaModel(HarmonicModel(), torch.zeros(3), torch.eye(3), MASSES)
    sampler = HamiltonianMonteCarlo(model, step_size=0.3, n_leapfrog_steps=5)
    generator = torch.Generator().manual_seed(0)
    x = sampler.sample(x=torch.ones(4000, 3), n_steps=12, generator=generator)
    shares = torch.stack([(x.round() == k).double().mean(0) for k in range(3)], 1)
    error = (MASSES * (1 - MASSES) / 4000).sqrt()
    assert bool(((shares - MASSES).abs() < 6 * error).all())


# from data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_data_are_standard_in_the_coordinates(noise):
    """Data with uniform noise: the moments of the noise by a fine grid, one bin at a time."""
    data = torch.tensor(COUNTS, dtype=F64)
    model = CopulaModel.from_data(HarmonicModel(), data, 0, 3, noise=noise)
    grid = (torch.arange(100_000, dtype=F64) + 0.5) / 100_000
    cumulative = torch.nn.functional.pad(model.masses.cumsum(1), (1, 0))
    first, second = torch.zeros(6, 2, dtype=F64), torch.zeros(6, 2, dtype=F64)
    for n, row in enumerate(COUNTS):
        for i, k in enumerate(row):
            t = torch.special.ndtri((cumulative[i, k] + grid * model.masses[i, k]).clamp(max=1 - 1e-16))
            first[n, i], second[n, i] = t.mean(), t.square().mean()
    covariance = first.T.cov(correction=0)
    covariance.diagonal().copy_(second.mean(0) - first.mean(0).square())
    torch.testing.assert_close(model.mean, first.mean(0), rtol=0, atol=1e-4)
    expected = covariance + noise**2 * torch.eye(2)
    torch.testing.assert_close(model.matrix @ model.matrix.T, expected, rtol=0, atol=2e-4)


def test_marginals_are_counts_with_a_share_of_everybodys():
    model = CopulaModel.from_data(HarmonicModel(), torch.tensor(COUNTS, dtype=F64), 0, 3, pseudo_count=0.5)
    everybody = (np.array([5, 2, 4, 1]) + 1) / (12 + 4)
    for i, counts in enumerate(([4, 1, 0, 1], [1, 1, 4, 0])):
        expected = (np.array(counts) + 0.5 * 4 * everybody) / (6 + 0.5 * 4)
        np.testing.assert_allclose(model.masses[i].numpy(), expected, rtol=1e-12)


def test_images_in_other_units():
    """Quarters from -1 to 1, as images: the same model but for the width of the bins."""
    x = torch.tensor(COUNTS, dtype=torch.float32).view(6, 1, 2)
    whole = CopulaModel.from_data(HarmonicModel(), x, 0, 8)
    quarters = CopulaModel.from_data(HarmonicModel(), x / 4 - 1, -1, 1, width=0.25)
    assert quarters.event_shape == (1, 2)
    y = x + 0.3
    torch.testing.assert_close(quarters(y / 4 - 1), whole(y) + 2 * math.log(0.25), rtol=1e-5, atol=1e-5)


def test_the_map_is_saved_with_the_model():
    model = CopulaModel.from_data(HarmonicModel(), torch.tensor(COUNTS).float(), 0, 3)
    other = CopulaModel.from_data(HarmonicModel(), torch.zeros(2, 2), 0, 3)
    x = torch.tensor([[0.2, 1.9]])
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert torch.equal(other.transform(torch.ones(1, 2)), model.transform(torch.ones(1, 2)))


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.5, "row 1, counted from 0, has 1.5"), (4.0, "has 4"), (-1.0, "has -1"), (math.nan, "has nan")],
)
def test_data_must_be_whole_values_within_the_levels(value, said):
    data = torch.tensor([[0.0, 1.0], [2.0, value]])
    with pytest.raises(ValueError, match=said):
        CopulaModel.from_data(HarmonicModel(), data, 0, 3)


def test_what_makes_no_copula_is_refused():
    data = torch.tensor(COUNTS).float()
    with pytest.raises(ValueError, match="at least two points"):
        CopulaModel.from_data(HarmonicModel(), data[:1], 0, 3)
    with pytest.raises(ValueError, match="highest"):
        CopulaModel.from_data(HarmonicModel(), data, 3, 3)
    with pytest.raises(ValueError, match=r"whole steps of width=0\.4; got 7\.5"):
        CopulaModel.from_data(HarmonicModel(), data, 0, 3, width=0.4)
    with pytest.raises(ValueError, match=r"whole steps of width=1e\+06; got 3e-06"):
        CopulaModel.from_data(HarmonicModel(), data, 0, 3, width=1e6)
    with pytest.raises(ValueError, match="pseudo_count"):
        CopulaModel.from_data(HarmonicModel(), data, 0, 3, pseudo_count=0.0)
    with pytest.raises(ValueError, match="width"):
        CopulaModel.from_data(HarmonicModel(), data, 0, 3, width=-1.0)
    with pytest.raises(ValueError, match=r"masses must be positive, \[d, bins\] with d = 3"):
        CopulaTransform(MEAN, MATRIX, MASSES[:2])
    with pytest.raises(ValueError, match="masses must be positive"):
        CopulaTransform(MEAN, MATRIX, MASSES - 0.1)
    with pytest.raises(ValueError, match="sum to 1"):
        CopulaTransform(MEAN, MATRIX, MASSES * 2)
