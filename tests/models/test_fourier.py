"""The network of waves: what it computes, and what it is built of."""

import math

import pytest
import torch

from torchebm.models import FourierEnergy

F64 = torch.float64


@pytest.fixture
def points(generator):
    return torch.randn(7, 3, dtype=F64, generator=generator)


def test_it_is_the_network_of_the_point_its_sines_and_its_cosines(points):
    model = FourierEnergy(3, [5], n_frequencies=4).double()
    first, last = model.network[0], model.network[2]
    waves = [[math.sin(float(x @ w)) for w in model.directions.T] for x in points]
    waves = [row + [math.cos(float(x @ w)) for w in model.directions.T] for row, x in zip(waves, points, strict=True)]
    seen = torch.cat([points, torch.tensor(waves, dtype=F64)], 1)  # [7, 3 + 2 * 4]
    hidden = seen @ first.weight.T + first.bias
    expected = (hidden * torch.sigmoid(hidden)) @ last.weight[0] + last.bias
    torch.testing.assert_close(model(points), expected, rtol=1e-10, atol=1e-12)


def test_its_gradient_is_the_slope(points):
    model = FourierEnergy(3, [8, 8], n_frequencies=16, frequencies=(0.5, 5.0)).double()
    assert torch.autograd.gradcheck(model, points.requires_grad_())
    gradient = model.gradient(points)
    ahead = torch.tensor([1e-6, 0.0, 0.0], dtype=F64)
    slope = (model(points + ahead) - model(points - ahead)) / 2e-6
    torch.testing.assert_close(gradient[:, 0], slope, rtol=1e-6, atol=1e-8)


def test_frequencies_fill_their_range_evenly_on_a_logarithmic_scale():
    """Means of 20,000 numbers, within 5 standard errors: fails once in a million."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        w = FourierEnergy(2, [1], n_frequencies=20_000, frequencies=(0.1, 10.0)).directions.double()
    lengths = w.norm(dim=0).log10()
    assert lengths.min() > -1.00001
    assert lengths.max() < 1.00001
    assert abs(lengths.mean()) < 5 * (4 / 12 / 20_000) ** 0.5
    assert abs(lengths.square().mean() - 1 / 3) < 5 * (4 / 45 / 20_000) ** 0.5
    directions = w / w.norm(dim=0)
    assert (directions.mean(1).abs() < 5 * (0.5 / 20_000) ** 0.5).all()


def test_frequencies_are_saved_and_not_trained(points):
    model, other = (FourierEnergy(3, [4], n_frequencies=8).double() for _ in range(2))
    assert not torch.equal(model(points), other(points))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(points), other(points))
    assert all(parameter is not model.directions for parameter in model.parameters())
    assert FourierEnergy(3, [4], 8, frequencies=(2.0, 2.0)).directions.norm(dim=0).allclose(torch.tensor(2.0))


def test_weights_follow_the_global_stream():
    models = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            models.append(FourierEnergy(2, [4]))
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_shapes_and_dtype(dtype, n):
    model, x = FourierEnergy(2).to(dtype), torch.zeros(n, 2, dtype=dtype)
    energy, gradient = model.energy_and_gradient(x)
    assert (energy.shape, gradient.shape, model.event_shape) == ((n,), (n, 2), (2,))
    assert energy.dtype == gradient.dtype == dtype


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"input_dim": 0}, ValueError, "input_dim must be at least 1"),
        ({"n_frequencies": 0}, ValueError, "n_frequencies must be at least 1"),
        ({"hidden_dims": 64}, TypeError, "hidden_dims must be a sequence"),
        ({"frequencies": 3.0}, TypeError, r"frequencies must be \(lowest, highest\)"),
        ({"frequencies": (1.0, 2.0, 3.0)}, TypeError, r"frequencies must be \(lowest, highest\)"),
        ({"frequencies": (0.0, 1.0)}, ValueError, "each of frequencies must be greater than 0"),
        ({"frequencies": (2.0, 1.0)}, ValueError, r"frequencies must be \(lowest, highest\); got \(2.0, 1.0\)"),
    ],
)
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        FourierEnergy(**{"input_dim": 2} | options)


def test_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \[4, 3\]; expected \[batch, 2\]"):
        FourierEnergy(2)(torch.zeros(4, 3))
