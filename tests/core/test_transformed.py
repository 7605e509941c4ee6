"""Densities on a part of space: the change of variables, bijections, and samplers that walk without bounds."""

import inspect
import math

import pytest
import scipy.stats
import torch
from torch import nn
from torch.distributions import Beta, Dirichlet, Exponential, Gamma, LKJCholesky, Normal, constraints
from torch.distributions.transforms import (
    AbsTransform,
    AffineTransform,
    CatTransform,
    ComposeTransform,
    ExpTransform,
    PowerTransform,
    SigmoidTransform,
    SoftmaxTransform,
    SoftplusTransform,
    StickBreakingTransform,
)

from torchebm.core import BaseModel, ClosedFormModel, EnergyModel, GaussianModel, HarmonicModel
from torchebm.core.bijections import Blocks, CorrelationTransform, bijection_onto, correlation_matrix, inside, ordered
from torchebm.core.transformed import ConstrainedModel, StandardizedModel, TransformedModel
from torchebm.samplers import HamiltonianMonteCarlo, MetropolisHastings

F64 = torch.float64


@pytest.fixture(autouse=True)
def networks_are_the_same_each_time():
    """What is drawn without a generator, as the weights of networks, is drawn from a stream that begins here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def number(value):
    return torch.tensor(value, dtype=F64)


def lower(x):
    rows, columns = torch.tril_indices(x.shape[-1], x.shape[-1], -1)
    return x[..., rows, columns]


def flat(dimension, n=None, width=14.0):
    """A grid over z, `[point, dimension]`, and its volume element: the trapezoid rule, exact to rounding for densities
    that fall off at both ends."""
    n = n or {1: 4001, 2: 301, 3: 71}[dimension]
    axis = torch.linspace(-width, width, n, dtype=F64)
    z = torch.cartesian_prod(*[axis] * dimension).view(-1, dimension)
    return z, float(axis[1] - axis[0]) ** dimension


class Case:
    """A density on a support, with what is known about it."""

    def __init__(self, support, log_prob, event, dimension, mass=1.0, tolerance=1e-8, points=None):
        self.support, self.event, self.dimension, self.mass, self.tolerance = support, event, dimension, mass, tolerance
        self.model = EnergyModel(lambda x: -log_prob(x)).transformed(support)
        self.points = points  # n -> independent draws


# without validation: a proposal that is not finite is to be rejected, not to raise
GAMMA, BETA = Gamma(number(3.0), number(1.0), validate_args=False), Beta(number(2.0), number(3.5), validate_args=False)
DIRICHLET, PAIR = (Dirichlet(number(c), validate_args=False) for c in ([2.0, 3.0, 4.0], [7.0, 7.0]))
NORMAL = Normal(number(0.0), number(1.0), validate_args=False)
LKJ = LKJCholesky(3, number(1.5), validate_args=False)


def correlations(r):
    one = torch.ones_like(r)
    return torch.stack([torch.stack([one, r], -1), torch.stack([r, one], -1)], -1)


def random_correlations(n, eta):
    """From the density |x|^(eta - 1) over 3 by 3 matrices, by rejection: draws of LKJCholesky have wrong variances."""
    r = 2 * torch.rand(4 * n, 3, dtype=F64) - 1
    x = torch.eye(3, dtype=F64).repeat(4 * n, 1, 1)
    rows, columns = torch.tril_indices(3, 3, -1)
    x[:, rows, columns] = x[:, columns, rows] = r
    density = torch.linalg.eigvalsh(x).clamp(min=0).prod(1)
    kept = (torch.rand(4 * n, dtype=F64) < density ** (eta - 1)) & (density > 0)
    assert kept.sum() >= n
    return x[kept][:n]


def block_log_prob(x):
    return GAMMA.log_prob(x[:, 0]) + PAIR.log_prob(x[:, 1:3]) + NORMAL.log_prob(2 * (x[:, 3] - 1)) + math.log(2)


CASES = {
    "positive": Case(constraints.positive, lambda x: GAMMA.log_prob(x).sum(-1), (1,), 1,
                     points=lambda n: GAMMA.sample((n, 1))),
    "greater": Case(constraints.greater_than(2.0), lambda x: GAMMA.log_prob(x - 2).sum(-1), (1,), 1,
                    points=lambda n: GAMMA.sample((n, 1)) + 2),
    "less": Case(constraints.less_than(-1), lambda x: GAMMA.log_prob(-1 - x).sum(-1), (1,), 1,
                 points=lambda n: -1 - GAMMA.sample((n, 1))),
    "unit interval": Case(constraints.unit_interval, lambda x: BETA.log_prob(x).sum(-1), (1,), 1,
                          points=lambda n: BETA.sample((n, 1))),
    "interval": Case(constraints.interval(-1, 3), lambda x: BETA.log_prob((x + 1) / 4).sum(-1) - math.log(4), (1,), 1,
                     points=lambda n: 4 * BETA.sample((n, 1)) - 1),
    "softplus": Case(SoftplusTransform(), lambda x: GAMMA.log_prob(x).sum(-1), (1,), 1, tolerance=1e-4,
                     points=lambda n: GAMMA.sample((n, 1))),
    "simplex": Case(constraints.simplex, DIRICHLET.log_prob, (3,), 2, tolerance=1e-5,
                    points=lambda n: DIRICHLET.sample((n,))),
    "ordered": Case(ordered, lambda x: NORMAL.log_prob(x).sum(-1), (2,), 2, mass=0.5, tolerance=1e-5,
                    points=lambda n: torch.randn(n, 2, dtype=F64).sort(1).values),
    "correlation": Case(correlation_matrix, lambda x: torch.linalg.slogdet(x).logabsdet + math.log(0.75), (2, 2), 1,
                        points=lambda n: correlations(2 * Beta(number(2.0), number(2.0)).sample((n,)) - 1)),
    "elliptope": Case(correlation_matrix, lambda x: 0 * x.sum((1, 2)), (3, 3), 3, mass=math.pi**2 / 2, tolerance=1e-4,
                      points=lambda n: random_correlations(n, 1.0)),
    "factor": Case(constraints.corr_cholesky, LKJ.log_prob, (3, 3), 3, tolerance=1e-4,
                   points=lambda n: torch.linalg.cholesky(random_correlations(n, 1.5))),
    "blocks": Case([(constraints.positive, ()), (constraints.simplex, 2), (constraints.real, 1)], block_log_prob, (4,),
                   3, tolerance=1e-4,
                   points=lambda n: torch.cat([GAMMA.sample((n, 1)), PAIR.sample((n,)),
                                               1 + 0.5 * torch.randn(n, 1, dtype=F64)], 1)),
}  # fmt: skip

every = pytest.mark.parametrize("target", CASES.values(), ids=CASES)


def draws(target, n, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return target.points(n)


# the change of variables ----------------------------------------------------------------------------------------------


@every
def test_what_samplers_walk_on_has_the_mass_of_the_density(target):
    inner, _ = target.model.coordinates()
    width = {"blocks": 12.0, "softplus": 40.0}.get(next(k for k, v in CASES.items() if v is target), 14.0)
    z, volume = flat(target.dimension, width=width)
    density = torch.exp(-inner(z))
    assert density.isfinite().all()
    assert float(density.sum()) * volume == pytest.approx(target.mass, rel=target.tolerance)


def test_densities_that_are_pushed_forward_keep_their_mass():
    """That of exp(-|z|² / 2), whatever the units."""
    x, volume = flat(2, width=60.0)
    mean, matrix = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([[3.0, 0.0], [2.0, 0.8]], dtype=F64)
    for model in (
        StandardizedModel(HarmonicModel(), mean, matrix),
        TransformedModel(HarmonicModel(), AffineTransform(mean, matrix.diagonal())),
    ):
        assert float(torch.exp(-model(x)).sum()) * volume == pytest.approx(2 * math.pi, rel=1e-6)


@pytest.mark.parametrize(
    ("support", "event", "free"),
    [
        (constraints.positive, (3,), lambda x: x),
        (constraints.interval(-1, 3), (3,), lambda x: x),
        (constraints.simplex, (5,), lambda x: x[..., :-1]),
        (ordered, (5,), lambda x: x),
        (correlation_matrix, (4, 4), lower),
        (correlation_matrix, (2, 2), lower),
        (constraints.corr_cholesky, (4, 4), lower),
        (constraints.independent(constraints.positive, 1), (3,), lambda x: x),
        ([(constraints.real, 2), (ordered, 3), (constraints.positive, ())], (6,), lambda x: x),
        ([(correlation_matrix, (3, 3)), (constraints.positive, (2,))], (11,),
         lambda x: torch.cat([lower(x[..., :9].unflatten(-1, (3, 3))), x[..., 9:]], -1)),
        (CatTransform([ExpTransform(), AffineTransform(1.0, -2.0)], dim=-1, lengths=[2, 1]), (3,), lambda x: x),
    ],
    ids=lambda value: "free" if inspect.isfunction(value) else str(value),
)  # fmt: skip
def test_the_log_jacobian_is_that_of_the_map(support, event, free, generator):
    transform = bijection_onto(support)
    size = transform.inverse_shape(torch.Size(event))
    z = torch.randn(3, *size, dtype=F64, generator=generator)
    x = transform(z)
    assert x.shape == (3, *event)
    assert inside(transform.codomain, x).all()
    log_det = transform.log_abs_det_jacobian(z, x).reshape(3, -1).sum(1)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda t: free(transform(t[None]))[0], z[i])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[i], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(transform.inv(x), z, rtol=1e-7, atol=1e-7)


@every
def test_gradients_follow_the_chain_rule(target, generator):
    inner, _ = target.model.coordinates()
    z = torch.randn(4, target.dimension, dtype=F64, generator=generator)
    energy, gradient = inner.energy_and_gradient(z)
    assert not energy.requires_grad
    assert not gradient.requires_grad
    y = z.clone().requires_grad_()
    torch.testing.assert_close(inner(y), energy)
    torch.testing.assert_close(torch.autograd.grad(inner(y).sum(), y)[0], gradient, rtol=1e-8, atol=1e-8)
    assert torch.autograd.gradcheck(inner, y)
    with torch.inference_mode():
        torch.testing.assert_close(inner.gradient(z), gradient)


def test_a_gradient_in_closed_form_is_used():
    class Blind(GaussianModel):
        def forward(self, x):
            return super().forward(x).detach()

    models = [cls(torch.ones(2, dtype=F64), torch.eye(2, dtype=F64)) for cls in (Blind, GaussianModel)]
    z = torch.tensor([[0.3, -1.0]], dtype=F64)
    one, two = (model.transformed(constraints.positive).coordinates()[0].gradient(z) for model in models)
    torch.testing.assert_close(one, two)


# the model in the user's space ----------------------------------------------------------------------------------------


def test_it_is_the_density_of_the_model_and_none_outside():
    inner = HarmonicModel(dim=2)
    model = inner.transformed(constraints.positive)
    x = torch.tensor([[1.0, 2.0], [1.0, -2.0], [0.0, 1.0]])
    assert isinstance(model, ConstrainedModel)
    assert model.event_shape == (2,)
    assert torch.equal(model(x), torch.tensor([2.5, torch.inf, torch.inf]))
    energy, gradient = model.energy_and_gradient(x)
    assert torch.equal(energy, model(x))
    assert torch.equal(gradient[0], inner.gradient(x)[0])
    assert torch.equal(model.score(x)[0], -gradient[0])
    again = model.transformed(constraints.interval(0, 3))  # the last word counts
    assert again.coordinates()[1].codomain.upper_bound == 3
    torch.testing.assert_close((model * 0.5).transformed(constraints.positive)(x[:1]), torch.tensor([1.25]))


@pytest.mark.parametrize(
    ("support", "distribution", "x", "within"),
    [
        (constraints.positive, Gamma(2.0, 1.0, validate_args=True), [[1.0], [-2.0], [0.0], [math.nan]], [0]),
        (constraints.unit_interval, Beta(2.0, 3.0, validate_args=True), [[1.5], [0.5]], [1]),
        (constraints.simplex, Dirichlet(torch.ones(2), validate_args=True), [[0.5, 0.6], [2.0, -1.0]], []),
    ],
    ids=str,
)
def test_the_energy_is_evaluated_inside_the_support_only(support, distribution, x, within):
    """A distribution that validates its arguments raises an error elsewhere."""
    seen, x = [], torch.tensor(x)

    def energy(x):
        seen.append(x.detach())
        return -distribution.log_prob(x).flatten(1).sum(1) if x.shape[-1] == 1 else -distribution.log_prob(x)

    model = EnergyModel(energy).transformed(support)
    expected = torch.full((len(x),), torch.inf)
    if within:
        expected[within] = energy(x[within])
    assert torch.equal(model(x), expected)
    values, gradient = model.energy_and_gradient(x)
    assert torch.equal(values, expected)
    assert gradient.isfinite().all()
    outside = [i for i in range(len(x)) if i not in within]
    assert (gradient[outside] == 0).all()
    assert all(inside(support, points).all() for points in seen)


def test_parameters_are_the_models_own_and_can_be_trained():
    net = nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 1))
    model = EnergyModel(net).transformed(constraints.positive)
    assert {name.removeprefix("inner.network.") for name in model.state_dict()} == set(net.state_dict())
    model(torch.ones(3, 2)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_blocks_split_and_join(generator):
    blocks = Blocks([(constraints.real, ()), (correlation_matrix, (2, 2)), (constraints.simplex, 3)])
    assert (blocks.size, blocks.inner_size, blocks.event_shape) == (8, 4, (8,))
    x = blocks(torch.randn(2, 5, 4, generator=generator))  # any leading axes, as those of a trajectory
    number, matrix, weights = blocks.split(x)
    assert (number.shape, matrix.shape, weights.shape) == ((2, 5), (2, 5, 2, 2), (2, 5, 3))
    assert torch.equal(matrix, matrix.mT)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))
    assert torch.equal(blocks.join([number, matrix, weights]), x)
    assert blocks.codomain.check(x).all()
    assert EnergyModel(lambda x: x.sum(1)).transformed(blocks).event_shape == (8,)


# sampling -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["exact draws", "standard normal"])
@every
def test_sampling_keeps_and_finds_the_moments(target, start, seeded):
    """Independent chains: first and second moments within 5 standard errors, once in 1.7 million each."""
    n, truth = 3000, draws(target, 400_000, seed=1)
    x = draws(target, n, seed=2) if start == "exact draws" else None
    shape = {"x": x} if x is not None else {"dim": target.event, "n_samples": n}
    first = 0.05 if x is None else 0.35  # small, for points far out
    schedule = lambda k: first if k < 10 else 0.35 * (0.7 + 0.618 * k % 0.6)  # noqa: E731
    sampler = HamiltonianMonteCarlo(target.model, step_size=schedule, n_leapfrog_steps=5, dtype=F64)
    x, noted = sampler.sample(**shape, n_steps=60 if x is None else 8, generator=seeded(), return_diagnostics=True)
    assert noted["acceptance_rate"].mean() > 0.8
    for power in (1, 2):
        values, exact = x.flatten(1) ** power, truth.flatten(1) ** power
        error = exact.std(0) * (1 / n + 1 / len(truth)) ** 0.5
        off = (values.mean(0) - exact.mean(0)).abs()
        assert (off <= 5 * error + 1e-12).all(), (off / error).tolist()


@pytest.mark.parametrize("step_size", [0.3, 1.5, 4.0])
def test_a_transition_of_any_size_keeps_the_density(exact, step_size, seeded):
    """Exact draws of a Gamma(3, 1) after 1 and after 20 transitions: Kolmogorov-Smirnov at p > 1e-6."""
    target, n = CASES["positive"], 2000
    sampler = exact.make(target.model, **{exact.positive: step_size})
    for n_steps in (1, 20):
        x = sampler.sample(draws(target, n, seed=3), n_steps=n_steps, generator=seeded(n_steps))[:, 0].sort().values
        cdf = 1 - torch.exp(-x) * (1 + x + x**2 / 2)
        at = torch.arange(n + 1, dtype=F64) / n
        distance = max((at[1:] - cdf).max(), (cdf - at[:-1]).max())
        assert distance < math.sqrt(-math.log(1e-6 / 2) / (2 * n))


@pytest.mark.parametrize("name", ["simplex", "correlation", "ordered", "blocks"])
def test_shapes_are_the_users_and_diagnostics_too(case, name, seeded):
    target = CASES[name]
    walked = {"simplex": 2, "correlation": 1, "ordered": 2, "blocks": 3}[name]
    everything = {"return_trajectory": True, "return_diagnostics": True, "return_state": True}
    for x in (draws(target, 5), None):
        shape = {"x": x} if x is not None else {"dim": target.event, "n_samples": 5}
        trajectory, noted, state = case.make(target.model, dtype=F64).sample(
            n_steps=6, thin=2, generator=seeded(), **shape, **everything
        )
        assert trajectory.shape == (5, 3, *target.event)
        assert state.x.shape == (5, walked)
        assert inside(target.model.transform.codomain, trajectory.flatten(0, 1)).all()
        torch.testing.assert_close(noted["mean"], trajectory.mean(0))
        torch.testing.assert_close(noted["var"], trajectory.var(0, correction=0))
        torch.testing.assert_close(noted["energy"], target.model(trajectory.flatten(0, 1)).view(5, 3))
        if x is not None:
            y = case.make(target.model).sample(x, n_steps=0)
            torch.testing.assert_close(y, x)


@pytest.mark.parametrize("name", ["simplex", "blocks"])
def test_50_and_50_steps_are_100(case, name, seeded):
    target, one, two = CASES[name], seeded(), seeded()
    sampler = case.make(target.model)
    for x in (draws(target, 4), None):
        shape = {"x": x} if x is not None else {"dim": target.event, "n_samples": 4}
        whole = sampler.sample(n_steps=100, generator=one, **shape)
        half, state = sampler.sample(n_steps=50, generator=two, return_state=True, **shape)
        assert torch.equal(sampler.sample(x=half, state=state, n_steps=50, generator=two), whole)


def test_a_state_continues_from_where_rounding_reaches_the_boundary(generator):
    """e^-110 is 0 in float32: no starting point, but where a chain may well be."""
    sampler = HamiltonianMonteCarlo(HarmonicModel().transformed(constraints.positive))
    _, state = sampler.sample(torch.ones(3, 1), n_steps=1, return_state=True, generator=generator)
    state = state._replace(kernel=state.kernel._replace(x=torch.full((3, 1), -110.0)))
    x, end = sampler.sample(state=state, n_steps=1, return_state=True, generator=generator)
    assert torch.equal(x, end.x.exp())
    assert (end.x > -110).any()


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("support", [constraints.positive, constraints.simplex,
                                     constraints.interval(torch.zeros(3, dtype=F64), 2), ordered], ids=str)  # fmt: skip
def test_dtype_is_followed(case, support, dtype, generator):
    seen = set()

    def energy(x):
        seen.add(x.dtype)
        return (x.log() ** 2).sum(-1)

    x = torch.tensor([[0.125, 0.25, 0.625]] * 4, dtype=dtype)
    y, noted = case.make(EnergyModel(energy).transformed(support)).sample(
        x, n_steps=3, return_diagnostics=True, generator=generator
    )
    assert y.dtype == noted["energy"].dtype == noted["mean"].dtype == dtype
    assert seen == {dtype}


def test_evaluations_are_as_few_as_without(case, counting_model, generator):
    sampler = case.make(counting_model.transformed(constraints.positive))
    sampler.sample(torch.ones(3, 2), n_steps=4, generator=generator)
    assert (counting_model.gradients, counting_model.energies) == (case.gradients(4), case.energies(4))


def test_conditions_reach_the_energy(case, generator):
    given = torch.tensor([[1.0], [2.0], [3.0]])
    seen = []

    class Conditional(BaseModel):
        def forward(self, x, at):
            seen.append(at)
            return (x - at).square().sum(1)

    model = Conditional().transformed(constraints.positive)
    case.make(model).sample(torch.ones(3, 1), n_steps=2, model_kwargs={"at": given}, generator=generator)
    assert seen
    assert all(torch.equal(at, given) for at in seen)
    assert torch.equal(model(torch.ones(3, 1), at=given), torch.tensor([0.0, 1.0, 4.0]))


def test_starting_points_that_are_left_out_are_standard_normal_where_samplers_walk(case, seeded):
    x = case.make(HarmonicModel().transformed(constraints.positive)).sample(
        dim=1, n_samples=4000, n_steps=0, generator=seeded()
    )
    assert abs(x.log().mean()) < 5 / 4000**0.5
    assert abs(x.log().var() - 1) < 5 * (2 / 4000) ** 0.5


# edges ----------------------------------------------------------------------------------------------------------------


def u_shaped(x):
    """A Beta(0.1, 0.1) density: half of its mass is within 0.001 of an edge, each infinite."""
    return 0.9 * (x.log() + (-x).log1p()).sum(-1)


def chains_at_edges(support, energy, n, dtype, generator):
    """Single numbers, far from where they began; no proposal that rounds to an edge counts as a divergence."""
    model = EnergyModel(energy).transformed(support)
    start = torch.full((20_000, n), 1 / 2, dtype=dtype)
    x, noted = MetropolisHastings(model, proposal_scale=20.0).sample(
        start, n_steps=150, generator=generator, return_diagnostics=True
    )
    assert not noted["diverging"].any()
    return x


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_number_next_to_an_edge_has_the_mass_of_its_cell(dtype, generator):
    """The law on the floating-point grid below 1, of spacing u: k u from 1 with weight (k u)^-0.9 u. Shares within 5
    standard errors, once in 1.7 million each; a clamped sigmoid puts three times the mass on 1 - 2 u."""
    x = chains_at_edges(constraints.unit_interval, u_shaped, 1, dtype, generator)[:, 0].double()
    u, edge = torch.finfo(dtype).eps / 2, 2**12
    beta = scipy.stats.beta(0.1, 0.1)
    whole = math.gamma(0.1) ** 2 / math.gamma(0.2)
    cells = [(k * u) ** -0.9 * u / whole for k in range(1, edge)]
    total = beta.cdf(1 - (edge - 0.5) * u) + sum(cells)
    expected = {
        "1 - u": (x == 1 - u, cells[0]),
        "1 - 2 u": (x == 1 - 2 * u, cells[1]),
        "near 0": (x < 1e-3, beta.cdf(1e-3)),
        "the middle": ((x > 1e-3) & (x < 0.5), beta.cdf(0.5) - beta.cdf(1e-3)),
    }
    for name, (found, mass) in expected.items():
        share = mass / total
        assert abs(found.double().mean() - share) < 5 * math.sqrt(share * (1 - share) / len(x)), name
    assert ((x > 0) & (x < 1)).all()


@pytest.mark.parametrize("last", [0, 1])
def test_a_simplex_is_as_fine_at_each_corner(last, generator):
    """Dirichlet(0.1, 0.1) in float32: 2.5 % of the mass within 1e-13 of either corner, far below the rounding of 1."""
    x = chains_at_edges(constraints.simplex, lambda x: 0.9 * x.log().sum(-1), 2, torch.float32, generator)
    assert (x > 0).all()
    for near in (1e-13, 1e-7, 1e-2):
        share = scipy.stats.beta(0.1, 0.1).cdf(near)
        found = (x[:, last] < near).double().mean()
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / len(x)), near


@pytest.mark.parametrize("bounds", [(0, 1), (0.0, 1.0), (-1.0, 0.0), (100.0, 101.0), (-3, 7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_what_rounds_to_a_bound_has_left_the_interval(bounds, dtype):
    lower, upper = bounds
    model = EnergyModel(lambda x: 0 * x.sum(-1)).transformed(constraints.interval(lower, upper))
    inner, transform = model.coordinates()
    z = torch.linspace(-120, 120, 2001, dtype=dtype).unsqueeze(1)
    x = transform(z)
    energy, gradient = inner.energy_and_gradient(z)
    within = ((x > lower) & (x < upper)).squeeze(1)
    assert ((x >= lower) & (x <= upper)).all()
    assert torch.equal(energy, inner(z))
    assert torch.equal(energy.isfinite(), within)
    assert (energy[~within] == torch.inf).all()
    assert within.any()
    assert gradient[within].isfinite().all()
    wide = z[within, 0].double()
    exact = wide.abs() + 2 * torch.exp(-wide.abs()).log1p() - math.log(upper - lower)
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(energy[within].double(), exact, rtol=rounding, atol=rounding)


def test_next_to_a_bound_of_zero_an_interval_is_as_fine_as_numbers_are():
    z = torch.tensor([[-5.0], [0.0], [20.0], [50.0]])
    for bounds, at in (((-1, 0), z), ((0, 2), -z)):
        transform = bijection_onto(constraints.interval(*bounds))
        torch.testing.assert_close(transform.inv(transform(at)), at)


@pytest.mark.parametrize("support", [
    constraints.unit_interval,
    constraints.half_open_interval(0.0, 1.0),
    constraints.independent(constraints.unit_interval, 1),
    constraints.cat([constraints.unit_interval, constraints.real], dim=-1, lengths=[1, 1]),
    constraints.stack([constraints.unit_interval, constraints.real], dim=-1),
    constraints.interval(torch.zeros(2), torch.ones(2)),
], ids=str)  # fmt: skip
def test_no_interval_is_clamped_wherever_it_stands(support):
    transform = bijection_onto(support)
    z = torch.tensor([[60.0, 0.0]], dtype=F64)
    x = transform(z)
    assert x[0, 0] == 1
    assert transform.log_abs_det_jacobian(z, x).sum() == -torch.inf


# what is refused ------------------------------------------------------------------------------------------------------

OUTSIDE = {
    "negative": (constraints.positive, [[1.0], [-2.0]],
                 r"x must lie inside GreaterThan\(lower_bound=0.0\).*1 of 2.*\[-2.0\]"),
    "on the boundary": (constraints.positive, [[0.0]], "GreaterThan"),
    "of a closed support": (constraints.nonnegative, [[0.0]], "GreaterThanEq"),
    "above": (constraints.interval(0, 10), [[10.5]], r"Interval\(lower_bound=0, upper_bound=10\)"),
    "at the end": (constraints.unit_interval, [[1.0]], r"Interval\(lower_bound=0.0, upper_bound=1.0\)"),
    "no sum of one": (constraints.simplex, [[0.5, 0.6]], r"inside Simplex\(\)"),
    "a corner": (constraints.simplex, [[0.0, 1.0]], r"inside Simplex\(\)"),
    "unordered": (ordered, [[1.0, 0.0]], r"inside Ordered\(\)"),
    "no correlation": (correlation_matrix, [[[1.0, 2.0], [2.0, 1.0]]], r"inside CorrelationMatrix\(\)"),
    "asymmetric": (correlation_matrix, [[[1.0, 0.1], [0.2, 1.0]]], r"inside CorrelationMatrix\(\)"),
    "a covariance": (correlation_matrix, [[[2.0, 0.0], [0.0, 2.0]]], r"inside CorrelationMatrix\(\)"),
    "one block": ([(constraints.real, 2), (constraints.positive, 1)], [[-1.0, 0.0, -3.0]],
                  r"x\[:, 2:3\] must lie inside GreaterThan"),
    "a transform": (ExpTransform(), [[-1.0]], "GreaterThan"),
    "composed": (ComposeTransform([SigmoidTransform(), AffineTransform(0.0, 10.0)]), [[12.0]],
                 "must be a value of Compose"),
}  # fmt: skip


@pytest.mark.parametrize(("support", "x", "says"), OUTSIDE.values(), ids=OUTSIDE)
def test_starting_points_outside_the_support_are_refused(case, support, x, says):
    model = EnergyModel(lambda x: x.flatten(1).sum(1)).transformed(support)
    for dtype in (torch.float32, F64):
        with pytest.raises(ValueError, match=says):
            case.make(model).sample(torch.tensor(x, dtype=dtype), n_steps=1)


@pytest.mark.parametrize(("support", "event", "dtype"), [
    (constraints.simplex, 1000, F64),
    (constraints.simplex, 1000, torch.float32),
    (constraints.simplex, 5, torch.bfloat16),
    (ordered, 1000, F64),
    (ordered, 20, torch.float32),
    (correlation_matrix, (5, 5), F64),
    (correlation_matrix, (5, 5), torch.float32),
    (constraints.corr_cholesky, (5, 5), torch.float32),
], ids=str)  # fmt: skip
def test_draws_are_starting_points_again(support, event, dtype, seeded):
    """Rounding is not taken for outside: a simplex of 1000 in float32 does not sum to one within 1e-6."""
    model = EnergyModel(lambda x: 0 * x.flatten(1).sum(1)).transformed(support)
    sampler = HamiltonianMonteCarlo(model, dtype=dtype)
    x = sampler.sample(dim=event, n_samples=4, n_steps=0, generator=seeded())
    assert inside(model.transform.codomain, x).all()
    tolerance = torch.finfo(dtype).eps ** 0.5
    torch.testing.assert_close(sampler.sample(x, n_steps=0), x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("support", "error", "says"),
    [
        (constraints.boolean, ValueError, r"no bijection from real numbers onto Boolean\(\)"),
        (constraints.positive_definite, ValueError, r"no bijection from real numbers onto PositiveDefinite\(\)"),
        (constraints.interval, TypeError, r"give constraints.interval\(0, 1\)"),
        (AbsTransform(), ValueError, "no bijection"),
        (SoftmaxTransform(), ValueError, "no bijection"),
        (PowerTransform(2.0), ValueError, "must start from real numbers"),
        (StickBreakingTransform().inv, ValueError, "must start from real numbers"),
        ("positive", TypeError, "expected a Transform or a constraint"),
        (3, TypeError, "expected a Transform or a constraint"),
        ([constraints.positive], TypeError, "a block is a pair"),
        ([], ValueError, "something to sample"),
        ([(constraints.positive, 0)], ValueError, "a length or a tuple of lengths"),
        ([(constraints.positive, 1.5)], ValueError, "a length or a tuple of lengths"),
        ([(constraints.simplex, ())], ValueError, r"Simplex\(\) is about points with 1 axes"),
        ([(constraints.simplex, 1)], ValueError, "a simplex needs two components or more"),
        (constraints.interval(1, 0), ValueError, "lower bound of an interval must be below the upper; got 1 and 0"),
        ([(correlation_matrix, 4)], ValueError, r"CorrelationMatrix\(\) is about points with 2 axes"),
        ([(correlation_matrix, (2, 3))], ValueError, "not square"),
    ],
    ids=str,
)
def test_what_is_no_support_is_refused(support, error, says):
    with pytest.raises(error, match=says):
        HarmonicModel().transformed(support)


def test_shapes_that_disagree_are_refused():
    blocks = [(constraints.real, 2), (constraints.positive, 1)]
    with pytest.raises(ValueError, match="blocks make vectors of length 3; the model is about points of shape \\[2\\]"):
        HarmonicModel(dim=2).transformed(blocks)
    model = HarmonicModel().transformed(blocks)
    with pytest.raises(ValueError, match="expected vectors of length 3"):
        model(torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"expected \[3\], that of the model"):
        HamiltonianMonteCarlo(model).sample(torch.ones(4, 2))
    with pytest.raises(ValueError, match="one scalar per"):
        HamiltonianMonteCarlo(EnergyModel(lambda x: x).transformed(blocks)).sample(torch.ones(4, 3))

    class Columns(ClosedFormModel):
        def forward(self, x):
            return x.sum(1, keepdim=True)

        def gradient(self, x):
            return torch.ones_like(x)

    inner, _ = Columns().transformed(blocks).coordinates()
    assert inner.event_shape == (3,)
    for evaluate in (inner, inner.energy_and_gradient):
        with pytest.raises(ValueError, match=r"energies of shape \[4, 1\]"):
            evaluate(torch.ones(4, 3))


def test_a_simplex_of_one_is_refused_wherever_its_size_is_known_first():
    with pytest.raises(ValueError, match=r"a simplex needs two components or more.*\[1\]"):
        EnergyModel(u_shaped, event_shape=(1,)).transformed(constraints.simplex)
    sampler = HamiltonianMonteCarlo(EnergyModel(u_shaped).transformed(constraints.simplex))
    for start in ({"x": torch.ones(3, 1)}, {"dim": 1, "n_samples": 3}):
        with pytest.raises(ValueError, match="a simplex needs two components or more"):
            sampler.sample(n_steps=1, **start)


def test_nothing_that_is_not_finite_is_hidden(exact, generator):
    """An exponential density that is NaN above 2: chains stay below, and say what they met."""
    model = EnergyModel(lambda x: torch.where(x < 2, x, torch.nan).sum(1)).transformed(constraints.positive)
    x, noted = exact.make(model).sample(torch.ones(500, 1), n_steps=100, generator=generator, return_diagnostics=True)
    assert x.isfinite().all()
    assert (x < 2).all()
    assert (x > 0).all()
    assert noted["energy"].isfinite().all()
    assert abs(x.mean() - Exponential(1.0).mean) < 0.8


def test_the_correlation_transform_of_two_is_the_tangent():
    x = CorrelationTransform()(torch.tensor([[0.7]], dtype=F64))
    assert x[0, 0, 1].item() == pytest.approx(math.tanh(0.7))
