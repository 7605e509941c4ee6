"""Samplers on minibatches: their formulas, which rows they see, and a conjugate posterior whose chains are known."""

import math

import pytest
import torch
from torch.distributions.transforms import AffineTransform

from torchebm.core import BaseModel, EnergyModel, HarmonicModel, TransformedModel
from torchebm.samplers import (
    LangevinDynamics,
    StochasticGradientHMC,
    StochasticGradientLangevin,
)

F64 = torch.float64
CHAINS = 40
ROWS = 100
SIZE = 7
SAMPLERS = {
    "SGLD": (StochasticGradientLangevin, {"step_size": 1e-3}),
    "SGHMC": (StochasticGradientHMC, {"step_size": 0.02, "friction": 5.0}),
}


class Location(BaseModel):
    """The posterior of a location, per component: prior N(0, 2²), data N(x, 3²)."""

    def forward(self, x, batch):
        likelihood = ROWS * ((x.unsqueeze(1) - batch) / 3).square().mean(1) / 2  # [chain, *event]
        return ((x / 2).square() / 2 + likelihood).reshape(len(x), -1).sum(1)


CURVATURE = 1 / 4 + ROWS / 9


def slope(x, rows):
    """Of the energy that one chain sees."""
    return x / 4 + ROWS * (x - rows).mean(0) / 9


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS)
def kind(request):
    return request.param


@pytest.fixture
def data(generator):
    return 1 + 3 * torch.randn(ROWS, dtype=F64, generator=generator)


def make(kind, model, data, **options):
    cls, parameters = kind
    return cls(model, data=data, batch_size=SIZE, **(parameters | options))


# one step -------------------------------------------------------------------------------------------------------------

A_CHAIN = pytest.mark.parametrize("a_chain", [False, True], ids=["one h", "h a chain"])


@A_CHAIN
def test_one_step_of_stochastic_gradient_langevin(event, T, a_chain, close, each, start, generator):
    data = torch.randn(ROWS, *event, dtype=F64, generator=generator)
    sampler = make(SAMPLERS["SGLD"], Location(), data)
    target, state, (xi, v) = start(sampler, event)
    h = torch.linspace(0.001, 0.1, CHAINS, dtype=F64) if a_chain else 0.05
    new, info = sampler.step(state, (xi, v), target, temperature=T, step_size=h)
    for i in range(CHAINS):
        rows = data[[math.floor(float(w) * ROWS) for w in v[i]]]
        x, k = state.x[i], each(h, i)
        close(new.x[i], x - k * slope(x, rows) + math.sqrt(2 * k * each(T, i)) * xi[i])
    assert not info.diverging.any()


@A_CHAIN
@pytest.mark.parametrize("noisy", ["silent", "number", "tensor"])
def test_one_step_of_stochastic_gradient_hmc(event, T, a_chain, noisy, close, each, start, generator):
    data = torch.randn(ROWS, *event, dtype=F64, generator=generator)
    V = {"silent": 0.0, "number": 0.9, "tensor": 0.5 + torch.rand(event, dtype=F64, generator=generator)}[noisy]
    sampler = make(SAMPLERS["SGHMC"], Location(), data, gradient_noise=V)
    target, state, (xi, v) = start(sampler, event)
    h = torch.linspace(0.001, 0.1, CHAINS, dtype=F64) if a_chain else 0.05
    friction = torch.linspace(3.0, 0.5, CHAINS, dtype=F64) if a_chain else 0.7
    new, info = sampler.step(state, (xi, v), target, temperature=T, step_size=h, friction=friction)
    for i in range(CHAINS):
        rows = data[[math.floor(float(w) * ROWS) for w in v[i]]]
        x, p, k, t, gamma = state.x[i], state.momentum[i], each(h, i), each(T, i), each(friction, i)
        spread = (torch.as_tensor(2 * k * gamma, dtype=F64) - k * k * V / t**2).sqrt()
        p = p - k * gamma * p - k / t * slope(x, rows) + spread * xi[i]
        close(new.momentum[i], p)
        close(new.x[i], x + k * p)
    assert not info.diverging.any()


def test_without_data_stochastic_gradient_langevin_is_langevin_dynamics(seeded):
    x = torch.randn(10, 2, generator=seeded(1))
    one = StochasticGradientLangevin(HarmonicModel(), 0.1).sample(x, n_steps=10, generator=seeded())
    torch.testing.assert_close(LangevinDynamics(HarmonicModel(), 0.1).sample(x, n_steps=10, generator=seeded()), one)


# minibatches ----------------------------------------------------------------------------------------------------------


class Spy(BaseModel):
    """A location that notes what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, batch, **others):
        self.seen.append(batch)
        return Location()(x, batch)


def test_each_chain_sees_rows_of_its_own_at_each_step_and_all_rows_count_alike(kind, generator):
    """Frequencies by chi-square: fails once in a million. With replacement, so that no two draws are tied."""
    model, data, n = Spy(), torch.arange(ROWS, dtype=F64), 200
    make(kind, model, data).sample(torch.zeros(50, dtype=F64), n_steps=n, generator=generator)
    whole, *batches = model.seen
    assert torch.equal(whole, data.unsqueeze(0))  # the check of the starting points
    assert len(batches) == n
    assert {batch.shape for batch in batches} == {(50, SIZE)}
    assert len({tuple(row.tolist()) for batch in batches for row in batch}) == 50 * n
    drawn = torch.stack(batches).long()
    counts = torch.bincount(drawn.flatten(), minlength=ROWS).double()
    expected = drawn.numel() / ROWS
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - (ROWS - 1)) < 5.5 * (2 * (ROWS - 1)) ** 0.5
    twice = sum(len(set(row.tolist())) < SIZE for row in drawn.flatten(0, 1)) / (50 * n)
    assert abs(twice - (1 - math.prod(1 - i / ROWS for i in range(SIZE)))) < 5 * (0.2 * 0.8 / (50 * n)) ** 0.5


def test_rows_of_several_tensors_stay_together(kind, generator):
    inputs = torch.randn(ROWS, 3, generator=generator)
    targets = inputs @ torch.tensor([1.0, -2.0, 0.5])
    seen = []

    class Regression(BaseModel):
        def forward(self, x, batch):
            a, b = batch  # [chain, rows, 3], [chain, rows]
            seen.append(b.shape)
            torch.testing.assert_close(a @ torch.tensor([1.0, -2.0, 0.5]), b)
            return ROWS * ((a * x.unsqueeze(1)).sum(-1) - b).square().mean(1) / 2

    _, noted = make(kind, Regression(), (inputs, targets)).sample(
        torch.zeros(4, 3), n_steps=3, generator=generator, return_diagnostics=True
    )
    assert set(seen) == {(1, ROWS), (4, SIZE)}
    assert noted["energy"].shape == (4, 3)


def test_energies_in_diagnostics_are_those_of_all_the_data(kind, data, close, generator):
    x, noted = make(kind, Location(), data).sample(
        torch.zeros(5, dtype=F64), n_steps=3, generator=generator, return_diagnostics=True, return_trajectory=True
    )
    for draw in range(3):
        close(noted["energy"][:, draw], Location()(x[:, draw], data.expand(5, ROWS)))


def test_50_and_50_steps_are_100(kind, data, seeded):
    sampler, one, two = make(kind, Location(), data), seeded(), seeded()
    whole = sampler.sample(dim=(), n_samples=4, n_steps=100, generator=one, return_trajectory=True)
    first, state = sampler.sample(
        dim=(), n_samples=4, n_steps=50, generator=two, return_trajectory=True, return_state=True
    )
    second = sampler.sample(state=state, n_steps=50, generator=two, return_trajectory=True)
    assert torch.equal(whole, torch.cat([first, second], 1))
    assert torch.equal(one.get_state(), two.get_state())


def test_the_global_stream_is_left_alone(kind, data, seeded):
    sampler = make(kind, Location(), data)
    before = torch.get_rng_state()
    runs = [sampler.sample(dim=(), n_samples=4, n_steps=5, generator=seeded()) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*runs)


def test_data_are_not_modified_and_those_in_force_are_used(kind, data, seeded):
    sampler, before, x = make(kind, Location(), data), data.clone(), torch.zeros(4, dtype=F64)
    one = sampler.sample(x, n_steps=3, generator=seeded())
    assert torch.equal(data, before)
    data += 100
    assert (sampler.sample(x, n_steps=3, generator=seeded()) > one).all()


def test_float32_chains_take_float64_data(kind, data, generator):
    x = make(kind, Location(), data).sample(torch.zeros(4), n_steps=3, generator=generator)
    assert x.dtype == torch.float32


def test_a_transformed_model_passes_batches_on(kind, data, seeded):
    units = TransformedModel(Location(), AffineTransform(torch.tensor(30.0), torch.tensor(4.0)))
    z = make(kind, Location(), data).sample(torch.zeros(4, dtype=F64), n_steps=5, generator=seeded())
    x = make(kind, units, data).sample(torch.full((4,), 30.0, dtype=F64), n_steps=5, generator=seeded())
    torch.testing.assert_close(x, 30 + 4 * z)


def test_other_keywords_reach_the_model_too(kind, data, generator):
    given = []

    def energy(x, batch, label):
        given.append(label)
        return Location()(x, batch)

    make(kind, EnergyModel(energy), data).sample(
        torch.zeros(4, dtype=F64), n_steps=3, generator=generator, model_kwargs={"label": "a"}
    )
    assert given == ["a"] * 4


# a conjugate posterior ------------------------------------------------------------------------------------------------


def posterior(data):
    """Mean and variance of the posterior, and the variance of its gradient over minibatches."""
    V = (ROWS / 9) ** 2 * float(data.var(correction=0)) / SIZE
    return float(data.sum() / 9) / CURVATURE, 1 / CURVATURE, V


@pytest.mark.parametrize("h", [2e-3, 2e-2])
def test_stochastic_gradient_langevin_on_a_posterior(h, data, generator, has_mean):
    """The mean is exact, the variance (1 + hV/2) / (k (1 - hk/2)) to the last digit. Fails below 1e-5."""
    mean, variance, V = posterior(data)
    exact = (1 + h * V / 2) / (CURVATURE * (1 - h * CURVATURE / 2))
    sampler = StochasticGradientLangevin(Location(), h, data=data, batch_size=SIZE)
    x = sampler.sample(torch.zeros(10_000, dtype=F64), n_steps=round(2 / h**0.85), generator=generator)
    has_mean(x, mean)
    has_mean((x - mean).square(), exact)
    assert exact > 1.1 * variance  # the test would see a noise of the gradient that is not there


def test_smaller_steps_bring_the_posterior(data, generator, has_mean):
    """With a schedule the bias goes below the standard error. Fails below 1e-5."""
    mean, variance, V = posterior(data)
    sampler = StochasticGradientLangevin(Location(), lambda k: 0.02 / (1 + k / 5), data=data, batch_size=SIZE)
    x = sampler.sample(torch.zeros(1_000, dtype=F64), n_steps=2000, generator=generator)
    assert 0.02 / 400 * V / 2 < 0.01
    has_mean(x, mean)
    has_mean((x - mean).square(), variance)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("h", "friction"), [(0.01, 2.0), (0.05, 8.0)])
def test_stochastic_gradient_hmc_on_a_posterior(h, friction, share, data, generator, has_mean):
    """The covariance of (x, p) solves S = A S A' + Q, whatever share of the noise is known. Fails below 1e-5."""
    mean, variance, V = posterior(data)
    k, kept = CURVATURE, 1 - h * friction
    A = torch.tensor([[1 - h * h * k, h * kept], [-h * k, kept]], dtype=F64)
    q = h * h * V + 2 * h * friction - h * h * V * share
    Q = q * torch.tensor([[h * h, h], [h, 1.0]], dtype=F64)
    S = torch.linalg.solve(torch.eye(4, dtype=F64) - torch.kron(A, A), Q.flatten()).view(2, 2)
    sampler = StochasticGradientHMC(Location(), h, friction, share * V, data=data, batch_size=SIZE)
    n_steps = math.ceil(math.log(1e-6) / math.log(float(torch.linalg.eigvals(A).abs().max())) / 2)
    x, state = sampler.sample(torch.zeros(4_000, dtype=F64), n_steps=n_steps, generator=generator, return_state=True)
    p = state.kernel.momentum
    has_mean(x, mean)
    has_mean(p, 0.0)
    has_mean((x - mean).square(), float(S[0, 0]))
    has_mean((x - mean) * p, float(S[0, 1]))
    has_mean(p.square(), float(S[1, 1]))
    if share == 1.0:
        assert abs(float(S[0, 0]) / variance - 1) < 0.05  # what is left is the bias of the steps
    if share == 0.0:
        assert float(S[0, 0]) / variance > 1.15


# arguments ------------------------------------------------------------------------------------------------------------

D = torch.zeros(10)
REFUSED = [
    ({"data": D}, TypeError, "give data and batch_size, or neither"),
    ({"batch_size": 3}, TypeError, "give data and batch_size, or neither"),
    ({"data": [1.0, 2.0], "batch_size": 1}, TypeError, "data must be a tensor .* got list"),
    ({"data": (), "batch_size": 1}, TypeError, "data must be a tensor .* or a tuple"),
    ({"data": (D, [1.0]), "batch_size": 1}, TypeError, "data must be a tensor .* or a tuple"),
    ({"data": torch.zeros(0), "batch_size": 1}, ValueError, r"data must have N rows, at least one, .* got \[0\]"),
    ({"data": torch.tensor(1.0), "batch_size": 1}, ValueError, r"data must have N rows, .* got \[\]"),
    ({"data": (D, D[:5]), "batch_size": 1}, ValueError, r"the same number in every tensor; got \[10\], \[5\]"),
    ({"data": D, "batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ({"data": D, "batch_size": 2.0}, TypeError, "batch_size must be a whole number"),
    ({"data": D, "batch_size": 11}, ValueError, "batch_size must be at most 10, the rows of data; got 11"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=lambda o: str(o)[:40])
def test_refused(kind, options, error, match):
    with pytest.raises(error, match=match):
        kind[0](HarmonicModel(), **options)


NOISES = [
    (-1.0, ValueError, "gradient_noise must be at least 0"),
    (float("nan"), ValueError, "gradient_noise must be finite"),
    ("loud", TypeError, "gradient_noise must be a number"),
    (torch.tensor([1.0, -1.0]), ValueError, "gradient_noise must be finite and at least 0 in every entry"),
    (torch.tensor([1.0, float("nan")]), ValueError, "gradient_noise must be finite and at least 0 in every entry"),
    (torch.ones(2, dtype=torch.bool), TypeError, "gradient_noise must hold real numbers"),
]


@pytest.mark.parametrize(("noise", "error", "match"), NOISES, ids=lambda o: str(o)[:40])
def test_refused_as_gradient_noise(noise, error, match):
    with pytest.raises(error, match=match):
        StochasticGradientHMC(HarmonicModel(), gradient_noise=noise)


def test_gradient_noise_of_another_shape():
    sampler = StochasticGradientHMC(HarmonicModel(), gradient_noise=torch.ones(3))
    with pytest.raises(ValueError, match=r"gradient_noise has shape \[3\]; expected a number or \[2\]"):
        sampler.sample(torch.zeros(4, 2), n_steps=1)


def test_more_noise_than_friction_takes_out_is_refused_before_anything_runs(generator):
    sampler = StochasticGradientHMC(HarmonicModel(), lambda k: 0.1 * (k + 1), friction=0.5, gradient_noise=2.0)
    assert sampler.sample(dim=1, n_steps=5, generator=generator).shape == (1, 1)
    before = generator.get_state()
    with pytest.raises(
        ValueError, match=r"at step_size 0\.6 a gradient_noise of 2 brings more noise than a friction of 0\.5"
    ):
        sampler.sample(dim=1, n_steps=6, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_a_batch_given_by_hand_is_refused(kind, data):
    with pytest.raises(ValueError, match="model_kwargs holds 'batch', which the sampler takes from its data"):
        make(kind, Location(), data).sample(torch.zeros(3, dtype=F64), n_steps=1, model_kwargs={"batch": data})
