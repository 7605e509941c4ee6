"""Trainable energies: one table, and what must hold for every row of it."""

import math

import pytest
import torch
from torch import nn

from torchebm.core import EnergyModel
from torchebm.models import MLP, ConvEnergy, MLPEnergy, ResNetEnergy

MODELS = {
    "mlp": (lambda **options: MLPEnergy(3, [8, 8], **options), (3,)),
    "mlp, linear": (lambda **options: MLPEnergy(3, [], **options), (3,)),
    "conv": (lambda **options: ConvEnergy(channels=(4, 6, 8), **options), (1, 8, 8)),
    "conv, 28": (lambda **options: ConvEnergy((1, 28, 28), channels=(4, 6), **options), (1, 28, 28)),
    "conv, 32": (lambda **options: ConvEnergy((3, 32, 32), channels=(4,), **options), (3, 32, 32)),
    "conv, oblong": (lambda **options: ConvEnergy((2, 9, 17), channels=(4, 5, 6), **options), (2, 9, 17)),
    "resnet": (lambda **options: ResNetEnergy(channels=4, **options), (1, 8, 8)),
    "resnet, 28": (lambda **options: ResNetEnergy((1, 28, 28), channels=4, n_blocks=3, **options), (1, 28, 28)),
    "resnet, 32": (lambda **options: ResNetEnergy((3, 32, 32), channels=4, n_blocks=2, **options), (3, 32, 32)),
    "resnet, oblong": (lambda **options: ResNetEnergy((2, 11, 8), channels=4, **options), (2, 11, 8)),
}
every_model = pytest.mark.parametrize(("make", "event"), MODELS.values(), ids=MODELS.keys())


def points(n, event):
    return torch.randn((n, *event), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@every_model
@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_shapes_and_dtype(make, event, spectral_norm, n):
    model = make(spectral_norm=spectral_norm)
    assert model.event_shape == event
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model, x = model.to(dtype), points(n, event).to(dtype)
        energy, gradient = model.energy_and_gradient(x)
        assert energy.shape == (n,)
        assert gradient.shape == x.shape
        assert energy.dtype == gradient.dtype == dtype


@every_model
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_energy_is_smooth_and_of_one_image_alone(make, event, spectral_norm):
    model, x = make(spectral_norm=spectral_norm).double().eval(), points(4, event)
    energy, gradient = model.energy_and_gradient(x)
    direction = points(8, event)[4:]
    h = 1e-5
    slope = (model(x + h * direction) - model(x - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), slope, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(model(x[:1]), energy[:1])  # nothing depends on the rest of the batch
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x.flip(0)), energy.flip(0))


@every_model
def test_every_pixel_and_every_parameter_counts(make, event):
    model, x = make().double(), points(4, event)
    assert (model.gradient(x) != 0).all()
    model(x).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in model.parameters())


@every_model
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradient_without_autograd_leaves_no_trace(make, event, mode):
    model, x = make().double(), points(2, event)
    before = x.clone()
    with mode():
        gradient = model.gradient(x, label=torch.zeros(2))
    torch.testing.assert_close(gradient, model.gradient(x))
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@every_model
def test_second_derivatives_reach_the_parameters(make, event):
    model, x = make(spectral_norm=True).double(), points(2, event).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)


@every_model
def test_spectral_norm_is_on_every_layer(make, event):
    with torch.random.fork_rng():  # how fast the iterations converge depends on the weights
        torch.manual_seed(0)
        model = make(spectral_norm=True).double()
    with torch.no_grad():
        for _ in range(1000):
            model(points(1, event))  # power iterations
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        assert abs(float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) - 1) < 1e-3
    assert len(layers) == sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in make().modules())


@every_model
def test_no_layer_looks_at_the_batch(make, event):
    allowed = (nn.Linear, nn.Conv2d, nn.SiLU)
    assert all(isinstance(module, allowed) or list(module.children()) for module in make().modules())
    assert not list(make().buffers())


@every_model
def test_wrong_points_are_refused(make, event):
    model = make()
    for shape in ((2, *event, 1), event, (2, *[size + 1 for size in event])):
        with pytest.raises(ValueError, match=r"x has shape .*; expected \[batch"):
            model(torch.zeros(shape))
    with pytest.raises(TypeError, match=r"floating point; got torch.uint8"):
        model(torch.zeros((2, *event), dtype=torch.uint8))


def test_halving_keeps_the_last_row_of_an_odd_side():
    model = ResNetEnergy((1, 11, 8), channels=2)
    assert model.blocks(model.stem(torch.zeros(1, 1, 11, 8))).shape == (1, 2, 6, 4)


def test_networks_that_are_no_models_become_models():
    network = MLP(input_dim=2, hidden_dims=[32, 32], output_dim=1)
    assert [type(layer) for layer in network] == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]
    assert EnergyModel(network=network)(torch.zeros(4, 2)).shape == (4,)
    assert MLP(2, [5], 3)(torch.zeros(4, 2)).shape == (4, 3)
    assert MLP(2, (), 3)(torch.zeros(4, 2)).shape == (4, 3)


def test_learns_to_tell_data_from_noise():
    torch.manual_seed(0)
    model, data, noise = ConvEnergy(channels=(8, 8)), torch.zeros(64, 1, 8, 8), torch.randn(64, 1, 8, 8)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(30):
        loss = nn.functional.softplus(model(data)).mean() + nn.functional.softplus(-model(noise)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1 * 2 * math.log(2)


@pytest.mark.parametrize(
    ("make", "documented"),
    [
        (lambda: MLPEnergy(2), 17_025),
        (lambda: ConvEnergy(), 312_065),
        (lambda: ConvEnergy((1, 28, 28)), 312_065),
        (lambda: ConvEnergy((3, 32, 32)), 574_913),
        (lambda: ResNetEnergy(), 296_129),
        (lambda: ResNetEnergy((3, 32, 32)), 297_281),
    ],
)
def test_parameter_counts_are_as_documented(make, documented):
    model = make()
    assert sum(parameter.numel() for parameter in model.parameters()) == documented
    assert f"{documented:,}" in type(model).__doc__


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: MLPEnergy(0), ValueError, "input_dim must be at least 1"),
        (lambda: MLP(2, [0], 1), ValueError, "each of hidden_dims must be at least 1"),
        (lambda: MLP(2, [4], 0), ValueError, "output_dim must be at least 1"),
        (lambda: MLP(2.0, [4], 1), TypeError, "input_dim must be a whole number"),
        (lambda: MLP(2, 4, 1), TypeError, "hidden_dims must be a sequence"),
        (lambda: ConvEnergy((8, 8)), ValueError, r"\(channels, height, width\)"),
        (lambda: ConvEnergy(28), ValueError, r"\(channels, height, width\)"),
        (lambda: ConvEnergy((1, 7, 8)), ValueError, "at least 8 high and wide"),
        (lambda: ConvEnergy((1, 8, 8), channels=()), ValueError, "channels must name 1 to 4 stages"),
        (lambda: ConvEnergy((1, 8, 8), channels=(4,) * 5), ValueError, "channels must name 1 to 4 stages"),
        (lambda: ConvEnergy((1, 8, 8), channels=32), TypeError, "channels must be a sequence"),
        (lambda: ResNetEnergy((1, 8, 8), channels=0), ValueError, "channels must be at least 1"),
        (lambda: ResNetEnergy((1, 8, 8), n_blocks=0), ValueError, "n_blocks must be at least 1"),
        (lambda: ResNetEnergy((0, 8, 8)), ValueError, "each of image_shape must be at least 1"),
    ],
)
def test_what_is_wrong_is_said(make, error, says):
    with pytest.raises(error, match=says):
        make()
