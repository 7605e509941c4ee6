"""The leapfrog integrator and the mass of the momentum."""

import math
from itertools import pairwise

import pytest
import torch

from torchebm.core import HarmonicModel
from torchebm.samplers.hamiltonian import DenseMass, DiagonalMass, ScalarMass, as_mass, kinetic, leapfrog

F64 = torch.float64
MATRIX = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=F64)
MASSES = {
    "identity": ScalarMass(),
    "scalar": ScalarMass(2.5),
    "diagonal": DiagonalMass(torch.tensor([0.5, 3.0], dtype=F64)),
    "dense": DenseMass(MATRIX),
}


@pytest.fixture(params=MASSES.values(), ids=MASSES)
def mass(request):
    return request.param


def target(x):
    """E = exp(-a) + a + (b - a²)² / 2: skewed, curved and coupled; differentiable, unlike a sampler's target."""
    a, b = x.unbind(-1)
    energy = torch.exp(-a) + a + 0.5 * (b - a * a) ** 2
    return energy, torch.stack([1 - torch.exp(-a) - 2 * a * (b - a * a), b - a * a], -1)


def phase_point(generator, n=5):
    return torch.randn(2, n, 2, dtype=F64, generator=generator).unbind(0)


def integrate(x, p, mass, h, n, temperature=1.0):
    return leapfrog(x, p, target(x)[1], target, mass, h, h / temperature, n)


# leapfrog -------------------------------------------------------------------------------------------------------------


def test_energy_and_gradient_returned_are_those_of_the_end(mass, generator):
    x, p = phase_point(generator)
    y, _, energy, gradient = integrate(x, p, mass, 0.1, 4)
    assert torch.equal(energy, target(y)[0])
    assert torch.equal(gradient, target(y)[1])


def test_inputs_are_not_modified(mass, generator):
    x, p = phase_point(generator)
    gradient = target(x)[1]
    copies = [t.clone() for t in (x, p, gradient)]
    leapfrog(x, p, gradient, target, mass, 0.1, 0.1, 3)
    assert all(map(torch.equal, (x, p, gradient), copies))


@pytest.mark.parametrize("n", [1, 7])
def test_reversible(mass, n, generator):
    x, p = phase_point(generator)
    y, q, _, _ = integrate(x, p, mass, 0.1, n)
    assert not torch.allclose(x, y)
    back, minus_p, _, _ = integrate(y, -q, mass, 0.1, n)
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(minus_p, -p, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("h", [0.05, 0.4])
def test_volume_preserving(mass, h, generator):
    z = torch.cat(phase_point(generator, 1), -1).squeeze(0)  # [x, p]

    def flow(z):
        y, q, _, _ = integrate(z[:2].unsqueeze(0), z[2:].unsqueeze(0), mass, h, 3)
        return torch.cat([y, q], -1).squeeze(0)

    jacobian = torch.func.jacrev(flow)(z)
    assert abs(torch.linalg.det(jacobian) - 1) < 1e-10
    assert not torch.allclose(jacobian, torch.eye(4, dtype=F64), atol=1e-2)


def test_energy_error_is_of_second_order(mass, generator):
    x, p = phase_point(generator, 50)

    def error(n):  # over a path of length 0.5
        _, q, energy, _ = integrate(x, p, mass, 0.5 / n, n)
        return (energy - target(x)[0] + kinetic(mass, q, F64) - kinetic(mass, p, F64)).abs().mean()

    errors = [float(error(n)) for n in (32, 64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([2, 2, 2], abs=0.1)


def test_step_size_and_temperature_a_chain(mass, generator):
    x, p = phase_point(generator, 3)
    h, temperature = torch.tensor([[0.1], [0.2], [0.3]], dtype=F64), torch.tensor([[1.0], [2.0], [0.5]], dtype=F64)
    together = leapfrog(x, p, target(x)[1], target, mass, h, h / temperature, 4)
    for i in range(3):
        alone = integrate(x[i : i + 1], p[i : i + 1], mass, float(h[i]), 4, float(temperature[i]))
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], one, rtol=1e-12, atol=1e-12)


# mass -----------------------------------------------------------------------------------------------------------------


def matrix_of(mass, d):
    if isinstance(mass, ScalarMass):
        return mass.mass * torch.eye(d, dtype=F64)
    return torch.diag(1 / mass.inverse) if isinstance(mass, DiagonalMass) else torch.linalg.inv(mass.inverse)


def test_momentum_has_the_covariance_of_the_mass(mass):
    root = mass.momentum(torch.eye(2, dtype=F64))  # rows: images of the unit vectors
    torch.testing.assert_close(root.T @ root, matrix_of(mass, 2), rtol=1e-10, atol=1e-10)


def test_velocity_and_kinetic_energy(mass, generator):
    p, inverse = phase_point(generator)[1], torch.linalg.inv(matrix_of(mass, 2))
    velocity = torch.stack([inverse @ row for row in p])
    torch.testing.assert_close(mass.velocity(p), velocity, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(kinetic(mass, p, F64), 0.5 * (p * velocity).sum(1), rtol=1e-10, atol=1e-10)


X = torch.zeros(3, 2, 2)
KINDS = [
    (None, ScalarMass),
    (2, ScalarMass),
    (0.5, ScalarMass),
    (torch.tensor(0.5), ScalarMass),
    (torch.ones(2, 2), DiagonalMass),
    (torch.ones(2, 2, dtype=torch.int64), DiagonalMass),
    (torch.eye(4), DenseMass),
    (torch.eye(4, dtype=F64), DenseMass),
]


@pytest.mark.parametrize(("mass", "kind"), KINDS, ids=str)
def test_the_kind_of_mass_follows_from_its_shape(mass, kind):
    made = as_mass(mass, X)
    assert type(made) is kind
    assert made.momentum(X).shape == made.velocity(X).shape == X.shape
    assert made.momentum(X).dtype == made.velocity(X).dtype == X.dtype
    assert kinetic(made, X, F64).shape == (3,)
    assert kinetic(made, X, F64).dtype == F64


def test_a_dense_mass_acts_on_the_flattened_event(generator):
    root = torch.randn(4, 4, generator=generator, dtype=F64)
    p = torch.randn(3, 2, 2, generator=generator, dtype=F64)
    flat, shaped = as_mass(root @ root.T, p.flatten(1)), as_mass(root @ root.T, p)
    assert torch.equal(shaped.velocity(p).flatten(1), flat.velocity(p.flatten(1)))
    assert torch.equal(shaped.momentum(p).flatten(1), flat.momentum(p.flatten(1)))


def test_scalar_events_have_scalar_masses():
    x = torch.zeros(3)
    assert type(as_mass(2.0, x)) is ScalarMass
    assert kinetic(as_mass(torch.tensor([[2.0]]), x), torch.ones(3), F64).tolist() == [0.25] * 3
    with pytest.raises(ValueError, match=r"mass has shape \[2\]"):
        as_mass(torch.ones(2), x)


NAN = float("nan")
REFUSED = [
    (0, ValueError, "mass must be greater than 0"),
    (-1.0, ValueError, "mass must be greater than 0"),
    (NAN, ValueError, "mass must be finite"),
    (True, TypeError, "mass must be a number"),
    ([1.0, 1.0], TypeError, "mass must be a number; got .* of type list"),
    ("1", TypeError, "mass must be a number"),
    (torch.tensor(0.0), ValueError, "mass must be greater than 0"),
    (torch.tensor([1.0, -1.0]), ValueError, "a diagonal mass must be positive and finite; its smallest entry is -1"),
    (torch.tensor([1.0, 0.0]), ValueError, "a diagonal mass must be positive"),
    (torch.tensor([1.0, NAN]), ValueError, "a diagonal mass must be positive and finite"),
    (torch.ones(3), ValueError, r"mass has shape \[3\]; expected a number, \[2\] for a diagonal mass, or \[2, 2\]"),
    (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), ValueError, "a dense mass must be symmetric"),
    (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), ValueError, "a dense mass must be positive definite"),
    (torch.tensor([[1.0, NAN], [NAN, 1.0]]), ValueError, "a dense mass must be finite"),
    (torch.ones(2, dtype=torch.complex64), TypeError, "mass must hold real numbers; got torch.complex64"),
    (torch.ones(2, dtype=torch.bool), TypeError, "mass must hold real numbers; got torch.bool"),
]  # fmt: skip


@pytest.mark.parametrize(("mass", "error", "match"), REFUSED, ids=lambda m: str(m)[:30])
def test_refused_as_mass(mass, error, match):
    with pytest.raises(error, match=match):
        as_mass(mass, torch.zeros(4, 2))


def test_an_unstable_step_ends_in_numbers_that_are_not_finite_and_is_not_repaired():
    x, p = torch.full((1, 1), 1e30), torch.zeros(1, 1)
    model = HarmonicModel()
    y, q, _, _ = leapfrog(x, p, model.gradient(x), model.energy_and_gradient, ScalarMass(), 1e3, 1e3, 10)
    assert not y.isfinite().any()
    assert not q.isfinite().any()
