"""BaseLoss: what a subclass gets for writing `evaluate`."""

import copy

import pytest
import torch
from torch import nn

from torchebm.core import BaseLoss, EnergyModel, LossOutput
from torchebm.samplers import LangevinDynamics


class Counting(BaseLoss):
    """The mean energy, with a weight of its own and a count of commits."""

    def __init__(self, model, sampler=None, negatives=False):
        super().__init__(model, sampler)
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("n_commits", torch.zeros((), dtype=torch.int64))
        self.negatives = negatives

    def evaluate(self, batch, *, generator=None):
        self.check_batch(batch)
        return LossOutput(self.weight * self.model(batch).mean(), {}, batch.detach() if self.negatives else None)

    def commit(self):
        self.n_commits += 1


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_its_own_parameters_only():
    model = EnergyModel(network())
    loss_fn = Counting(model, LangevinDynamics(model))
    assert set(loss_fn.state_dict()) == {"weight", "n_commits"}
    assert [name for name, _ in loss_fn.named_parameters()] == ["weight"]
    assert [type(m) for m in loss_fn.modules()] == [Counting]
    assert loss_fn.model is model
    assert loss_fn.sampler.model is model


def test_modes_and_moves_leave_the_model_alone():
    model = EnergyModel(network())
    loss_fn = Counting(model)
    loss_fn.eval()
    assert all(m.training for m in model.modules())
    loss_fn.double()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    loss_fn.requires_grad_(False)
    assert all(p.requires_grad for p in model.parameters())
    loss_fn.zero_grad()


@pytest.mark.parametrize("negatives", [False, True])
def test_calls_commit_in_training_and_evaluations_do_not(negatives):
    loss_fn, batch = Counting(EnergyModel(network()), negatives=negatives), torch.ones(4, 2)
    loss_fn.evaluate(batch)
    assert loss_fn.n_commits == 0
    result = loss_fn(batch)
    assert loss_fn.n_commits == 1
    assert isinstance(result, tuple) is negatives
    loss_fn.eval()
    loss_fn(batch)
    assert loss_fn.n_commits == 1


def test_a_failed_evaluation_is_not_committed():
    loss_fn = Counting(EnergyModel(network()))
    with pytest.raises(ValueError, match="at least one point"):
        loss_fn(torch.ones(0, 2))
    assert loss_fn.n_commits == 0


def test_copies_have_models_of_their_own():
    loss_fn = Counting(EnergyModel(network()))
    other = copy.deepcopy(loss_fn)
    assert other.model is not loss_fn.model
    other.load_state_dict(loss_fn.state_dict())


def test_the_generator_is_keyword_only():
    with pytest.raises(TypeError):
        Counting(EnergyModel(network()))(torch.ones(4, 2), torch.Generator())


def test_loss_output_is_a_tuple_of_three():
    loss = torch.zeros(())
    assert LossOutput(loss, {}) == (loss, {}, None)
    assert LossOutput._fields == ("loss", "metrics", "negatives")
