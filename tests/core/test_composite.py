"""The algebra of energies: its laws, and that everything a model can do survives composition."""

import math

import pytest
import torch
from torch import nn
from torch.distributions.transforms import AffineTransform, ExpTransform

from torchebm.core import BaseModel, EnergyModel, MixtureModel, TransformedModel, WeightedSum, mixture
from torchebm.core.analytic import BananaModel, DoubleWellModel, GaussianModel, HarmonicModel

F64 = torch.float64


def wells():
    return DoubleWellModel(dim=2)


def normal():
    return GaussianModel([0.5, -1.0], [[1.0, 0.4], [0.4, 2.0]])


def network():
    torch.manual_seed(0)
    return EnergyModel(nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1)))


def points(n=7):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


LAWS = {
    "a + b": (lambda a, b: a + b, lambda a, b: a + b),
    "a - b": (lambda a, b: a - b, lambda a, b: a - b),
    "0.5 * a": (lambda a, b: 0.5 * a, lambda a, b: 0.5 * a),
    "a * 0.5": (lambda a, b: a * 0.5, lambda a, b: 0.5 * a),
    "a / 2": (lambda a, b: a / 2, lambda a, b: 0.5 * a),
    "-a": (lambda a, b: -a, lambda a, b: -a),
    "tempered": (lambda a, b: a.tempered(4.0), lambda a, b: a / 4),
    "sum": (lambda a, b: sum([a, b]), lambda a, b: a + b),
    "nested": (lambda a, b: 2 * (a + 0.5 * b) - (-b) / 4, lambda a, b: 2 * a + 1.25 * b),
    "mixture": (
        lambda a, b: mixture([a, b], [1, 3]),
        lambda a, b: -torch.logaddexp(math.log(0.25) - a, math.log(0.75) - b),
    ),
    "mixture of sums": (
        lambda a, b: mixture([a + b, 0.5 * a]),
        lambda a, b: math.log(2) - torch.logaddexp(-a - b, -0.5 * a),
    ),
}
every_law = pytest.mark.parametrize(("compose", "formula"), LAWS.values(), ids=LAWS.keys())


@every_law
@pytest.mark.parametrize("second", [normal, network])
def test_composed_energies_follow_the_formula(compose, formula, second):
    a, b, x = wells().double(), second().double(), points().double()
    composed = compose(a, b)
    torch.testing.assert_close(composed(x), formula(a(x), b(x)), rtol=1e-6, atol=1e-6)
    y = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(composed(y).sum(), y)
    energy, gradient = composed.energy_and_gradient(x)
    torch.testing.assert_close(energy, composed(x).detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(composed.gradient(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(composed.score(x), -expected, rtol=1e-10, atol=1e-12)


@every_law
def test_composed_energies_trace_without_a_graph_break(compose, formula):
    composed, x = compose(wells(), network()), points()
    torch._dynamo.reset()
    traced = torch.compile(composed.energy_and_gradient, fullgraph=True, backend="eager")
    for one, other in zip(traced(x), composed.energy_and_gradient(x), strict=True):
        torch.testing.assert_close(one, other)


@every_law
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_composed_energies_follow_dtype_and_batch(compose, formula, dtype, n):
    x = points(n).to(dtype)
    energy, gradient = compose(wells(), normal()).energy_and_gradient(x)
    assert energy.shape == (n,)
    assert gradient.shape == x.shape
    assert energy.dtype == gradient.dtype == dtype


@every_law
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_composed_energies_leave_no_trace(compose, formula, mode):
    net = network()
    composed, x = compose(wells(), net), points()
    before = x.clone()
    with mode():
        energy, gradient = composed.energy_and_gradient(x)
    assert not any(t.requires_grad for t in (energy, gradient, x))
    assert torch.equal(x, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("compose", [lambda a, b: a + b, lambda a, b: mixture([a, b]), lambda a, b: (a - 2 * b) / 3])
def test_training_reaches_the_parameters(compose):
    net = network()
    compose(wells(), net)(points()).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert net.network[0].weight.grad.abs().sum() > 0
    assert set(compose(wells(), net).parameters()) == set(net.parameters())


def test_constants_shift_the_energy_and_nothing_else():
    model, x = normal(), points()
    for shifted in (model + 3.0, 3.0 + model):
        torch.testing.assert_close(shifted(x), model(x) + 3)
        torch.testing.assert_close(shifted.gradient(x), model.gradient(x))
    torch.testing.assert_close((model - 3.0)(x), model(x) - 3)
    torch.testing.assert_close((3.0 - model)(x), 3 - model(x))
    torch.testing.assert_close((3.0 - model).gradient(x), -model.gradient(x))


class Conditional(BaseModel):
    def forward(self, x, *, shift):
        return (x - shift).square().sum(-1)


@pytest.mark.parametrize("compose", [lambda a, b: a + 0.5 * b, lambda a, b: mixture([a, b]), lambda a, b: (-a) - b])
def test_model_kwargs_reach_every_term(compose):
    composed, x, shift = compose(Conditional(), wells()), points(), torch.full((7, 2), 2.0)
    assert not torch.equal(composed(x, shift=shift), composed(x, shift=0 * shift))
    energy, gradient = composed.energy_and_gradient(x, shift=shift)
    torch.testing.assert_close(energy, composed(x, shift=shift))
    torch.testing.assert_close(composed.gradient(x, shift=shift), gradient)
    with pytest.raises(TypeError, match="shift"):
        composed(x)


@pytest.mark.parametrize("compose", [lambda a: a + HarmonicModel(), lambda a: 2 * a, lambda a: mixture([a, a]),
                                     lambda a: TransformedModel(a, AffineTransform(0.0, 2.0))])  # fmt: skip
def test_event_shape_is_handed_on(compose):
    assert compose(wells()).event_shape == (2,)
    with pytest.raises(ValueError, match=r"different event shapes: \[\[2\], \[3\]\]"):
        wells() + HarmonicModel(dim=3)


# normalisers and draws ----------------------------------------------------------------------------------------------


def test_mixture_of_normalised_energies_is_normalised():
    both = mixture([wells().normalized(), normal().normalized()], [0.3, 0.7])
    assert abs(float(both.log_z)) < 1e-6
    u = torch.linspace(-12, 12, 1201, dtype=F64)
    x = torch.cartesian_prod(u, u)
    assert abs(float(torch.exp(-both(x)).sum() * (u[1] - u[0]) ** 2) - 1) < 1e-6


def test_log_z_of_unnormalised_mixture_adds_masses():
    a, b = HarmonicModel(1.0, dim=1), HarmonicModel(4.0, dim=1)
    expected = math.log(0.25 * math.sqrt(2 * math.pi) + 0.75 * math.sqrt(2 * math.pi / 4))
    assert abs(float(mixture([a, b], [1, 3]).log_z) - expected) < 1e-6
    assert abs(float((a + 2.0).log_z) - (0.5 * math.log(2 * math.pi) - 2)) < 1e-12


def test_mixture_draws_share_out_by_mass():
    """Three checks at 5 standard errors: failure probability below 2e-6."""
    a, b = HarmonicModel(1.0, dim=1), HarmonicModel(4.0, dim=1).normalized()
    both, n = mixture([a.normalized(), b], [1, 3]), 40_000
    before = torch.get_rng_state()
    x, same = (both.sample(n, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(x, same)
    assert torch.equal(torch.get_rng_state(), before)
    assert x.shape == (n, 1)
    for power, expected in ((1, 0.0), (2, 0.25 + 0.75 / 4), (4, 3 * (0.25 + 0.75 / 16))):
        moments = x.double().pow(power)
        assert abs(float(moments.mean()) - expected) < 5 * float(moments.std()) / n**0.5


def test_draws_of_a_shifted_energy_are_those_of_the_energy():
    model = BananaModel()
    one, other = (m.sample(4, generator=torch.Generator().manual_seed(0)) for m in (model, model.normalized()))
    assert torch.equal(one, other)


@pytest.mark.parametrize("compose", [lambda a: 0.5 * a, lambda a: a + a, lambda a: -a])
def test_unknown_normalisers_say_so(compose):
    with pytest.raises(ValueError, match="log_z of a weighted sum of energies has no closed form"):
        _ = compose(normal()).log_z
    with pytest.raises(ValueError, match="sample of a weighted sum"):
        compose(normal()).sample(3)


# transformed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 6])
def test_affine_transform_of_a_normal_is_a_normal(n):
    shift, scale = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([3.0, 0.5], dtype=F64)
    inner = normal().double()
    model, x = TransformedModel(inner, AffineTransform(shift, scale)), points(n).double()
    outer = GaussianModel(shift + scale * inner.mean, scale[:, None] * inner.cov * scale)
    torch.testing.assert_close(model(x) + inner.log_z, outer(x) + outer.log_z)
    torch.testing.assert_close(model.gradient(x), outer.gradient(x))
    base, transform = model.coordinates()
    assert base is inner
    torch.testing.assert_close(transform(transform.inv(x)), x)


def test_exp_of_a_normal_is_log_normal():
    x = points().double().abs() + 0.1
    model = TransformedModel(HarmonicModel(dim=2).double(), ExpTransform())
    log_normal = torch.distributions.LogNormal(torch.zeros(2, dtype=F64), 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(-model(x) - model.inner.log_z, log_normal)


# errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: WeightedSum([]), ValueError, "0 models"),
        (lambda: WeightedSum([wells()], [1.0, 2.0]), ValueError, "1 models and 2 weights"),
        (lambda: wells() * float("nan"), ValueError, "each weight must be finite"),
        (lambda: wells() + math.inf, ValueError, "constant must be finite"),
        (lambda: wells() + "b", TypeError, "unsupported operand"),
        (lambda: wells() * normal(), TypeError, "unsupported operand"),
        (lambda: wells().tempered(0.0), ValueError, "temperature must be greater than 0"),
        (lambda: MixtureModel([]), ValueError, "at least one model"),
        (lambda: mixture([wells(), normal()], [1.0]), ValueError, "expected 2 positive weights"),
        (lambda: mixture([wells(), normal()], [1.0, -1.0]), ValueError, "expected 2 positive weights"),
    ],
)
def test_what_is_wrong_is_said(make, error, says):
    with pytest.raises(error, match=says):
        make()
