"""What the tests of losses share: small energies, samplers that do as they are told, and reproducible numbers."""

import math

import pytest
import torch
from torch import nn

from torchebm.core import BaseModel, BaseSampler

EVENTS = {"scalars": (), "vectors": (3,), "images": (1, 4, 5)}


class Bowl(BaseModel):
    """A Gaussian energy of any event shape whose parameters are a mean and a log-precision a component."""

    def __init__(self, event=(3,), dtype=torch.float32):
        super().__init__()
        size = math.prod(event)
        self.mean = nn.Parameter(torch.linspace(-0.5, 0.5, size, dtype=dtype).reshape(event))
        self.log_precision = nn.Parameter(torch.linspace(0.2, -0.3, size, dtype=dtype).reshape(event))

    def forward(self, x):
        energy = 0.5 * self.log_precision.exp() * (x - self.mean).square()
        return energy.reshape(len(x), -1).sum(1)


class Still(BaseSampler):
    """Returns the chains where they are, or moved by what `move` makes of them; notes what it was given."""

    def __init__(self, model, move=lambda x: x):
        super().__init__(model)
        self.move = move
        self.calls = []

    def sample(self, x=None, **options):
        self.calls.append({"x": x, **options})
        return self.move(x.detach().clone())


def draws(n, event=(3,), seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, *event), generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture
def bowl():
    return Bowl


@pytest.fixture
def still():
    return Still


@pytest.fixture
def points():
    return draws


@pytest.fixture(params=EVENTS.values(), ids=EVENTS.keys())
def event(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param
