"""What tests of p-values share."""

import math

import pytest
import torch


@pytest.fixture
def off_uniform():
    """The Kolmogorov distance of p-values from the uniform distribution: above it, so that they are too small, and
    below."""

    def distances(p_values):
        ordered = p_values.sort().values
        steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
        return float((steps[1:] - ordered).max()), float((ordered - steps[:-1]).max())

    return distances


@pytest.fixture
def bound():
    """What the Kolmogorov distance of n draws exceeds, on one side, once in a million: Dvoretzky, Kiefer, Wolfowitz and
    Massart."""
    return lambda n: math.sqrt(math.log(1e6) / (2 * n))


@pytest.fixture
def chains(generator):
    """`chains(n, length)`: stationary autoregressive chains, `[chain, draw]`, whose draws are correlated by 0.9."""

    def run(n, length):
        x = [torch.randn(n, generator=generator)]
        for _ in range(length - 1):
            x.append(0.9 * x[-1] + math.sqrt(1 - 0.81) * torch.randn(n, generator=generator))
        return torch.stack(x, 1)

    return run
