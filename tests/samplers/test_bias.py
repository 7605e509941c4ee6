"""Samplers without an accept test are biased: by the order of the step size that theory says, and by its size.

On a circle the law that a discrete chain settles to can be computed to many digits: Fourier series carry densities
through shifts and noise exactly. Its distance to the true law gives the order, and chains must follow it, not the
truth. For normal densities the bias is known in closed form: see `test_langevin.py`, `test_stochastic_gradient.py` and
`test_underdamped.py`. Comparisons of chains fail once in 1.7 million seeds each.
"""

import math

import numpy as np
import pytest
import torch

from torchebm.core import BaseModel, ClosedFormModel, Target
from torchebm.samplers import LangevinDynamics, StochasticGradientHMC, StochasticGradientLangevin, UnderdampedLangevin

F64 = torch.float64
TAU = 2 * math.pi
X = np.linspace(0, TAU, 64, endpoint=False)
ROWS = np.array([0.0, 0.7, 2.0])  # data, for energies seen in minibatches of one row
FRICTION = 0.8


class Circle(ClosedFormModel):
    """E = -cos x - sin(2 x) / 3: two wells of unlike depth on a circle."""

    def forward(self, x):
        return -torch.cos(x) - torch.sin(2 * x) / 3

    def gradient(self, x):
        return torch.sin(x) - torch.cos(2 * x) * (2 / 3)


class Scattered(BaseModel):
    """E = -sum of cos(x - y) over three rows y, as one of them shows it."""

    def forward(self, x, batch):
        return -3 * torch.cos(x.unsqueeze(1) - batch).mean(1)


def circle(x):
    """Energy, and what a step may take for its gradient, each as likely as the others."""
    return -np.cos(x) - np.sin(2 * x) / 3, [np.sin(x) - np.cos(2 * x) * (2 / 3)]


def scattered(x):
    return -sum(np.cos(x - y) for y in ROWS), [3 * np.sin(x - y) for y in ROWS]


def moments(density):
    return np.array([(density * f).sum() for f in (np.cos(X), np.sin(X), np.cos(2 * X))]) / density.sum()


def true_moments(target):
    return moments(np.exp(-target(X)[0]))


def first_order(h, target):
    """Of x' = x - h g(x) + sqrt(2h) xi, by the matrix of its transitions."""
    waves = np.arange(-31, 32)
    matrix = np.zeros((64, 64))
    for gradient in target(X)[1]:
        to = X - h * gradient  # a normal density around each, wrapped on the circle, as a Fourier series
        series = np.exp(-h * waves**2) * np.exp(1j * waves * (X[:, None, None] - to[None, :, None]))
        matrix += series.sum(-1).real / len(target(X)[1])
    values, vectors = np.linalg.eig(matrix / matrix.sum(0))
    return moments(vectors[:, np.argmax(values.real)].real)


def second_order(h, target, parts, n_p=128, reach=11.0):
    """Of a chain in x and p whose step is made of `parts`, by what each does to the density."""
    p = -reach + 2 * reach * np.arange(n_p) / n_p
    waves_x, waves_p = np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(n_p, 2 * reach / n_p) * TAU
    energy, gradients = target(X)

    def drift(f, share):  # x + share h p
        phases = np.exp(-1j * np.outer(waves_x, p) * share * h)
        return np.fft.ifft(phases * np.fft.fft(f, axis=0), axis=0).real

    def kick(f, share):  # p - share h g(x), whichever g it is
        phases = sum(np.exp(1j * np.outer(g, waves_p) * share * h) for g in gradients) / len(gradients)
        return np.fft.ifft(phases * np.fft.fft(f, axis=1), axis=1).real

    def forget(f, kept, spread):  # kept p + spread xi
        between = p[:, None] - kept * p
        normal = np.exp(-0.5 * (between / spread) ** 2)
        return f @ (normal / normal.sum(0)).T

    c = math.exp(-FRICTION * h)
    does = {
        "A": lambda f: drift(f, 0.5),
        "B": lambda f: kick(f, 0.5),
        "O": lambda f: forget(f, c, math.sqrt(1 - c * c)),
        "a": lambda f: drift(f, 1.0),
        "b": lambda f: kick(f, 1.0),
        "o": lambda f: forget(f, 1 - h * FRICTION, math.sqrt(2 * h * FRICTION)),
    }
    f, before = np.exp(-energy)[:, None] * np.exp(-p * p / 2), np.inf
    for _ in range(4000):
        for part in parts:
            f = does[part](f)
        f /= f.sum()
        now = moments(f.sum(1))
        if np.abs(now - before).max() < 1e-10:
            return now
        before = now
    raise AssertionError("the density did not settle")


DATA = {"data": torch.from_numpy(ROWS), "batch_size": 1}
BIASED = {  # law at a step size, truth, order, step size of the chains and how many they take, sampler
    "Langevin": (
        lambda h: first_order(h, circle), circle, 1, 0.4, 100,
        lambda h: LangevinDynamics(Circle(), h),
    ),
    "SGLD, no minibatches": (
        lambda h: first_order(h, circle), circle, 1, 0.4, 100,
        lambda h: StochasticGradientLangevin(Circle(), h),
    ),
    "SGLD": (
        lambda h: first_order(h, scattered), scattered, 1, 0.08, 300,
        lambda h: StochasticGradientLangevin(Scattered(), h, **DATA),
    ),
    "SGHMC, no minibatches": (  # momenta that lag by half a step do not show in positions
        lambda h: second_order(h, circle, "oba"), circle, 2, 0.6, 100,
        lambda h: StochasticGradientHMC(Circle(), h, FRICTION),
    ),
    "SGHMC": (
        lambda h: second_order(h, scattered, "oba"), scattered, 1, 0.12, 120,
        lambda h: StochasticGradientHMC(Scattered(), h, FRICTION, **DATA),
    ),
    "underdamped": (
        lambda h: second_order(h, circle, "BAOAB"), circle, 2, 1.2, 60,
        lambda h: UnderdampedLangevin(Circle(), h, FRICTION),
    ),
}  # fmt: skip
FINE = {1: 2, 2: 4}  # how much smaller steps must be for the order to show


@pytest.mark.parametrize(("law", "truth", "order", "h", "n_steps", "make"), BIASED.values(), ids=BIASED)
def test_the_bias_has_the_order_and_the_size_predicted(law, truth, order, h, n_steps, make, generator, has_mean):
    true, n = true_moments(truth), 10_000
    small, half = (np.abs(law(step) - true).max() for step in (h / FINE[order], h / FINE[order] / 2))
    assert math.log2(small / half) == pytest.approx(order, abs=0.15)

    sampler, expected = make(h), law(h)
    target = Target(sampler.model)
    x = TAU * torch.rand(n, dtype=F64, generator=generator)
    with torch.no_grad():
        state = sampler.advance(sampler.init(x, target, generator), 0, 2 * n_steps, target=target, generator=generator)
        totals = torch.zeros(3, n, dtype=F64)
        for _ in range(n_steps):
            state = sampler.advance(state, 0, 1, target=target, generator=generator)
            totals += torch.stack([torch.cos(state.x), torch.sin(state.x), torch.cos(2 * state.x)]) / n_steps
    for total, value in zip(totals, expected, strict=True):
        has_mean(total, value)
    assert np.abs((expected - true) / (totals.std(1) / n**0.5).numpy()).max() > 10  # or the test would see nothing


def test_the_bias_of_langevin_dynamics_is_that_of_its_modified_density():
    """To first order the chain has the density exp(-E) (1 + h (|E'|² / 4 - E'' / 2 + c))."""
    energy, (slope,) = circle(X)
    curvature = np.cos(X) + np.sin(2 * X) * (4 / 3)
    density = np.exp(-energy) / np.exp(-energy).sum()
    change = slope**2 / 4 - curvature / 2
    change -= (density * change).sum()
    expected = np.array([(density * change * f).sum() for f in (np.cos(X), np.sin(X), np.cos(2 * X))])
    measured = (first_order(1e-4, circle) - true_moments(circle)) / 1e-4
    np.testing.assert_allclose(measured, expected, rtol=2e-3, atol=1e-4)
