"""A classifier read as an energy: its marginals, its conditionals, and what samplers make of them."""

import math

import pytest
import torch
from torch import nn

from torchebm.core import HarmonicModel
from torchebm.models import MLP, JointEnergyModel, StridedNetwork
from torchebm.samplers import MetropolisAdjustedLangevin


def points(n, event=(3,), seed=0):
    return torch.randn((n, *event), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("base", [None, HarmonicModel()], ids=["no base", "bowl"])
def test_energies_are_those_of_one_joint_density(base):
    model, x = JointEnergyModel(MLP(3, [8], 4), 4, base).double(), points(5)
    f = model.network(x)
    bowl = 0 if base is None else 0.5 * x.square().sum(1)
    joint = torch.stack([model(x, label=torch.full((5,), k)) for k in range(4)], 1)  # [batch, class]
    torch.testing.assert_close(joint, (bowl - f.T).T if base is not None else -f, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(x), -torch.stack([(-joint[:, k]).exp() for k in range(4)]).sum(0).log())
    shares = torch.exp(model(x).unsqueeze(1) - joint)
    torch.testing.assert_close(shares, torch.softmax(model.logits(x), 1))


def test_gradients_are_those_of_differences():
    model, x, label = (
        JointEnergyModel(MLP(3, [8], 4), 4, HarmonicModel()).double(),
        points(5),
        torch.tensor([0, 3, 1, 2, 0]),
    )
    for condition in ({}, {"label": label}):
        gradient, direction, h = model.gradient(x, **condition), points(5, seed=1), 1e-5
        slope = (model(x + h * direction, **condition) - model(x - h * direction, **condition)) / (2 * h)
        torch.testing.assert_close((gradient * direction).sum(1), slope, rtol=1e-6, atol=1e-8)


def test_samplers_draw_the_class_that_is_asked_for(generator):
    """Gaussian classes with means -3, 0 and 3: each mean within 5 standard errors of 500 chains."""
    means = torch.tensor([-3.0, 0.0, 3.0])
    model = JointEnergyModel(lambda x: -0.5 * (x - means).square(), 3)
    label = torch.arange(3).repeat_interleave(500)
    sampler = MetropolisAdjustedLangevin(model, step_size=0.8)
    x = sampler.sample(torch.zeros(1500, 1), n_steps=60, model_kwargs={"label": label}, generator=generator)
    for k, mean in enumerate(means):
        assert abs(x[label == k].mean() - mean) < 5 / math.sqrt(500)
        assert abs(x[label == k].var() - 1) < 5 * math.sqrt(2 / 500)


def test_what_is_wrong_is_said():
    model = JointEnergyModel(nn.Linear(3, 4), 4)
    with pytest.raises(ValueError, match=r"logits of shape \[2, 4\]; expected \[2, 5\]"):
        JointEnergyModel(nn.Linear(3, 4), 5)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"label has shape \[3\]; expected \[2\]"):
        model(torch.zeros(2, 3), label=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="n_classes must be at least 2"):
        JointEnergyModel(nn.Linear(3, 1), 1)
    with pytest.raises(TypeError, match="network must be"):
        JointEnergyModel(3, 2)
    with pytest.raises(RuntimeError, match="out of bounds"):
        model(torch.zeros(2, 3), label=torch.tensor([0, 4]))


def test_images_and_their_shape():
    model = JointEnergyModel(StridedNetwork((1, 8, 8), (4, 4), 3), 3, event_shape=(1, 8, 8))
    assert model.event_shape == (1, 8, 8)
    assert model.gradient(torch.zeros(2, 1, 8, 8), label=torch.tensor([0, 2])).shape == (2, 1, 8, 8)
