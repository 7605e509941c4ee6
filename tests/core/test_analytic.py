"""Closed-form energies: one table, and what must hold for every row of it."""

import copy
import math

import pytest
import torch
from torch.special import ndtr

from torchebm.core.analytic import (
    AckleyModel,
    BananaModel,
    ClosedFormModel,
    DoubleWellModel,
    FunnelModel,
    GaussianMixtureModel,
    GaussianModel,
    HarmonicModel,
    RastriginModel,
    RosenbrockModel,
)

F64 = torch.float64
COV = [[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]]
MEANS = [[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]]
COVS = [[[1.0, 0.5], [0.5, 1.0]], [[0.3, 0.0], [0.0, 2.0]], [[0.5, -0.2], [-0.2, 0.4]]]

# name: (how to make it, the event shape to try it on)
MODELS = {
    "gaussian": (lambda: GaussianModel([1.0, -1.0, 0.5], COV), (3,)),
    "mixture, covs": (lambda: GaussianMixtureModel(MEANS, COVS, [0.2, 0.5, 0.3]), (2,)),
    "mixture, shared": (lambda: GaussianMixtureModel(MEANS, COVS[0]), (2,)),
    "mixture, scale": (lambda: GaussianMixtureModel(MEANS, scales=0.7), (2,)),
    "mixture, scales": (lambda: GaussianMixtureModel(MEANS, scales=[[0.5, 1.0], [0.3, 0.4], [1.0, 2.0]]), (2,)),
    "harmonic": (lambda: HarmonicModel(k=3.0, dim=4), (4,)),
    "double well": (lambda: DoubleWellModel(dim=2), (2,)),
    "double well, wide": (lambda: DoubleWellModel(barrier_height=0.3, b=1.7), (2, 3)),
    "double well, scalar": (lambda: DoubleWellModel(), ()),
    "rastrigin": (lambda: RastriginModel(a=3.0, dim=3), (3,)),
    "rastrigin, image": (lambda: RastriginModel(), (1, 2, 2)),
    "ackley": (lambda: AckleyModel(), (2,)),
    "ackley, image": (lambda: AckleyModel(a=5.0, b=0.5, c=2.0), (1, 3, 2)),
    "ackley, scalar": (lambda: AckleyModel(), ()),
    "rosenbrock": (lambda: RosenbrockModel(a=1.0, b=5.0, dim=2), (2,)),
    "rosenbrock, 5-D": (lambda: RosenbrockModel(a=0.5, b=10.0), (5,)),
    "funnel": (lambda: FunnelModel(dim=5, scale=1.5), (5,)),
    "banana": (lambda: BananaModel(curvature=0.7, scale=1.3), (2,)),
}
every_model = pytest.mark.parametrize(("make", "event"), MODELS.values(), ids=MODELS.keys())


def points(n, event, dtype=F64):
    return torch.randn((n, *event), generator=torch.Generator().manual_seed(1), dtype=F64).to(dtype)


def autograd(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0]


@every_model
def test_gradient_is_that_of_the_energy(make, event):
    model, x = make().double(), points(50, event)
    torch.testing.assert_close(model.gradient(x), autograd(model, x), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(model.score(x), -model.gradient(x), rtol=0, atol=0)
    assert torch.autograd.gradcheck(model, (points(3, event).requires_grad_(),))


@every_model
def test_energy_and_gradient_agree_with_both(make, event):
    model, x = make(), points(20, event)
    energy, gradient = model.energy_and_gradient(x)
    torch.testing.assert_close(energy, model(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, model.gradient(x), rtol=1e-12, atol=1e-12)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_shape_and_dtype_follow_the_input(make, event, dtype, n):
    model, x = make(), points(n, event, dtype)
    for energy, gradient in (model.energy_and_gradient(x), (model(x), model.gradient(x))):
        assert energy.shape == (n,)
        assert gradient.shape == x.shape
        assert energy.dtype == gradient.dtype == dtype
        assert energy.isfinite().all()


@every_model
def test_float32_model_computes_in_float64_for_float64(make, event):
    model, x = make(), points(20, event)
    exact, rounded = model.gradient(x), model.gradient(x.float())
    assert not torch.equal(exact, rounded.double())  # computing in float32 and converting would be equal
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(exact, autograd(model, x), rtol=1e-10, atol=1e-11)


@every_model
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_leaves_no_trace(make, event, mode, requires_grad):
    model = make()
    x = points(5, event).requires_grad_(requires_grad)
    before, buffers = x.detach().clone(), copy.deepcopy(model.state_dict())
    with mode():
        energy, gradient = model.energy_and_gradient(x)
        again = model.gradient(x)
    assert torch.equal(gradient, again)
    assert not any(t.requires_grad for t in (energy, gradient, again))
    assert torch.equal(x.detach(), before)
    assert x.requires_grad is requires_grad
    assert x.grad is None
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())


@every_model
def test_accepts_inference_tensors_and_model_kwargs(make, event):
    model = make()
    with torch.inference_mode():
        x = points(5, event)
        assert torch.equal(model.gradient(x, label=torch.zeros(5)), model.gradient(x))
        assert torch.equal(model(x, label=torch.zeros(5)), model(x))


@every_model
def test_non_contiguous_points(make, event):
    model, x = make(), points(6, event)
    strided = torch.stack([x, x + 1], -1)[..., 0]
    assert not strided.is_contiguous()
    torch.testing.assert_close(model(strided), model(x))
    torch.testing.assert_close(model.gradient(strided), model.gradient(x))


@every_model
def test_state_dict_carries_everything(make, event):
    model, other, x = make(), make(), points(5, event)
    with torch.no_grad():
        for buffer in other.buffers():
            buffer.zero_()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    assert copy.deepcopy(model).double()(x).dtype == F64


@every_model
def test_traces_without_a_graph_break(make, event):
    model, x = make(), points(5, event)
    torch._dynamo.reset()
    traced = torch.compile(model.energy_and_gradient, fullgraph=True, backend="eager")
    for one, other in zip(traced(x), model.energy_and_gradient(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_whole_numbers_are_refused_rather_than_rounded():
    with pytest.raises(TypeError, match=r"floating point; got torch.int64"):
        HarmonicModel()(torch.tensor([[1, 2]]))


@pytest.mark.parametrize("model", [GaussianModel([0.0, 0.0], torch.eye(2)), GaussianMixtureModel(MEANS, scales=1.0),
                                   BananaModel(), FunnelModel(2), HarmonicModel(dim=2)])  # fmt: skip
@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (2,), (4, 2, 2)])
def test_points_of_another_shape_are_refused(model, shape):
    for method in (model, model.gradient, model.energy_and_gradient):
        with pytest.raises(ValueError, match=r"expected \[batch, 2\]"):
            method(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2, 2)])
def test_rosenbrock_wants_vectors(shape):
    with pytest.raises(ValueError, match=r"\[batch, dim\] with dim at least 2"):
        RosenbrockModel()(torch.zeros(shape))


# formulas, written a second time ------------------------------------------------------------------------------------


def test_energies_against_other_implementations():
    x = points(20, (2,))
    normal = torch.distributions.MultivariateNormal(torch.tensor(MEANS, dtype=F64), torch.tensor(COVS, dtype=F64))
    gaussian = GaussianModel(torch.tensor(MEANS[0], dtype=F64), torch.tensor(COVS[0], dtype=F64))
    torch.testing.assert_close(-gaussian(x) - gaussian.log_z, normal.log_prob(x.unsqueeze(1))[:, 0], rtol=1e-12, atol=0)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.2, 0.5, 0.3], dtype=F64)), normal
    )
    model = GaussianMixtureModel(torch.tensor(MEANS, dtype=F64), torch.tensor(COVS, dtype=F64), [0.2, 0.5, 0.3])
    torch.testing.assert_close(-model(x), mixture.log_prob(x), rtol=1e-6, atol=0)  # the weights are rounded to float32
    u, v = x.unbind(1)
    torch.testing.assert_close(RosenbrockModel(2.0, 3.0)(x), 3 * (v - u**2) ** 2 + (2 - u) ** 2)
    torch.testing.assert_close(DoubleWellModel(3.0, 2.0)(x), 3 * ((u**2 - 4) ** 2 + (v**2 - 4) ** 2))
    torch.testing.assert_close(HarmonicModel(3.0)(x), 1.5 * (u**2 + v**2))
    rastrigin = 20 + u**2 + v**2 - 10 * torch.cos(2 * math.pi * u) - 10 * torch.cos(2 * math.pi * v)
    torch.testing.assert_close(RastriginModel()(x), rastrigin)
    hole = -20 * torch.exp(-0.2 * torch.sqrt((u**2 + v**2) / 2))
    ripple = torch.exp((torch.cos(2 * math.pi * u) + torch.cos(2 * math.pi * v)) / 2)
    torch.testing.assert_close(AckleyModel()(x), hole - ripple + 20 + math.e)
    funnel = -torch.distributions.Normal(0, 3).log_prob(u) - torch.distributions.Normal(0, torch.exp(u / 2)).log_prob(v)
    torch.testing.assert_close(FunnelModel(2)(x) + FunnelModel(2).log_z, funnel)


@pytest.mark.parametrize("event", [(), (1,), (2,), (1, 8, 8)])
def test_ackley_is_flat_at_its_minimum(event):
    x = torch.zeros((3, *event), dtype=F64)
    model = AckleyModel()
    assert torch.equal(model(x), torch.zeros(3, dtype=F64))
    assert torch.equal(model.gradient(x), torch.zeros_like(x))
    assert torch.equal(autograd(model, x), torch.zeros_like(x))


def test_scales_and_covs_are_two_ways_to_say_the_same():
    x = points(9, (2,))
    scales = torch.tensor([0.5, 2.0, 1.0], dtype=F64)
    by_scale = GaussianMixtureModel(MEANS, scales=scales)
    by_cov = GaussianMixtureModel(MEANS, scales.square()[:, None, None] * torch.eye(2, dtype=F64))
    for one, other in zip(by_scale.energy_and_gradient(x), by_cov.energy_and_gradient(x), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(by_scale.covs, by_cov.covs)
    torch.testing.assert_close(by_scale.cov, by_cov.cov)


def test_ill_conditioned_covariance_is_factored_in_float64():
    scales = torch.tensor([1e-4, 1.0, 1e4])
    rotation = torch.linalg.qr(points(3, (3,)))[0]
    cov = rotation @ torch.diag(scales.double()) @ rotation.mT
    model, x = GaussianModel(torch.zeros(3), cov), points(10, (3,))
    torch.testing.assert_close(model(x), 0.5 * (x * torch.linalg.solve(cov, x.mT).mT).sum(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(GaussianModel(torch.zeros(3), torch.diag(scales)).gradient(x), x / scales.double())


def test_bfloat16_model_keeps_its_normaliser():
    model = GaussianModel([0.0, 0.0], 4 * torch.eye(2)).to(torch.bfloat16)
    assert abs(float(model.log_z) - math.log(2 * math.pi * 4)) < 1e-12


def test_the_precision_lies_row_by_row():
    assert GaussianModel(torch.zeros(3), torch.eye(3) + 0.1).precision.is_contiguous()


def test_tensors_given_are_not_shared():
    mean, cov = torch.zeros(2), torch.eye(2)
    model = GaussianModel(mean, cov)
    mean += 1
    cov *= 2
    assert torch.equal(model.mean, torch.zeros(2))
    assert torch.equal(model.cov, torch.eye(2))
    with pytest.raises(AttributeError, match="cov"):  # it would leave the precision behind
        model.cov = 2 * torch.eye(2)


# normalisers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reach"),
    [
        (GaussianModel([1.0], [[0.3]]), 12),
        (HarmonicModel(0.5, dim=1), 20),
        (DoubleWellModel(dim=1), 4),
        (DoubleWellModel(20.0, 3.0, dim=1), 4),
        (DoubleWellModel(1e-3, 0.5, dim=1), 20),
        (RastriginModel(dim=1), 8),
        (RastriginModel(0.0, dim=1), 8),
        (RastriginModel(200.0, dim=1), 8),
    ],
    ids=repr,
)
def test_log_z_and_variance_in_one_dimension(model, reach):
    t = torch.linspace(-reach, reach, 200_001, dtype=F64)
    density = torch.exp(-model(t.unsqueeze(1)))
    z = torch.trapezoid(density, t)
    torch.testing.assert_close(model.log_z, z.log(), rtol=1e-7, atol=1e-7)
    if hasattr(model, "variance"):
        torch.testing.assert_close(model.variance, (torch.trapezoid(density * t**2, t) / z).reshape(1).float())


@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        (GaussianModel([1.0, -1.0], COVS[0]), (-9, -11), (11, 9)),
        (GaussianMixtureModel(MEANS, COVS, [0.2, 0.5, 0.3]), (-12, -12), (12, 14)),
        (GaussianMixtureModel(MEANS, scales=[0.5, 1.0, 0.7]), (-12, -12), (12, 14)),
        (DoubleWellModel(dim=2), (-4, -4), (4, 4)),
        (RosenbrockModel(1.0, 5.0, dim=2), (-5, -3), (7, 50)),
        (BananaModel(0.7, 1.3), (-11, -10), (11, 90)),
        (FunnelModel(2, 0.5), (-4, -60), (4, 60)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_log_z_and_moments_in_the_plane(model, low, high):
    u, v = (torch.linspace(a, b, 1201, dtype=F64) for a, b in zip(low, high, strict=True))
    x = torch.cartesian_prod(u, v)
    mass = torch.exp(-model(x)) * (u[1] - u[0]) * (v[1] - v[0])
    assert abs(float(mass.sum().log() - model.log_z)) < 1e-6
    mass /= mass.sum()
    mean = mass @ x
    cov = (x - mean).mT @ (mass.unsqueeze(1) * (x - mean))
    torch.testing.assert_close(model.mean.double(), mean, rtol=1e-5, atol=1e-5)
    its_cov = model.cov if hasattr(model, "cov") else torch.diag(model.variance)
    torch.testing.assert_close(its_cov.double(), cov, rtol=1e-5, atol=1e-5)


def test_normalised_energies_integrate_to_one():
    t = torch.linspace(-4, 4, 10_001, dtype=F64)
    model = DoubleWellModel(dim=1).normalized()
    assert abs(float(torch.trapezoid(torch.exp(-model(t.unsqueeze(1))), t)) - 1) < 1e-9
    assert abs(float(model.log_z)) < 1e-12


# exact draws --------------------------------------------------------------------------------------------------------


def funnel_to_normal(model, x):
    return torch.cat([x[:, :1] / model.scale, x[:, 1:] * torch.exp(-0.5 * x[:, :1])], 1)


def rosenbrock_to_normal(model, x):
    return torch.stack([(x[:, 0] - model.a) * 2**0.5, (x[:, 1] - x[:, 0] ** 2) * (2 * model.b) ** 0.5], 1)


def banana_to_normal(model, x):
    bend = model.curvature * (x[:, 0] ** 2 - model.scale**2)
    return torch.stack([x[:, 0] / model.scale, x[:, 1] - bend], 1)


def gaussian_to_normal(model, x):
    return torch.linalg.solve_triangular(torch.linalg.cholesky(model.cov), (x - model.mean).mT, upper=False).mT


def to_normal_by_quadrature(model, x):
    t = torch.linspace(-7, 7, 140_001, dtype=F64)
    one = type(model)(**{key: getattr(model, key) for key in ("barrier_height", "b", "a") if hasattr(model, key)})
    cdf = torch.cumsum(torch.exp(-one(t.unsqueeze(1))), 0)
    index = torch.searchsorted(t, x.contiguous()).clamp(max=len(t) - 1)
    return torch.special.ndtri((cdf / cdf[-1])[index].clamp(1e-12, 1 - 1e-12))


SAMPLERS = {
    "gaussian": (GaussianModel(torch.tensor([1.0, -1.0, 0.5], dtype=F64), COV).double(), gaussian_to_normal),
    "harmonic": (HarmonicModel(3.0, dim=2), lambda model, x: x * model.k**0.5),
    "rosenbrock": (RosenbrockModel(1.0, 5.0, dim=2), rosenbrock_to_normal),
    "funnel": (FunnelModel(3), funnel_to_normal),
    "banana": (BananaModel(), banana_to_normal),
    "double well": (DoubleWellModel(dim=2), to_normal_by_quadrature),
    "double well, split": (DoubleWellModel(30.0, 2.0, dim=1), to_normal_by_quadrature),
    "rastrigin": (RastriginModel(4.0, dim=2), to_normal_by_quadrature),
}


def kolmogorov_smirnov(z):
    """The statistic sqrt(n) D of each column against the normal; above 2.9 with probability 2 exp(-2 2.9²) = 1e-7."""
    n = len(z)
    u = ndtr(z.double()).sort(0).values
    grid = torch.arange(n + 1, dtype=F64).unsqueeze(1) / n
    return n**0.5 * torch.maximum(grid[1:] - u, u - grid[:-1]).amax(0)


@pytest.mark.parametrize(("model", "to_normal"), SAMPLERS.values(), ids=SAMPLERS.keys())
def test_draws_become_standard_normal(model, to_normal):
    """Failure probability below 1e-5: a handful of columns and products at 1e-7 each."""
    n = 20_000
    x = model.double().sample(n, generator=torch.Generator().manual_seed(2))
    assert x.shape == (n, *model.event_shape)
    assert x.dtype == F64
    z = to_normal(model, x)
    assert (kolmogorov_smirnov(z) < 2.9).all()
    products = z.mT @ z / n - torch.eye(z.shape[1])  # independent columns: uncorrelated, and so are their squares
    squares = (z.square() - 1).mT @ (z.square() - 1) / n
    assert products.fill_diagonal_(0).abs().max() < 5.5 / n**0.5
    assert squares.fill_diagonal_(0).abs().max() < 2 * 8 / n**0.5


@pytest.mark.parametrize("name", ["gaussian", "mixture, covs", "mixture, scales", "harmonic", "double well", "banana",
                                  "rosenbrock", "rastrigin"])  # fmt: skip
def test_draws_have_the_moments(name):
    """Means within 5 standard errors, covariances too; failure probability below 1e-5 for a test."""
    model, n = MODELS[name][0](), 40_000
    x = model.sample(n, generator=torch.Generator().manual_seed(3)).double()
    mean = model.mean.double()
    cov = model.cov.double() if hasattr(model, "cov") else torch.diag(model.variance.double())
    assert ((x.mean(0) - mean).abs() < 5 * x.std(0) / n**0.5).all()
    centered = x - mean
    products = centered.unsqueeze(2) * centered.unsqueeze(1)
    assert ((products.mean(0) - cov).abs() < 5 * products.std(0) / n**0.5 + 1e-12).all()


@pytest.mark.parametrize("name", ["mixture, covs", "mixture, shared", "mixture, scale", "mixture, scales"])
def test_mixture_draws_follow_each_marginal(name):
    """Failure probability below 1e-6: two columns at 1e-7 each."""
    model = MODELS[name][0]().double()
    x = model.sample(20_000, generator=torch.Generator().manual_seed(4))
    scale = model.covs.diagonal(dim1=-2, dim2=-1).sqrt()
    cdf = (model.weights[:, None] * ndtr((x.unsqueeze(1) - model.means) / scale)).sum(1)
    assert (kolmogorov_smirnov(torch.special.ndtri(cdf)) < 2.9).all()


@pytest.mark.parametrize("name", [name for name, (make, _) in MODELS.items()
                                  if make().event_shape is not None and hasattr(make(), "sample")])  # fmt: skip
def test_draws_come_from_the_generator_alone(name):
    make, event = MODELS[name]
    model = make()
    before = torch.get_rng_state()
    one, same = (model.sample(5, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, same)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.shape == (5, *event)
    assert one.dtype == torch.float32
    assert model.double().sample(0).shape == (0, *event)
    assert model.sample(1).dtype == F64
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator"):
        model.sample(3, generator=0)
    for wrong in (-1, 2.5, True):
        with pytest.raises((ValueError, TypeError), match="n must be"):
            model.sample(wrong)


def test_units_that_differ_by_many_orders_make_no_covariance_singular():
    widths, roots = torch.logspace(-10, 10, 6, dtype=F64), 0.6 * torch.ones(6, 6, dtype=F64) + 0.4 * torch.eye(6)
    model, unit = (GaussianModel(torch.zeros(6, dtype=F64), w[:, None] * roots * w) for w in (widths, widths**0))
    x = torch.randn(5, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x * widths), unit(x), rtol=1e-10, atol=0)
    torch.testing.assert_close(model.gradient(x * widths) * widths, unit.gradient(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.log_z, unit.log_z + widths.log().sum(), rtol=1e-10, atol=1e-10)
    covs = torch.stack([widths.square().diag(), widths.flip(0).square().diag()])
    assert GaussianMixtureModel(torch.zeros(2, 6, dtype=F64), covs)(x).isfinite().all()
    for singular in (torch.ones(6, 6, dtype=F64), 2 * roots - torch.eye(6)):  # correlations of 1, and of more
        with pytest.raises(ValueError, match="positive definite"):
            GaussianModel(torch.zeros(6), widths[:, None] * singular * widths)


# errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: GaussianModel(torch.zeros(2), [[1.0, 2.0], [2.0, 1.0]]), ValueError, "smallest eigenvalue is -1"),
        (lambda: GaussianModel(torch.zeros(2), torch.ones(2, 2)), ValueError, "positive definite"),
        (lambda: GaussianModel(torch.zeros(2), torch.zeros(2, 2)), ValueError, "smallest eigenvalue is 0"),
        (lambda: GaussianModel(torch.zeros(2), [[1.0, 2.0], [2.0, 0.0]]), ValueError, "smallest eigenvalue is -1.56"),
        (lambda: GaussianModel(torch.zeros(2), [[1.0, 0.0], [0.0, -3.0]]), ValueError, "smallest eigenvalue is -3"),
        (lambda: GaussianModel(torch.zeros(2), [[1.0, 0.5], [0.4, 1.0]]), ValueError, "symmetric; .* differ by 0.1"),
        (lambda: GaussianModel(torch.zeros(2), [[1.0, float("nan")], [0.0, 1.0]]), ValueError, "NaN"),
        (lambda: GaussianModel(torch.zeros(2), torch.eye(3)), ValueError, r"must be \[2, 2\]; got shape \[3, 3\]"),
        (lambda: GaussianModel(torch.zeros(2), torch.ones(2)), ValueError, r"\[dim, dim\]; got shape \[2\]"),
        (lambda: GaussianModel(torch.zeros(2, 1), torch.eye(2)), ValueError, r"\[dim\]; got shape \[2, 1\]"),
        (lambda: GaussianModel(torch.zeros(0), torch.zeros(0, 0)), ValueError, "must not be empty"),
        (lambda: GaussianModel("zero", torch.eye(2)), TypeError, "mean must be a tensor"),
        (lambda: GaussianModel(torch.zeros(2), torch.eye(2) * 1j), TypeError, "real numbers"),
        (lambda: GaussianMixtureModel(MEANS), TypeError, "covs or scales, one of the two"),
        (lambda: GaussianMixtureModel(MEANS, COVS, scales=1.0), TypeError, "covs or scales, one of the two"),
        (lambda: GaussianMixtureModel(MEANS, COVS[:2]), ValueError, r"covs must be \[2, 2\] or \[3, 2, 2\]"),
        (lambda: GaussianMixtureModel(MEANS, [[1.0, 2.0], [2.0, 1.0]]), ValueError, "covs must be positive definite"),
        (lambda: GaussianMixtureModel(MEANS, scales=0.0), ValueError, "scales must be positive"),
        (lambda: GaussianMixtureModel(MEANS, scales=[1.0, 2.0]), ValueError, r"scales must be .* \[3\]"),
        (lambda: GaussianMixtureModel(MEANS, scales=1.0, weights=[1.0, 1.0]), ValueError, "3 positive weights"),
        (lambda: GaussianMixtureModel(MEANS, scales=1.0, weights=[1.0, 0.0, 1.0]), ValueError, "3 positive weights"),
        (lambda: HarmonicModel(0.0), ValueError, "k must be greater than 0; got 0"),
        (lambda: HarmonicModel("1"), TypeError, "k must be a number"),
        (lambda: HarmonicModel(dim=0), ValueError, "dim must be at least 1"),
        (lambda: DoubleWellModel(-1.0), ValueError, "barrier_height must be greater than 0"),
        (lambda: DoubleWellModel(b=0.0), ValueError, "b must be greater than 0"),
        (lambda: RosenbrockModel(b=-1.0), ValueError, "b must be greater than 0"),
        (lambda: RosenbrockModel(dim=1), ValueError, "dim must be at least 2"),
        (lambda: RosenbrockModel(a=math.inf), ValueError, "a must be finite"),
        (lambda: AckleyModel(c=0.0), ValueError, "c must be greater than 0"),
        (lambda: RastriginModel(-1.0), ValueError, "a must be at least 0"),
        (lambda: FunnelModel(1), ValueError, "dim must be at least 2"),
        (lambda: FunnelModel(2, scale=0.0), ValueError, "scale must be greater than 0"),
        (lambda: BananaModel(scale=-1.0), ValueError, "scale must be greater than 0"),
        (lambda: HarmonicModel().log_z, ValueError, r"build the model as HarmonicModel\(..., dim=2\)"),
        (lambda: DoubleWellModel().sample(3), ValueError, r"sample of DoubleWellModel depends on the dimension"),
        (lambda: RosenbrockModel(dim=3).log_z, ValueError, "two dimensions only"),
        (lambda: RosenbrockModel().sample(3), ValueError, "two dimensions only: build it with dim=2"),
        (lambda: ClosedFormModel().gradient(torch.zeros(1, 1)), NotImplementedError, "must define gradient"),
    ],
)
def test_what_is_wrong_is_said(make, error, says):
    with pytest.raises(error, match=says):
        make()
