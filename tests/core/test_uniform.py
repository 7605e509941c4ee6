"""The uniform density on a box: energies, moments, draws, refusals."""

import math

import pytest
import torch

from torchebm.core.analytic import UniformModel


def test_energy_and_gradient():
    box = UniformModel(torch.tensor([[0.0, -1.0]]), torch.tensor([[1.0, 3.0]]))
    x = torch.tensor([[[0.0, 3.0]], [[0.5, 3.1]], [[-0.1, 0.0]], [[math.nan, 0.0]], [[math.inf, 0.0]]])
    assert box(x).tolist() == [0.0, math.inf, math.inf, math.inf, math.inf]
    assert (box.gradient(x) == 0).all()
    assert box(x.double()).dtype == torch.float64
    assert box.log_z.item() == pytest.approx(math.log(4))
    assert box.event_shape == (1, 2)


def test_draws_and_moments(generator):
    """Means within 5 standard errors; all inside."""
    box = UniformModel(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 3.0]))
    x = box.sample(20_000, generator=generator)
    assert (box(x) == 0).all()
    assert ((x.mean(0) - box.mean).abs() < 5 * (box.variance / 20_000).sqrt()).all()
    torch.testing.assert_close(x.var(0), box.variance, rtol=0.05, atol=0.0)
    assert torch.equal(box.sample(3, torch.Generator().manual_seed(1)), box.sample(3, torch.Generator().manual_seed(1)))


def test_boxes_that_are_none():
    for low, high in (([0.0, 1.0], [1.0, 1.0]), ([0.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match="low must lie below high"):
            UniformModel(torch.tensor(low), torch.tensor(high))
    with pytest.raises(ValueError, match=r"expected \[batch, 1\]"):
        UniformModel(torch.zeros(1), torch.ones(1))(torch.zeros(3, 2))
