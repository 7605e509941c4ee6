"""Microcanonical dynamics: formulas, reversibility, volumes, and the order of the energy error."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from torchebm.core import (
    BaseModel,
    Target,
)
from torchebm.samplers import MicrocanonicalLangevin
from torchebm.samplers.hamiltonian import as_mass, radical_inverse
from torchebm.samplers.microcanonical import isokinetic_leapfrog, normalised, turn

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
