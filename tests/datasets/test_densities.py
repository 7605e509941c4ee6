"""Laws that every named density obeys, checked against grids and draws that share no code with them."""

import math

import pytest
import torch

from torchebm.datasets import DENSITIES, density, names

PLANAR = [name for name in names() if name != "gaussian_1d"]
PUBLISHED = {"eight_gaussians": 2.832, "twenty_five_gaussians": 2.145, "checkerboard": math.log(32)}


@pytest.fixture(params=names())
def p(request):
    return density(request.param)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def midpoints(p, m):
    """The centres of the cells of a grid of `m` cells a side over the bounds, and the volume of a cell."""
    low, high = p.bounds.double()
    ticks = [low[i] + (high[i] - low[i]) * (torch.arange(m, dtype=torch.float64) + 0.5) / m for i in range(len(low))]
    return torch.cartesian_prod(*ticks).reshape(-1, len(low)), float(((high - low) / m).prod())


def test_integrates_to_one_and_to_its_entropy(p):
    grid, cell = midpoints(p, 400)
    log_p = p.log_prob(grid)
    density_, surprise = log_p.exp(), torch.where(log_p > -700, -log_p * log_p.exp(), 0.0)
    assert float(density_.sum()) * cell == pytest.approx(1, abs=1e-7)  # float32 bounds and 1e-9 of mass outside them
    assert float(surprise.sum()) * cell == pytest.approx(p.entropy, abs=1e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_the_published_entropy(name):
    assert density(name).entropy == pytest.approx(PUBLISHED[name], abs=5e-4)


def test_draws_fill_the_cells_as_the_density_says(p):
    # Pearson's chi-square on cells integrated with 8 x 8 points each; with the 20 or more degrees of freedom
    # here, 8 of its standard deviations above its mean are passed with probability below 1e-6.
    n, m, fine = 100_000, 32, 8
    d = p.event_shape[0]
    grid, cell = midpoints(p, m * fine)
    mass = (p.log_prob(grid).exp() * cell).reshape([m, fine] * d).sum(dim=tuple(range(1, 2 * d, 2))).flatten()
    low, high = p.bounds.double()
    x = p.sample(n, seeded(), dtype=torch.float64)
    index = ((x - low) / (high - low) * m).floor().long().clamp(0, m - 1)
    flat = index[:, 0] if d == 1 else index[:, 0] * m + index[:, 1]
    counts = torch.bincount(flat, minlength=m**d).double()
    full = n * mass >= 5
    observed = torch.cat((counts[full], counts[~full].sum()[None]))
    expected = torch.cat((n * mass[full], (n * mass[~full].sum()[None]).clamp(min=5)))
    dof = len(observed) - 1
    assert dof >= 20
    assert ((observed - expected).square() / expected).sum() < dof + 8 * math.sqrt(2 * dof)
    assert counts[mass == 0].sum() == 0


def test_mean_surprise_of_draws_is_the_entropy(p):
    surprise = -p.log_prob(p.sample(20_000, seeded(1), dtype=torch.float64))
    standard_error = float(surprise.std()) / math.sqrt(len(surprise))
    assert abs(float(surprise.mean()) - p.entropy) <= 5 * standard_error + 1e-9  # fails with probability 6e-7


def test_bounds_hold_the_draws(p):
    x = p.sample(100_000, seeded(2))
    low, high = p.bounds
    assert low.shape == p.event_shape
    assert ((x >= low) & (x <= high)).all()  # fails with probability 1e-4 at 1e-9 a point, and the seed is fixed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_follows(p, dtype):
    x = p.sample(50, seeded(), dtype=dtype)
    before = x.clone()
    log_p = p.log_prob(x)
    assert (x.dtype, x.shape) == (dtype, (50, *p.event_shape))
    assert (log_p.dtype, log_p.shape) == (dtype, (50,))
    assert torch.equal(x, before)
    assert torch.equal(x, p.sample(50, seeded(), dtype=torch.float64).to(dtype))
    assert torch.equal(log_p, p.log_prob(x.double()).to(dtype))
    assert log_p.isfinite().all()


def test_default_dtype_and_device(p):
    assert p.sample(3).dtype == torch.get_default_dtype()
    assert p.sample(3, device="cpu").device.type == "cpu"
    if torch.cuda.is_available():
        x = p.sample(3, torch.Generator("cuda").manual_seed(0))
        assert x.device.type == p.log_prob(x).device.type == "cuda"
        torch.testing.assert_close(p.log_prob(x).cpu(), p.log_prob(x.cpu()))


def test_draws_come_from_the_generator_alone(p):
    before = torch.random.get_rng_state()
    assert torch.equal(p.sample(20, seeded()), p.sample(20, seeded()))
    assert not torch.equal(p.sample(20, seeded()), p.sample(20, seeded(1)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_generator_the_default_stream_is_used(p):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = p.sample(20), p.sample(20)
        torch.manual_seed(0)
        assert torch.equal(p.sample(20), first)
        assert not torch.equal(first, second)


def test_zero_points(p):
    x = p.sample(0, seeded())
    assert x.shape == (0, *p.event_shape)
    assert p.log_prob(x).shape == (0,)


def test_nan_in_is_nan_out(p):
    assert p.log_prob(torch.full((1, *p.event_shape), math.nan)).isnan().all()


@pytest.mark.parametrize("name", [name for name in names() if name != "checkerboard"])
def test_gradient_is_the_one_of_finite_differences(name):
    p = density(name)
    x = p.sample(5, seeded(3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(p.log_prob, (x,))


def test_bad_arguments_are_refused(p):
    d = p.event_shape[0]
    with pytest.raises(ValueError, match="n must be 0 or more"):
        p.sample(-1)
    with pytest.raises(TypeError, match="n must be an integer"):
        p.sample(2.0)
    with pytest.raises(TypeError, match="dtype must be floating point"):
        p.sample(2, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        p.sample(2, 0)
    with pytest.raises(TypeError, match="floating-point tensor"):
        p.log_prob(torch.zeros(3, d, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"expected x of shape \[n, {d}\], got \[3, 7\]"):
        p.log_prob(torch.zeros(3, 7))
    with pytest.raises(ValueError, match="For a grid or a single point"):
        p.log_prob(torch.zeros(d))


def test_checkerboard_leaves_the_empty_cells_empty():
    p = density("checkerboard")
    centres = torch.cartesian_prod(torch.arange(-3.0, 4, 2), torch.arange(-3.0, 4, 2))
    filled = (centres.sum(dim=1) % 4) == 2  # (1, 1), (-1, -1), (1, -3), ...
    log_p = p.log_prob(centres)
    assert filled.sum() == 8
    assert (log_p[filled] == -torch.tensor(32.0).log()).all()
    assert (log_p[~filled] == -math.inf).all()
    assert (p.log_prob(torch.tensor([[4.5, 1.0], [1.0, -4.5]])) == -math.inf).all()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):  # rounding may put a draw on an edge, never beyond
        assert p.log_prob(p.sample(100_000, seeded(4), dtype=dtype)).isfinite().all()
    assert p.log_prob(torch.tensor([[-4.0, -4.0], [4.0, 4.0], [0.0, 1.0], [2.0, 2.0]])).isfinite().all()


@pytest.mark.parametrize("name", ["two_moons", "swiss_roll"])
def test_quadrature_is_exact_far_into_the_tails(name):
    p, reference = density(name), density(name)
    reference.n_nodes = 1500
    low, high = p.bounds.double()
    x = low + (high - low) * torch.rand(500, 2, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), reference.log_prob(x), rtol=0, atol=1e-9)


def test_rings_are_circles_convolved_with_the_noise():
    p = density("rings")
    x = p.sample(100, seeded(), dtype=torch.float64)
    angles = 2 * math.pi * torch.arange(4000, dtype=torch.float64) / 4000
    circle = torch.stack((angles.cos(), angles.sin()), dim=1)
    blurred = 0.0
    for radius in (0.75, 1.5, 2.25, 3.0):
        squared = (x[:, None] - radius * circle).square().sum(dim=-1)
        blurred = blurred + (-squared / (2 * 0.08**2)).exp().mean(dim=1) / (2 * math.pi * 0.08**2) / 4
    torch.testing.assert_close(p.log_prob(x), blurred.log(), rtol=1e-10, atol=1e-10)


def test_registry_and_names():
    assert names() == tuple(DENSITIES) == (
        "gaussian_1d", "two_moons", "eight_gaussians", "twenty_five_gaussians", "checkerboard", "rings", "pinwheel",
        "swiss_roll",
    )  # fmt: skip
    assert [density(name).name for name in names()] == list(names())
    with pytest.raises(
        ValueError, match=r"no density is named 'two_moon'; expected one of gaussian_1d, .*'two_moons'\?"
    ):
        density("two_moon")
