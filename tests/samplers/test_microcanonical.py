"""Microcanonical dynamics: formulas, volumes and reversibility, bias where unadjusted, exactness where adjusted."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import load_file, save_file

from torchebm.core import (
    BaseModel,
    EnergyModel,
    GaussianModel,
    HarmonicModel,
    LinearScheduler,
    SamplingDivergenceWarning,
    Target,
)
from torchebm.core.shapes import select
from torchebm.samplers import MicrocanonicalLangevin
from torchebm.samplers.hamiltonian import as_mass, radical_inverse
from torchebm.samplers.microcanonical import isokinetic_leapfrog, normalised, turn
from torchebm.samplers.microcanonical_tuning import EnergyErrorControl, MicrocanonicalWarmup, autocorrelation_time
from torchebm.samplers.warmup import window_ends

F64 = torch.float64
N = 40
TEMPERATURES = {"one": 1.0, "two": 2.0, "a chain": torch.linspace(0.5, 3.0, N, dtype=F64)}
KINDS = ["identity", "scalar", "diagonal", "dense"]
EVENTS = {"vector": (3,), "image": (1, 2, 2)}


class Skewed(BaseModel):
    """E = sum(x + exp(-x)) + (sum x)² / 20."""

    def forward(self, x):
        x = x.reshape(len(x), -1)
        return (x + torch.exp(-x)).sum(1) + x.sum(1).square() / 20


def E(x):
    return (x + torch.exp(-x)).sum() + x.sum() ** 2 / 20


def dE(x):
    return 1 - torch.exp(-x) + x.sum() / 10


def both(x):
    """Energies and gradients, written out, so that they can be differentiated once more."""
    return Skewed()(x), 1 - torch.exp(-x) + x.sum(1, keepdim=True) / 10


def close(one, other, rtol=1e-10, atol=1e-12):
    torch.testing.assert_close(one, torch.as_tensor(other, dtype=one.dtype), rtol=rtol, atol=atol)


def each(value, i):
    return float(value[i]) if isinstance(value, torch.Tensor) else value


def start(sampler, event, generator):
    """State and noise, as the loop would make them."""
    x = torch.randn(N, *event, dtype=F64, generator=generator)
    target = Target(sampler.model)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, generator)
    return target, sampler.init(x, target, generator), noise


def masses(kind, event, generator):
    """A mass as the user gives it, and its lower Cholesky factor."""
    d = math.prod(event)
    if kind == "identity":
        return None, torch.eye(d, dtype=F64)
    if kind == "scalar":
        return 1.7, 1.7**0.5 * torch.eye(d, dtype=F64)
    if kind == "diagonal":
        diagonal = torch.rand(d, dtype=F64, generator=generator) + 0.5
        return diagonal.view(event), torch.diag(diagonal.sqrt())
    root = torch.randn(d, d, dtype=F64, generator=generator)
    dense = root @ root.T + 0.5 * torch.eye(d, dtype=F64)
    return dense, torch.linalg.cholesky(dense)


def turned(u, g, t):
    """By hyperbolic functions, as published; the gain of kinetic energy with it."""
    d, size = len(u), float(g.norm())
    e, delta = -g / size, t * size
    cosine = float(e @ u)
    scale = math.cosh(delta) + cosine * math.sinh(delta)
    return (u + e * (math.sinh(delta) + cosine * (math.cosh(delta) - 1))) / scale, (d - 1) * math.log(scale)


def leapfrog(x, u, L, h, T, n):
    """n steps of one chain in the coordinates y = L' x, where the gradient is L⁻¹ dE."""
    d, total = len(x), 0.0
    back = torch.linalg.inv(L)
    for _ in range(n):
        u, more = turned(u, back @ dE(x), 0.5 * h / (d - 1) / T)
        x = x + h * back.T @ u
        u, last = turned(u, back @ dE(x), 0.5 * h / (d - 1) / T)
        total += more + last
    return x, u, total


# formulas -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", TEMPERATURES.values(), ids=TEMPERATURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("a_chain", [False, True], ids=["one h and L", "a chain"])
def test_one_step_unadjusted(event, kind, T, a_chain, generator):
    mass, L = masses(kind, event, generator)
    sampler = MicrocanonicalLangevin(Skewed(), mass=mass)
    target, state, (z,) = start(sampler, event, generator)
    h = torch.linspace(0.1, 1.5, N, dtype=F64) if a_chain else 0.8
    length = torch.linspace(3.0, 0.2, N, dtype=F64) if a_chain else 1.3
    new, info = sampler.step(state, (z,), target, temperature=T, step_size=h, decoherence_length=length)
    d = math.prod(event)
    for i in range(N):
        x, u, k, t = state.x[i].flatten(), state.direction[i].flatten(), each(h, i), each(T, i)
        u = u + math.sqrt((math.exp(2 * k / each(length, i)) - 1) / d) * z[i].flatten()
        y, v, gain = leapfrog(x, u / u.norm(), L, k, t, 1)
        close(new.x[i].flatten(), y)
        close(new.direction[i].flatten(), v)
        close(new.energy[i], E(y))
        close(new.gradient[i].flatten(), dE(y))
        close(info.energy_error[i], (E(y) - E(x)) / t + gain)
    assert not info.diverging.any()


@pytest.mark.parametrize("T", TEMPERATURES.values(), ids=TEMPERATURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("a_chain", [False, True], ids=["one h", "a chain"])
def test_one_transition_adjusted(event, kind, T, a_chain, generator):
    mass, L = masses(kind, event, generator)
    sampler = MicrocanonicalLangevin(Skewed(), mass=mass, metropolised=True)
    target, state, (z, u) = start(sampler, event, generator)
    u[: N // 2] = 0.0  # so that some are rejected, however heavy the mass
    h = torch.linspace(0.4, 2.5, N, dtype=F64) if a_chain else 1.6
    new, info = sampler.step(state, (z, u), target, temperature=T, step_size=h, decoherence_length=9.0,
                             n_leapfrog_steps=3)  # fmt: skip
    decisions = []
    for i in range(N):
        x, t = state.x[i].flatten(), each(T, i)
        y, _, gain = leapfrog(x, z[i].flatten() / z[i].norm(), L, each(h, i), t, 3)
        log_ratio = (E(x) - E(y)) / t - gain
        close(info.acceptance_rate[i], log_ratio.exp().clamp(max=1))
        close(info.energy_error[i], -log_ratio)
        decisions.append(bool(1 - u[i] < log_ratio.exp()))
        y = y if decisions[-1] else x
        close(new.x[i].flatten(), y)
        close(new.energy[i], E(y))
        close(new.gradient[i].flatten(), dE(y))
    assert 0 < sum(decisions) < N
    assert (info.n_steps == 3).all()


def test_without_a_number_of_steps_a_transition_takes_their_mean(counting_model, generator):
    sampler = MicrocanonicalLangevin(counting_model, metropolised=True)
    target, state, noise = start(sampler, (3,), generator)
    _, info = sampler.step(state, noise, target, step_size=0.3, decoherence_length=1.6)
    assert (info.n_steps == 5).all()
    assert counting_model.gradients == 1 + 5


def test_lengths_of_trajectories_run_evenly_around_their_mean(counting_model, generator):
    sampler = MicrocanonicalLangevin(counting_model, 0.25, 2.0, metropolised=True)
    steps = sampler.parameter_table(0, 1024)["n_leapfrog_steps"]
    assert sorted(set(steps)) == list(range(1, 16))
    assert sum(steps) / 1024 == pytest.approx(8, abs=0.05)
    assert steps[:8] == [math.ceil(15 * radical_inverse(k)) for k in range(1, 9)]
    assert np.corrcoef(steps[:-1], steps[1:])[0, 1] < 0.1
    _, noted, state = sampler.sample(torch.zeros(3, 2), n_steps=6, generator=generator, return_state=True,
                                     return_diagnostics=True)  # fmt: skip
    assert noted["n_steps"][0].tolist() == steps[:6]
    sampler.sample(state=state, n_steps=4, generator=generator)
    assert counting_model.gradients == 2 + sum(steps[:10])
    assert MicrocanonicalLangevin(counting_model, 0.01, 2.0, metropolised=True, max_leapfrog_steps=7).parameter_table(
        3, 2
    )["n_leapfrog_steps"] == [7, 7]
    short = MicrocanonicalLangevin(counting_model, 2.0, 0.1, metropolised=True)
    assert short.parameter_table(0, 9)["n_leapfrog_steps"] == [1] * 9


def test_directions_start_uniform_and_stay_of_length_one(seeded):
    sampler = MicrocanonicalLangevin(Skewed(), 0.7, 0.5)
    _, state = sampler.sample(torch.zeros(20_000, 3, dtype=F64), n_steps=0, return_state=True, generator=seeded())
    u = state.kernel.direction
    for i in range(3):  # by Archimedes; fails below 1e-5
        assert scipy.stats.kstest(u[:, i].numpy(), scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-6
    _, state = sampler.sample(state=state, n_steps=50, return_state=True, generator=seeded(1))
    close(state.kernel.direction.norm(dim=1), torch.ones(20_000), rtol=1e-14)


def test_directions_carry_over_from_one_run_to_the_next(seeded):
    """Almost without noise, a chain goes on in the direction it had."""
    sampler, x = MicrocanonicalLangevin(lambda x: 0 * x.sum(-1), 0.5, 1e20), torch.zeros(20, 2, dtype=F64)
    y, state = sampler.sample(x, n_steps=4, generator=seeded(), return_state=True)
    z = sampler.sample(state=state, n_steps=4, generator=seeded(1))
    torch.testing.assert_close(z, 2 * y, rtol=1e-4, atol=1e-4)
    close(y.norm(dim=1), torch.full((20,), 2.0), rtol=1e-8)


@pytest.mark.parametrize("share", [0.02, 1.0])
def test_directions_are_forgotten_over_the_decoherence_length(share, generator):
    """On a flat energy, in many dimensions: the mean cosine falls as exp(-distance / L)."""
    sampler = MicrocanonicalLangevin(lambda x: 0 * x.sum(-1), 0.3, 0.3 / share)
    x = torch.zeros(200, 1000, dtype=F64)
    _, state = sampler.sample(x, n_steps=0, generator=generator, return_state=True)
    n = round(1 / share)
    _, later = sampler.sample(state=state, n_steps=n, generator=generator, return_state=True)
    cosine = (state.kernel.direction * later.kernel.direction).sum(1).mean()
    assert float(cosine) == pytest.approx(math.exp(-1), abs=0.01)


# the turn, for gradients of any size ----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 20])
def test_turns_add_up_and_go_back(d, generator):
    u, g = (
        normalised(torch.randn(N, d, dtype=F64, generator=generator)),
        torch.randn(N, d, dtype=F64, generator=generator),
    )
    half, first, _ = turn(u, g, 0.4)
    whole, gain, _ = turn(half, g, 0.7)
    once, at_once, _ = turn(u, g, 1.1)
    close(whole, once)
    close(first + gain, at_once)
    back, lost, _ = turn(-once, g, 1.1)
    close(back, -u)
    close(lost, -at_once)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-10, 1e-3, 1.0, 100.0, 1e5, 1e20, 1e37])
def test_a_turn_is_finite_for_gradients_of_any_size(size, dtype, generator):
    d = 3
    e = torch.tensor([[0.6, 0.0, -0.8]], dtype=dtype)
    u = torch.cat([e, -e, torch.tensor([[0.0, 1.0, 0.0]], dtype=dtype),
                   normalised(torch.randn(50, d, dtype=dtype, generator=generator))])  # fmt: skip
    v, gain, _ = turn(u, -size * e.expand_as(u), 1.0)
    assert v.isfinite().all()
    assert gain.isfinite().all()
    torch.testing.assert_close(v.norm(dim=1), torch.ones(len(v), dtype=dtype))
    cosine = (u.double() @ e.double().T).flatten()
    clear = cosine > -0.99  # away from straight uphill, where rounding decides
    gone = math.exp(-2 * min(size, 300.0))
    expected = 2 * (size + torch.log(((1 + cosine) + (1 - cosine) * gone) / 2))
    torch.testing.assert_close(gain[clear].double(), expected[clear], rtol=1e-5, atol=1e-6)
    if size > 100:
        torch.testing.assert_close(v[clear], e.expand_as(v[clear]))
    torch.testing.assert_close(v[0], e[0])
    assert float(gain[0]) == pytest.approx(2 * size, rel=1e-5)


def test_straight_uphill_stays_straight_uphill_and_loses_what_downhill_gains():
    e = torch.tensor([[1.0, 0.0]], dtype=F64)
    for size in (0.5, 40.0, 1e4):
        v, gain, _ = turn(-e, -size * e, 1.0)
        assert torch.equal(v, -e)
        close(gain, [-size], rtol=1e-9)


def test_small_turns_lose_no_digits():
    u = torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float32)
    gain = turn(u, torch.tensor([[1.0, 0.0, 0.0]]), 1e-6)[1]
    assert float(gain) == pytest.approx(2 * -0.6e-6, rel=1e-5)


# reversible, and the volume is that of the accept ratio ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_back_to_the_start(kind, generator):
    mass, _ = masses(kind, (4,), generator)
    x = torch.randn(N, 4, dtype=F64, generator=generator)
    u = normalised(torch.randn(N, 4, dtype=F64, generator=generator))
    metric = as_mass(mass, x)
    end, v, gain, _ = isokinetic_leapfrog(x, u, both(x)[1], both, metric, 0.6, 1.3, 5)
    assert (end.x - x).flatten(1).norm(dim=1).min() > 0.01
    back, w, lost, _ = isokinetic_leapfrog(end.x, -v, end.gradient, both, metric, 0.6, 1.3, 5)
    close(back.x, x, rtol=1e-8, atol=1e-9)
    close(w, -u, rtol=1e-8, atol=1e-9)
    close(lost, -gain, rtol=1e-8, atol=1e-9)


def tangents(u):
    """`[d, d - 1]`: an orthonormal basis of what is orthogonal to u."""
    return torch.linalg.svd(u.unsqueeze(0)).Vh[1:].T


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_change_of_volume_is_that_of_the_kinetic_energy(d, kind, n, generator):
    """The determinant of the Jacobian on space times sphere is exp(-ΔK)."""
    mass, _ = masses(kind, (d,), generator)
    for _ in range(3):
        x = torch.randn(1, d, dtype=F64, generator=generator)
        u = normalised(torch.randn(1, d, dtype=F64, generator=generator))
        metric = as_mass(mass, x)

        def move(z, metric=metric, d=d):
            x, u = z[:d].unsqueeze(0), z[d:].unsqueeze(0)
            end, v, *_ = isokinetic_leapfrog(x, u, both(x)[1], both, metric, 0.9, 0.7, n)
            return torch.cat([end.x[0], v[0]])

        _, v, gain, _ = isokinetic_leapfrog(x, u, both(x)[1], both, metric, 0.9, 0.7, n)
        J = torch.autograd.functional.jacobian(move, torch.cat([x[0], u[0]]))
        before, after = (torch.block_diag(torch.eye(d, dtype=F64), tangents(w[0])) for w in (u, v))
        volume = torch.linalg.det(after.T @ J @ before).abs()
        close(volume.log(), -gain[0], rtol=1e-7, atol=1e-8)
        assert gain.abs() > 1e-3


@pytest.mark.parametrize(("path", "order"), [(None, 3), (2.4, 2)], ids=["one step", "a path"])
def test_the_energy_error_falls_with_the_step_size(path, order, generator):
    x = torch.randn(4000, 5, dtype=F64, generator=generator)
    u = normalised(torch.randn(4000, 5, dtype=F64, generator=generator))
    errors = []
    for h in (0.05, 0.1):
        n = 1 if path is None else round(path / h)
        end, _, gain, _ = isokinetic_leapfrog(x, u, both(x)[1], both, as_mass(None, x), h, 1.0, n)
        errors.append(float((end.energy - Skewed()(x) + gain).abs().median()))
    assert math.log2(errors[1] / errors[0]) == pytest.approx(order, abs=0.15)


# the bias of the unadjusted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "h", "length"), [(3, 0.9, 1.0), (10, 1.0, 3.0), (10, 2.0, 3.0), (10, 3.0, 3.0)])
def test_the_variance_of_a_normal_density_is_too_large_by_the_square_of_the_step_size(d, h, length, generator):
    """By h² / 12 (d - 1): means of 10,000 independent chains, within 5 standard errors and 15 % for higher orders."""
    sampler, target = MicrocanonicalLangevin(HarmonicModel(), h, length), Target(HarmonicModel())
    x = torch.randn(10_000, d, dtype=F64, generator=generator)
    _, state = sampler.sample(x, n_steps=round(30 / h), generator=generator, return_state=True)
    means = torch.zeros(len(x), dtype=F64)

    def observe(i, state, info):
        means.add_(state.x.square().mean(1) / 150)

    with torch.no_grad():
        sampler.advance(state.kernel, 0, 150, target=target, generator=generator, observe=observe)
    predicted = h * h / 12 / (d - 1)
    error = float(means.std()) / len(x) ** 0.5
    assert abs(float(means.mean()) - 1 - predicted) < 5 * error + 0.15 * predicted
    assert predicted > 3 * error


@pytest.mark.parametrize("event", [(2,), (1, 2, 2)], ids=["vector", "image"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_small_steps_find_a_normal_density_from_far_away(event, dtype, generator, has_mean):
    """Fails below 1e-5."""
    x = torch.full((10_000, *event), 3.0, dtype=dtype)
    sampler = MicrocanonicalLangevin(HarmonicModel(4.0), 0.06, 0.6)
    y = sampler.sample(x, n_steps=400, generator=generator)
    assert y.dtype == dtype
    has_mean(y, 0.0)
    has_mean(y.square(), 0.25 * (1 + 4 * 0.06**2 / 12))


@pytest.mark.parametrize("T", [0.5, 2.5])
def test_temperature_and_mass_scale_what_they_should(T, generator, has_mean):
    """Fails below 1e-5."""
    cov = torch.tensor([[2.0, 1.2, 0.0], [1.2, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
    model = GaussianModel(torch.tensor([3.0, -1.0, 0.0]), cov)
    for mass in (torch.linalg.inv(cov), torch.tensor([0.5, 3.0, 1.0], dtype=F64)):
        sampler, target = MicrocanonicalLangevin(model, mass=mass), Target(model)
        parameters = {"step_size": [0.15] * 300, "decoherence_length": [1.0] * 300}
        state = sampler.init(torch.zeros(10_000, 3, dtype=F64), target, generator)
        y = sampler.advance(state, 0, 300, target=target, generator=generator, temperature=T, parameters=parameters).x
        y = y - model.mean
        for i, j in [(0, 0), (0, 1), (1, 1), (2, 2)]:
            has_mean(y[:, i] * y[:, j], T * float(cov[i, j]))


def test_chains_that_leave_the_support_are_reported_and_not_brought_back(generator):
    half_space = EnergyModel(lambda x: (x - 2 * x.log()).sum(-1))
    x = 1 + torch.rand(50, 2, dtype=F64, generator=generator)
    with pytest.warns(SamplingDivergenceWarning, match="of 50 chains diverged.*a smaller step_size"):
        y, noted = MicrocanonicalLangevin(half_space, 1.5, 1.0).sample(
            x, n_steps=100, generator=generator, return_diagnostics=True
        )
    dead = ~y.isfinite().all(1)
    assert dead.sum() > 0
    assert torch.equal(noted["diverging"][:, -1], dead)
    assert (y[~dead] > 0).all()


# the adjusted is exact, at any step size ------------------------------------------------------------------------------

M = 40_000
SETTINGS = {
    "small steps": {"step_size": 0.2, "decoherence_length": 0.6},
    "large steps": {"step_size": 1.2, "decoherence_length": 3.0},
    "far too large steps": {"step_size": 6.0, "decoherence_length": 12.0},
    "one step": {"step_size": 1.0, "decoherence_length": 1.0},
    "heavy": {"step_size": 1.5, "decoherence_length": 4.0, "mass": 2.5},
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def make(request):
    return lambda model, **options: MicrocanonicalLangevin(model, metropolised=True, **request.param, **options)


@pytest.mark.parametrize("n_steps", [1, 20])
def test_skewed(make, n_steps, gumbel, generator, agrees, has_mean):
    """Independent components of a Gumbel law. Each comparison fails once in a million seeds."""
    x = gumbel.sample(M // 2, 2, generator=generator)
    y = make(gumbel).sample(x, n_steps=n_steps, generator=generator)
    agrees(y, gumbel.cdf)
    has_mean(y, np.euler_gamma)
    has_mean((y - np.euler_gamma) ** 2, np.pi**2 / 6)
    has_mean(torch.exp(-y), 1.0)
    has_mean(((y - np.euler_gamma) * (y.flip(1) - np.euler_gamma))[:, 0], 0.0)
    assert (y != x).double().mean() > 0.005
    has_mean((y - x).sum(1), 0.0)  # in pairs: sharper


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_half_space(make, dtype, generator, agrees):
    """x - 2 log x, NaN below zero: Gamma densities against walls."""
    u = torch.rand(M // 2, 2, dtype=F64, generator=generator)
    x = torch.from_numpy(scipy.stats.gamma(3).ppf(u.numpy())).to(dtype)
    y, noted = make(EnergyModel(lambda x: (x - 2 * x.log()).sum(-1))).sample(
        x, n_steps=20, generator=generator, return_diagnostics=True
    )
    assert (y > 0).all()
    agrees(y, scipy.stats.gamma(3).cdf)
    assert noted["acceptance_rate"].isfinite().all()
    assert (noted["acceptance_rate"][noted["diverging"]] == 0).all()


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_masses(kind, gumbel, generator, agrees, has_mean):
    mass = {"diagonal": torch.tensor([0.4, 4.0, 1.0]), "dense": torch.eye(3) + 0.8}[kind]
    sampler = MicrocanonicalLangevin(gumbel, 1.0, 2.5, mass=mass, metropolised=True)
    x = gumbel.sample(M // 2, 3, generator=generator)
    y = sampler.sample(x, n_steps=10, generator=generator)
    agrees(y, gumbel.cdf)
    has_mean((y - x).sum(1), 0.0)


def test_without_the_kinetic_energy_the_density_would_not_be_kept(gumbel, generator):
    class Lost(MicrocanonicalLangevin):
        def step(self, state, noise, target, **parameters):
            info = super().step(state, noise, target, **parameters)[1]
            z = normalised(noise[0])
            h, n = parameters["step_size"], parameters["n_leapfrog_steps"]
            end = isokinetic_leapfrog(state.x, z, state.gradient, target, self.metric(z), h, 1.0, n).end
            accepted = torch.log1p(-noise[1]) < state.energy - end.energy
            return select(accepted, end, state), info

    x = gumbel.sample(M // 2, 2, generator=generator)
    y = Lost(gumbel, 1.2, 3.0, metropolised=True).sample(x, n_steps=20, generator=generator)
    assert scipy.stats.kstest(y.flatten().numpy(), gumbel.cdf).pvalue < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("h", [10.0, 100.0, 1e4])
def test_enormous_steps(h, dtype, generator, agrees):
    """On a spherical density the gradients of a path are parallel. Fails once in a million seeds."""
    x = torch.randn(M, 2, dtype=dtype, generator=generator)
    sampler = MicrocanonicalLangevin(HarmonicModel(), h, 2 * h, metropolised=True)
    y = sampler.sample(x, n_steps=20, generator=generator)
    agrees(y, scipy.stats.norm.cdf)
    assert y.abs().max() < 7


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_chains_that_start_at_a_centre_of_symmetry_leave_it(dtype, generator):
    """There every direction goes straight uphill, and only rounding turns a path."""
    x = torch.zeros(50, 3, dtype=dtype)
    sampler = MicrocanonicalLangevin(HarmonicModel(), 0.5, 0.5, metropolised=True)
    y, noted = sampler.sample(x, n_steps=1, generator=generator, return_diagnostics=True)
    torch.testing.assert_close(y.norm(dim=1), torch.full((50,), 0.5, dtype=dtype))
    assert noted["acceptance_rate"].min() > 0.999
    assert not noted["diverging"].any()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_path_that_rounding_leads_straight_uphill_is_not_taken(dtype, generator):
    """Steps so long that every direction becomes straight downhill, and then goes straight up on the other side."""
    sampler = MicrocanonicalLangevin(HarmonicModel(), 1e4, 1e4, metropolised=True)
    start = torch.ones(20, 3, dtype=dtype)
    x, noted = sampler.sample(start, n_steps=5, generator=generator, return_diagnostics=True)
    assert torch.equal(x, start)
    assert noted["diverging"].all()
    assert (noted["acceptance_rate"] == 0).all()


# shapes, dtypes and streams, for two components and more --------------------------------------------------------------


@pytest.mark.parametrize("metropolised", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("event", [(2,), (7,), (1, 4, 4)], ids=str)
def test_event_shapes_and_dtypes(event, dtype, metropolised, generator):
    x = torch.full((4, *event), 0.5, dtype=dtype)
    sampler = MicrocanonicalLangevin(EnergyModel(lambda x: x.cosh().flatten(1).sum(1)), 0.5, metropolised=metropolised)
    y, noted, state = sampler.sample(
        x, n_steps=4, n_warmup=3, generator=generator, return_diagnostics=True, return_trajectory=True,
        return_state=True,
    )  # fmt: skip
    assert (y.dtype, y.shape) == (dtype, (4, 4, *event))
    assert y.isfinite().all()
    wide = torch.promote_types(dtype, torch.float32)
    assert noted["energy_error"].dtype == wide
    assert metropolised or state.kernel.direction.dtype == wide


@pytest.mark.parametrize("metropolised", [False, True])
@pytest.mark.parametrize("n_warmup", [0, 10, 60])
@pytest.mark.parametrize("scheduled", [False, True])
def test_50_and_50_steps_are_100(metropolised, n_warmup, scheduled, seeded):
    h, L = (LinearScheduler(0.5, 0.2, 100), lambda k: 1.0 + 0.01 * k) if scheduled else (0.4, 1.0)
    options = {"return_trajectory": True, "return_diagnostics": True, "return_state": True}
    one, two = seeded(), seeded()
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=2), h, L, metropolised=metropolised)
    whole, noted, end = sampler.sample(n_samples=8, n_steps=100, n_warmup=n_warmup, generator=one, **options)
    first, _, state = sampler.sample(n_samples=8, n_steps=50, n_warmup=n_warmup, generator=two, **options)
    second, later, last = sampler.sample(n_steps=50, state=state, generator=two, **options)
    assert torch.equal(whole, torch.cat([first, second], 1))
    assert torch.equal(noted["energy_error"][:, 50:], later["energy_error"])
    assert all(torch.equal(a, b) for a, b in zip(end.kernel, last.kernel, strict=True))


@pytest.mark.parametrize("metropolised", [False, True])
@pytest.mark.parametrize("event", [(), (1,), (1, 1, 1)], ids=str)
def test_one_component_is_refused_with_what_to_use_instead(event, metropolised, generator):
    sampler = MicrocanonicalLangevin(HarmonicModel(), metropolised=metropolised)
    match = r"needs events of two components or more; got events of shape \[.*\]. For one component: Hamiltonian"
    for n_steps in (0, 3):
        with pytest.raises(ValueError, match=match):
            sampler.sample(torch.zeros(4, *event), n_steps=n_steps, generator=generator)
    with pytest.raises(ValueError, match=match):
        sampler.warm_up(torch.zeros(4, *event), n_steps=30, generator=generator)


REFUSED = [
    ({"metropolised": 1}, TypeError, "metropolised must be True or False; got 1"),
    ({"decoherence_length": 0.0}, ValueError, "decoherence_length must be greater than 0"),
    ({"mass": -1.0}, ValueError, "mass must be greater than 0"),
    ({"adapt_mass": "dense"}, ValueError, 'adapt_mass must be "diagonal" or None'),
    ({"desired_energy_var": 0.0}, ValueError, "desired_energy_var must be greater than 0"),
    ({"desired_energy_var": "small"}, TypeError, "desired_energy_var must be a number"),
    ({"target_acceptance": 1.0, "metropolised": True}, ValueError, "target_acceptance must be less than 1"),
    ({"max_leapfrog_steps": 0}, ValueError, "max_leapfrog_steps must be at least 1"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=lambda o: str(o)[:40])
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        MicrocanonicalLangevin(HarmonicModel(), **options)


def test_a_mass_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"mass has shape \[3\]"):
        MicrocanonicalLangevin(HarmonicModel(), mass=torch.ones(3)).sample(torch.zeros(4, 2), n_steps=1)


# warm-up --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("n_chains", [1, 64])
def test_the_step_size_meets_the_energy_error_that_was_asked_for(start, n_chains, generator):
    """Errors c h³ ξ √d: their mean square for each dimension is 4e-4 at h = (0.02 / c)^(1/3)."""
    control = EnergyErrorControl(start, 4e-4, 7, torch.zeros(n_chains, 7))
    live = torch.ones(n_chains, dtype=torch.bool)
    live[1:5] = False
    for _ in range(1000):
        error = 0.3 * control.step_size**3 * 7**0.5 * torch.randn(n_chains, dtype=F64, generator=generator)
        error[1:3], error[5:7] = 1e9, math.nan
        control.update(error, live)
    exact = (0.02 / 0.3) ** (1 / 3)
    # the weights discount small errors, for one chain as for many: by less than a fifth of the step size
    assert float(control.average) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("r", [-0.5, 0.0, 0.6, 0.95])
def test_the_autocorrelation_time_of_an_autoregression(r, generator):
    noise = torch.randn(600, 32, 4, dtype=F64, generator=generator)
    draws = [noise[0]]
    for xi in noise[1:]:
        draws.append(r * draws[-1] + (1 - r * r) ** 0.5 * xi)
    draws = 100 + torch.tensor([1.0, 10.0, 0.0, 1e-3]) * torch.stack(draws)  # one does not vary
    draws[300, 7, 1] = math.nan  # a chain that does not count
    assert autocorrelation_time(draws) == pytest.approx((1 + r) / (1 - r), rel=0.2)
    assert math.isnan(autocorrelation_time(draws[:3]))
    assert math.isnan(autocorrelation_time(draws[:, 7:8]))


WIDTHS = torch.logspace(-1, 1, 20, dtype=F64)[torch.randperm(20, generator=torch.Generator().manual_seed(5))]


@pytest.mark.parametrize("metropolised", [False, True], ids=["unadjusted", "adjusted"])
@pytest.mark.parametrize("start", ["standard normal", "one point"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tuned_on_widths_from_a_tenth_to_ten(metropolised, start, dtype, generator):
    """20 dimensions, 64 chains: widths within 10 %."""
    model = GaussianModel(torch.zeros(20, dtype=dtype), WIDTHS.square().diag().to(dtype))
    sampler = MicrocanonicalLangevin(model, metropolised=metropolised)
    noise = torch.randn(64, 20, dtype=dtype, generator=generator)
    x = {"standard normal": noise, "one point": 0 * noise + 0.1}[start]
    state = sampler.warm_up(x, 500, generator=generator)
    ratio = sampler.mass.double() * WIDTHS**2
    assert ratio.min() > 0.75
    assert ratio.max() < 1.3
    draws, noted = sampler.sample(
        state=state, n_steps=500, generator=generator, return_trajectory=True, return_diagnostics=True
    )
    assert (draws.double().std((0, 1)) / WIDTHS - 1).abs().max() < 0.1
    assert draws.dtype == dtype
    tuning = sampler.tuning
    assert (tuning["step_size"], tuning["decoherence_length"]) == (sampler.step_size, sampler.decoherence_length)
    assert (tuning["mass"], tuning["n_warmup"]) == ("diagonal", 500)
    assert 0.2 * 20**0.5 < sampler.decoherence_length < 3 * 20**0.5
    if metropolised:
        assert float(noted["acceptance_rate"].mean()) == pytest.approx(0.9, abs=0.05)
        assert tuning["acceptance_rate"] == pytest.approx(0.9, abs=0.06)
    else:
        reached = float(noted["energy_error"].square().mean()) / 20
        assert reached == pytest.approx(5e-4, rel=0.3)
        assert tuning["energy_var"] == pytest.approx(5e-4, rel=0.3)


@pytest.mark.parametrize("metropolised", [False, True], ids=["unadjusted", "adjusted"])
def test_tuned_on_a_banana(metropolised, generator):
    """x ~ N(0, 4), y | x ~ N((x² - 4) / 4, 1/4): sd 2 and 1.5, within 10 %."""

    def banana(x):
        return x[:, 0].square() / 8 + 2 * (x[:, 1] - 0.25 * (x[:, 0].square() - 4)).square()

    sampler = MicrocanonicalLangevin(EnergyModel(banana), metropolised=metropolised)
    x = torch.randn(64, 2, dtype=F64, generator=generator)
    draws = sampler.sample(x, n_steps=1500, n_warmup=500, generator=generator, return_trajectory=True)
    assert (draws.std((0, 1)) / torch.tensor([2.0, 1.5]) - 1).abs().max() < 0.1
    assert 0.1 < sampler.decoherence_length < 10


@pytest.mark.parametrize("rate", [0.65, 0.8, 0.9])
def test_the_acceptance_rate_is_what_was_asked_for(rate, generator):
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=10), metropolised=True, target_acceptance=rate)
    state = sampler.warm_up(n_samples=64, n_steps=300, generator=generator)
    _, noted = sampler.sample(state=state, n_steps=128, generator=generator, return_diagnostics=True)
    assert float(noted["acceptance_rate"].mean()) == pytest.approx(rate, abs=0.1)


@pytest.mark.parametrize("goal", [1e-5, 1e-2])
def test_the_energy_error_is_what_was_asked_for(goal, generator):
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=10), desired_energy_var=goal)
    state = sampler.warm_up(n_samples=64, n_steps=300, generator=generator)
    _, noted = sampler.sample(state=state, n_steps=200, generator=generator, return_diagnostics=True)
    assert float(noted["energy_error"].square().mean()) / 10 == pytest.approx(goal, rel=0.35)


def test_the_decoherence_length_is_a_distance_and_no_number_of_steps(generator):
    """Steps that are eight times smaller need as many more, and the length stays near the root of d."""
    x = torch.randn(64, 10, dtype=F64, generator=generator)
    found = []
    for goal in (1e-4, 1e-4 / 8**6):
        sampler = MicrocanonicalLangevin(HarmonicModel(), desired_energy_var=goal)
        sampler.warm_up(x, 800, generator=generator)
        found.append((sampler.step_size, sampler.decoherence_length))
    assert found[0][0] / found[1][0] == pytest.approx(8, rel=0.2)
    assert all(0.3 < length / 10**0.5 < 2.5 for _, length in found)


def test_the_number_of_steps_follows_the_step_size(generator):
    """Where windows end and 5, 10, 20, 40, ... transitions later it is L / h; between, it varies around that."""
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=3), 0.01, metropolised=True)
    x, target = torch.randn(16, 3, dtype=F64, generator=generator), Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), MicrocanonicalWarmup(sampler, 300)
    state, now = warmup.begin(state, target, generator)
    noise, last = tuple(buffer[0] for buffer in sampler.noise(x, 1)), window_ends(300, 16)[-1]
    mean = None
    with torch.no_grad():
        for i in range(300):
            sampler.draw(noise, generator)
            state, info = sampler.step(state, noise, target, **now)
            state, now = warmup.update(i, state, info)
            if i + 1 - last in (5, 10, 20, 40):
                mean = 3**0.5 / float(warmup._steps.average)
            if mean is not None:
                assert now["n_leapfrog_steps"] == sampler.trajectory_steps(i + 1, mean)
    warmup.finish()
    assert sampler.decoherence_length == pytest.approx(3**0.5)


@pytest.mark.parametrize("kind", ["identity", "scalar", "diagonal", "dense"])
@pytest.mark.parametrize("metropolised", [False, True])
def test_a_mass_that_is_kept_and_a_length_in_its_units(kind, metropolised, generator):
    cov = torch.tensor([[4.0, 1.8, 0.0], [1.8, 1.0, 0.0], [0.0, 0.0, 9.0]], dtype=F64)
    M = {
        "identity": torch.eye(3, dtype=F64),
        "scalar": 4 * torch.eye(3, dtype=F64),
        "diagonal": torch.diag(torch.tensor([4.0, 1.0, 0.1], dtype=F64)),
        "dense": torch.linalg.inv(cov),
    }[kind]
    given = {"identity": None, "scalar": 4.0, "diagonal": M.diagonal(), "dense": M}[kind]
    adapt = "diagonal" if kind == "dense" else None  # a dense one stays dense
    sampler = MicrocanonicalLangevin(GaussianModel(torch.zeros(3), cov), mass=given, adapt_mass=adapt,
                                     metropolised=metropolised)  # fmt: skip
    sampler.warm_up(GaussianModel(torch.zeros(3), cov).sample(64, generator=generator), 400, generator=generator)
    assert sampler.mass is given
    assert sampler.tuning["mass"] is None
    if metropolised:
        assert sampler.decoherence_length == pytest.approx(float((M @ cov).trace()) ** 0.5, rel=0.2)


@pytest.mark.parametrize("metropolised", [False, True])
def test_any_length_of_warm_up_and_number_of_chains(metropolised, generator):
    for n_warmup in (1, 5, 19, 20, 27, 28, 40):
        for n_chains in (1, 2, 70):
            sampler = MicrocanonicalLangevin(HarmonicModel(dim=3), metropolised=metropolised)
            x = sampler.sample(n_samples=n_chains, n_steps=2, n_warmup=n_warmup, generator=generator)
            assert x.isfinite().all()
            assert 0.01 < sampler.step_size < 100
            assert sampler.tuning["n_warmup"] == n_warmup
            assert (sampler.mass is None) == (n_warmup < (20 if metropolised else 28))
            assert n_warmup >= 20 or sampler.decoherence_length == 1.0


@pytest.mark.parametrize("metropolised", [False, True])
def test_a_schedule_or_no_target_leave_alone_what_they_are_for(metropolised, generator):
    schedule = LinearScheduler(0.3, 0.1, 10)
    no_target = {"target_acceptance" if metropolised else "desired_energy_var": None}
    for given, left in (({"step_size": schedule}, "step_size"), (no_target, "step_size"),
                        ({"decoherence_length": schedule}, "decoherence_length")):  # fmt: skip
        sampler = MicrocanonicalLangevin(HarmonicModel(4.0), metropolised=metropolised, **given)
        before = dict(sampler.schedulers)
        sampler.sample(torch.randn(64, 2, generator=generator), n_steps=2, n_warmup=100, generator=generator)
        assert [name for name in before if sampler.schedulers[name] is before[name]] == [left]
        assert left not in sampler.tuning
        assert (sampler.mass - 4).abs().max() < 2
    nothing = {"step_size": schedule, "decoherence_length": schedule, "adapt_mass": None}
    sampler = MicrocanonicalLangevin(HarmonicModel(), metropolised=metropolised, **nothing)
    sampler.sample(torch.zeros(4, 2), n_steps=2, n_warmup=30, generator=generator)
    assert sampler.mass is sampler.tuning is None


def test_a_target_that_nothing_would_heed_is_refused():
    with pytest.raises(TypeError, match=r"desired_energy_var is for metropolised=False"):
        MicrocanonicalLangevin(HarmonicModel(), metropolised=True, desired_energy_var=1e-3)
    with pytest.raises(TypeError, match=r"target_acceptance is for metropolised=True"):
        MicrocanonicalLangevin(HarmonicModel(), target_acceptance=0.5)
    one, two = (MicrocanonicalLangevin(HarmonicModel(), metropolised=flag) for flag in (True, False))
    with pytest.raises(ValueError, match="metropolised=True, which is fixed at construction"):
        two.load_state_dict(one.state_dict())


@pytest.mark.parametrize("metropolised", [False, True])
def test_chains_that_cannot_move_do_not_count(metropolised, seeded):
    """Half of them stand where the energy is NaN."""
    model = EnergyModel(lambda x: torch.where(x.abs() < 50, x.square(), math.nan).sum(-1))
    x = torch.randn(64, 2, dtype=F64, generator=seeded())
    sampler = MicrocanonicalLangevin(model, metropolised=metropolised)
    with pytest.warns(SamplingDivergenceWarning, match="64 of 128 chains started"):
        sampler.warm_up(torch.cat([x, 1000 + 0 * x]), 300, generator=seeded(1))
    assert (sampler.mass - 2).abs().max() < 0.5
    assert 0.05 < sampler.step_size < 5
    assert 0.1 < sampler.decoherence_length < 10


@pytest.mark.parametrize("metropolised", [False, True])
def test_a_generator_gives_the_same_bits_again(metropolised, seeded):
    sampler, runs = MicrocanonicalLangevin(HarmonicModel(dim=2), metropolised=metropolised), []
    before = torch.get_rng_state()
    for _ in range(2):  # the second starts from what was given, not from what the first one found
        runs.append(sampler.sample(n_samples=8, n_steps=5, n_warmup=60, generator=seeded()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*runs)
    sampler.step_size, sampler.mass = 0.01, 3.0  # given anew
    sampler.sample(n_samples=8, n_steps=5, n_warmup=5, generator=seeded())
    assert sampler.mass == 3.0


@pytest.mark.parametrize("metropolised", [False, True])
def test_what_was_found_is_saved_and_loaded(metropolised, tmp_path, seeded):
    model = HarmonicModel(dim=2)
    sampler, other = (MicrocanonicalLangevin(model, metropolised=metropolised) for _ in range(2))
    state = sampler.warm_up(n_samples=8, n_steps=60, generator=seeded())
    saved = sampler.state_dict()
    save_file({"mass": saved.pop("mass")}, tmp_path / "mass.safetensors")
    (tmp_path / "rest.json").write_text(json.dumps(saved))
    other.load_state_dict(json.loads((tmp_path / "rest.json").read_text()) | load_file(tmp_path / "mass.safetensors"))
    assert other.tuning == sampler.tuning
    runs = [s.sample(state=state, n_steps=5, generator=seeded(1)) for s in (sampler, other)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("metropolised", [False, True])
def test_a_warm_up_that_fails_leaves_the_sampler_as_it_was(metropolised, generator):
    calls = []

    def energy(x):
        calls.append(1)
        if len(calls) > 150:
            raise ArithmeticError("on purpose")
        return 0.5 * x.square().sum(-1)

    sampler = MicrocanonicalLangevin(EnergyModel(energy), metropolised=metropolised)
    before = dict(sampler.schedulers)
    with pytest.raises(ArithmeticError, match="on purpose"):
        sampler.warm_up(torch.ones(8, 2), 500, generator=generator)
    assert sampler.schedulers == before
    assert sampler.mass is sampler.tuning is None


@pytest.mark.parametrize("metropolised", [False, True])
def test_the_host_reads_nothing_between_the_ends_of_windows(metropolised, monkeypatch, generator):
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=3), metropolised=metropolised)
    x, target = torch.randn(16, 3, dtype=F64, generator=generator), Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), MicrocanonicalWarmup(sampler, 60)
    reads = []
    for name in ("item", "__float__", "__bool__", "__int__", "tolist"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, own=own: [reads.append(1), own(self)][1])
    state, now = warmup.begin(state, target, generator)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    ends = window_ends(60 if metropolised else 42, 16)
    looks = {end + 5 * 2**k for end in ends for k in range(5)} if metropolised else set()
    with torch.no_grad():
        for i in range(60):
            reads.clear()
            sampler.draw(noise, generator)
            state, info = sampler.step(state, noise, target, **now)
            state, now = warmup.update(i, state, info)
            if i > 0 and not {i, i + 1} & (looks | set(ends)):  # a new mass is checked in the step that follows
                assert not reads, i
    warmup.finish()
