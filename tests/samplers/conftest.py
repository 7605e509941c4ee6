"""What tests of samplers share: densities, the start of a step that is written out, and tests of agreement."""

import math

import pytest
import scipy.stats
import torch

from torchebm.core import BaseModel, Target

F64 = torch.float64
N = 40  # chains in tests of formulas


class GumbelModel(BaseModel):
    """E(x) = sum of x + exp(-x): skewed, so that an error of sign shows; independent in every entry of the event."""

    def forward(self, x):
        return (x + torch.exp(-x)).reshape(len(x), -1).sum(1)

    def sample(self, *shape, generator):
        u = torch.rand(shape, generator=generator, dtype=F64)
        return -torch.log(-torch.log(u))

    cdf = staticmethod(scipy.stats.gumbel_r.cdf)


@pytest.fixture
def gumbel():
    return GumbelModel()


# formulas -------------------------------------------------------------------------------------------------------------


class SkewedModel(BaseModel):
    """E = sum(x + exp(-x)) + (sum x)² / 20: skewed, and coupled. `at` and `slope` are of one point, written out."""

    def forward(self, x):
        x = x.reshape(len(x), -1)
        return (x + torch.exp(-x)).sum(1) + x.sum(1).square() / 20

    def at(self, x):
        return (x + torch.exp(-x)).sum() + x.sum() ** 2 / 20

    def slope(self, x):
        return 1 - torch.exp(-x) + x.sum() / 10


@pytest.fixture
def skewed():
    return SkewedModel()


TEMPERATURES = {"one": 1.0, "two": 2.0, "a chain": torch.linspace(0.5, 3.0, N, dtype=F64)}
EVENTS = {"vector": (3,), "image": (1, 2, 2), "scalar": ()}


@pytest.fixture(params=TEMPERATURES.values(), ids=TEMPERATURES)
def T(request):
    """A temperature for all chains, or one a chain."""
    return request.param


@pytest.fixture(params=EVENTS.values(), ids=EVENTS)
def event(request):
    """Shapes of a point."""
    return request.param


@pytest.fixture
def each():
    """`each(value, i)`: that of chain i, of a number for all or one a chain."""
    return lambda value, i: float(value[i]) if isinstance(value, torch.Tensor) else value


@pytest.fixture
def close():
    """`close(one, other)`: to rounding, in float64."""
    return lambda one, other: torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.fixture
def start(generator):
    """`start(sampler, event)`: target, state and noise of 40 chains, as the loop would make them."""

    def make(sampler, event, scale=1.0):
        x = scale * torch.randn(N, *event, dtype=F64, generator=generator)
        target = Target(sampler.model)
        noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
        sampler.draw(noise, generator)
        return target, sampler.init(x, target, generator), noise

    return make


@pytest.fixture
def masses(generator):
    """`masses(kind, event)`: a mass as the user gives it, and as a matrix."""

    def make(kind, event):
        d = math.prod(event)
        diagonal = torch.rand(d, dtype=F64, generator=generator) + 0.5
        root = torch.randn(d, d, dtype=F64, generator=generator)
        dense = root @ root.T + 0.5 * torch.eye(d, dtype=F64)
        return {
            "identity": (None, torch.eye(d, dtype=F64)),
            "scalar": (1.7, 1.7 * torch.eye(d, dtype=F64)),
            "diagonal": (diagonal.view(event), torch.diag(diagonal)),
            "dense": (dense, dense),
        }[kind]

    return make


# draws ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def agrees():
    """`agrees(draws, cdf)`: independent draws follow a law, by Kolmogorov-Smirnov; fails once in a million."""

    def check(draws, cdf):
        result = scipy.stats.kstest(draws.flatten().double().numpy(), cdf)
        assert result.pvalue > 1e-6, f"distance {result.statistic:.4f} at {result.statistic_location:.3f}"

    return check


@pytest.fixture
def has_mean():
    """`has_mean(draws, mean)`: within 5 standard errors, for independent draws; fails once in 1.7 million."""

    def check(draws, mean):
        draws = draws.flatten().double()
        z = (draws.mean() - mean) / (draws.std() / len(draws) ** 0.5)
        assert abs(float(z)) < 5, (
            f"{float(draws.mean()):.5f} instead of {float(mean):.5f}: {float(z):.1f} standard errors"
        )

    return check
