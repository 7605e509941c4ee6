"""Networks with several outputs, and the energy that is told a noise level."""

import pytest
import torch
from torch import nn

from torchebm.core import EnergyModel
from torchebm.models import NoiseConditionalEnergy, StridedNetwork, WideResidualNetwork

NETWORKS = {
    "strided, 8": (lambda n: StridedNetwork((1, 8, 8), (4, 6), n), (1, 8, 8)),
    "strided, oblong": (lambda n: StridedNetwork((2, 9, 17), (4, 6, 8), n), (2, 9, 17)),
    "strided, spectral": (lambda n: StridedNetwork((1, 28, 28), (2, 4, 4, 4), n, spectral_norm=True), (1, 28, 28)),
    "wide residual": (lambda n: WideResidualNetwork((3, 8, 12), (4, 6, 8), 2, n), (3, 8, 12)),
}
every_network = pytest.mark.parametrize(("make", "event"), NETWORKS.values(), ids=NETWORKS.keys())


def points(n, event):
    return torch.randn((n, *event), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@every_network
def test_networks_have_rows_of_their_own(make, event):
    network, x = make(5).double().eval(), points(4, event)
    y = network(x)
    assert y.shape == (4, 5)
    torch.testing.assert_close(network(x[:1]), y[:1])
    assert EnergyModel(make(1).double())(x).shape == (4,)
    assert network(x[:0]).shape == (0, 5)


@every_network
def test_every_pixel_and_every_parameter_counts(make, event):
    model, x = EnergyModel(make(1)).double(), points(4, event)
    gradient = model.gradient(x)
    assert gradient.shape == x.shape
    assert (gradient != 0).any(0).all()
    model(x).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in model.parameters())


def test_parameter_counts_are_as_documented():
    for network, documented in ((StridedNetwork(), 76_993), (WideResidualNetwork(), 36_471_338)):
        assert sum(parameter.numel() for parameter in network.parameters()) == documented
        assert f"{documented:,}" in type(network).__doc__


@pytest.mark.parametrize("event", [(1, 8, 8), (2, 9, 16), (3,)], ids=["image", "oblong", "vector"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_every_level_has_an_energy_of_its_own(event, spectral_norm):
    model = NoiseConditionalEnergy(event, 4, (6, 8), spectral_norm).double().eval()
    x, level = points(4, event), torch.tensor([0, 1, 2, 3])
    assert model.event_shape == event
    energy, gradient = model.energy_and_gradient(x, level=level)
    same = model(x[:1].expand_as(x), level=level)
    assert len(same.unique()) == 4
    torch.testing.assert_close(model(x[2:3], level=level[2:3]), energy[2:3])
    assert torch.equal(model(x), model(x, level=torch.zeros(4, dtype=torch.long)))
    direction, h = points(8, event)[4:], 1e-5
    slope = (model(x + h * direction, level=level) - model(x - h * direction, level=level)) / (2 * h)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-7)
    model(x, level=level).square().sum().backward()
    assert all((p.grad != 0).any() for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: StridedNetwork((1, 7, 8)), "at least 8 high and wide"),
        (lambda: StridedNetwork((1, 8, 8), ()), "at least one convolution"),
        (lambda: WideResidualNetwork((3, 32, 32), ()), "at least one group"),
        (lambda: WideResidualNetwork((3, 32, 32), leak=-1.0), "leak must be at least 0"),
        (lambda: NoiseConditionalEnergy((3, 3), 2), r"\(channels, height, width\) or \(length,\)"),
        (lambda: NoiseConditionalEnergy((3,), 0), "n_levels must be at least 1"),
        (lambda: NoiseConditionalEnergy((3,), 2, ()), "at least one block"),
        (lambda: NoiseConditionalEnergy((3,), 2)(torch.zeros(2, 3), level=torch.zeros(3).long()), "one a point"),
    ],
)
def test_what_is_wrong_is_said(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_leak_replaces_every_activation():
    from torchebm.training.recipes.langevin import leaky

    network = leaky(nn.Sequential(nn.Flatten(), StridedNetwork((1, 8, 8), (2, 2))), 0.05)
    kinds = [type(module) for module in network.modules()]
    assert nn.SiLU not in kinds
    assert kinds.count(nn.LeakyReLU) == 3
