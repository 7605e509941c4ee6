"""Densities with exact draws, and the tests of agreement that the samplers share."""

import pytest
import scipy.stats
import torch

from torchebm.core import BaseModel

F64 = torch.float64


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
