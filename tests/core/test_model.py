"""BaseModel, EnergyModel and `evaluating`: gradients by autograd that leave no trace, and errors that help."""

import pytest
import torch
from torch import nn

from torchebm.core import BaseModel, EnergyModel
from torchebm.core.model import evaluating

F64 = torch.float64


class Quartic(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0, dtype=F64))

    def forward(self, x, power=4):
        return self.weight * x.pow(power).flatten(1).sum(1)


@pytest.mark.parametrize("event", [(1,), (3,), (1, 2, 2)])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_gradient_by_autograd(event, n):
    model, x = Quartic(), torch.randn((n, *event), generator=torch.Generator().manual_seed(0), dtype=F64)
    energy, gradient = model.energy_and_gradient(x)
    torch.testing.assert_close(energy, 2 * x.pow(4).flatten(1).sum(1))
    torch.testing.assert_close(gradient, 8 * x.pow(3), rtol=1e-10, atol=0)
    torch.testing.assert_close(model.score(x), -gradient)
    torch.testing.assert_close(model.gradient(x, power=2), 4 * x)  # keyword arguments reach forward


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_gradient_leaves_no_trace(mode, requires_grad):
    model, x = Quartic(), torch.ones(3, 2, dtype=F64, requires_grad=requires_grad)
    with mode():
        energy, gradient = model.energy_and_gradient(x)
        assert torch.is_grad_enabled() is (mode is torch.enable_grad)
    assert not any(t.requires_grad for t in (energy, gradient))
    assert x.requires_grad is requires_grad
    assert x.grad is None
    assert model.weight.grad is None
    assert model.weight.requires_grad


def test_inference_tensors_as_points_and_conditions():
    model = EnergyModel(lambda x, shift: (x - shift).square().sum(-1))
    with torch.inference_mode():
        x, shift = torch.ones(3, 2), torch.full((3, 2), 0.5)
        assert torch.equal(model.gradient(x, shift=shift), torch.ones(3, 2))
        assert x.is_inference()
        assert not x.requires_grad


def test_frozen_parameters_do_not_matter():
    model = Quartic().requires_grad_(False)
    assert torch.equal(model.gradient(torch.ones(1, 1, dtype=F64)), torch.full((1, 1), 8.0, dtype=F64))


@pytest.mark.parametrize("keep", [True, False])
def test_energy_model_squeezes_one_output(keep):
    network = nn.Sequential(nn.Linear(3, 1)) if keep else nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    model = EnergyModel(network, event_shape=(3,))
    for n in (0, 1, 5):
        assert model(torch.zeros(n, 3)).shape == (n,)
        assert model.gradient(torch.zeros(n, 3)).shape == (n, 3)
    assert model.event_shape == torch.Size([3])
    assert next(iter(model.parameters())) is network[0].weight
    assert EnergyModel(network).event_shape is None


def test_energy_model_takes_functions_and_conditions():
    model = EnergyModel(lambda x, label: label * x.square().sum(-1))
    label = torch.tensor([1.0, 3.0])
    assert torch.equal(model(torch.ones(2, 2), label=label), 2 * label)
    assert torch.equal(model.gradient(torch.ones(2, 2), label=label), 2 * label[:, None].expand(2, 2))


def test_unsqueezed_energies_are_refused_with_the_fix():
    class Unsqueezed(BaseModel):
        def forward(self, x):
            return x.sum(1, keepdim=True)

    with pytest.raises(ValueError) as error:
        Unsqueezed().energy_and_gradient(torch.zeros(64, 2))
    assert str(error.value) == (
        "the model returned energies of shape [64, 1]; expected [64], one scalar per chain, because x has shape "
        "[64, 2] = [chain, *event]. The last layer was probably not squeezed: return `net(x).squeeze(-1)`."
    )


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (lambda x: x.sum(), ValueError, r"energies of shape \[\]; expected \[4\]"),
        (lambda x: x, ValueError, r"energies of shape \[4, 2\]"),
        (lambda x: x.sum(1).tolist(), TypeError, "returned a list; expected a tensor of energies"),
        (torch.no_grad()(lambda x: x.sum(1)), ValueError, "does not depend on x"),
        (lambda x: x.detach().sum(1), ValueError, "does not depend on x"),
    ],
    ids=["total", "per coordinate", "list", "no_grad", "detached"],
)
def test_wrong_energies_are_refused(function, error, says):
    with pytest.raises(error, match=says):
        EnergyModel(function).energy_and_gradient(torch.zeros(4, 2))


def test_parameters_without_x_give_no_gradient():
    weight = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="does not depend on x"):
        EnergyModel(lambda x: weight.expand(len(x))).gradient(torch.zeros(4, 2))


def test_models_say_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"must define forward\(x\)"):
        BaseModel()(torch.zeros(1, 1))
    with pytest.raises(TypeError, match=r"network must be an nn.Module or a callable; got int"):
        EnergyModel(3)


def network():
    return nn.Sequential(nn.Linear(2, 4), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(4)), nn.Linear(4, 1))


def test_evaluating_restores_everything():
    model = EnergyModel(network())
    model.network[1].eval()
    model.network[0].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        model.gradient(torch.zeros(3, 2))
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    with pytest.raises(RuntimeError, match="inside"), evaluating(model):
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == modes


def test_evaluating_nests_and_copes_with_shared_modules():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, shared)
    with evaluating(model), evaluating(model):
        assert not shared.training
    assert shared.training
    assert shared.weight.requires_grad
