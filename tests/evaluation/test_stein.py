"""The kernel Stein discrepancy: its formula, its calibration, what it sees and what it does not."""

import math

import pytest
import torch

from torchebm.core import BaseModel, EnergyModel, GaussianMixtureModel, GaussianModel, HarmonicModel
from torchebm.evaluation import kernel_stein_discrepancy, kernel_stein_test, kernels

F64 = torch.float64


class Quartic(BaseModel):
    """Not symmetric, for images of any shape; `tilt` is a condition, one a point."""

    def forward(self, x, tilt=0.3):
        return (0.25 * x.pow(4)).flatten(1).sum(1) + tilt * x.flatten(1).sum(1)


def stein_kernel(model, x, y, scale):
    """u(x, y), with every derivative by autograd."""

    def k(x, y):
        return (1 + (x - y).square().sum() / scale**2) ** -0.5

    score = [model.score(t.unsqueeze(0))[0].flatten() for t in (x, y)]
    x, y = x.flatten(), y.flatten()
    along_x, along_y = (torch.func.grad(k, argnums=i)(x, y) for i in (0, 1))
    mixed = torch.func.jacfwd(torch.func.grad(k, argnums=0), argnums=1)(x, y)
    return score[0] @ score[1] * k(x, y) + score[0] @ along_y + score[1] @ along_x + mixed.trace()


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2, 3), (40,)], ids=str)
def test_it_is_its_formula(shape, generator, monkeypatch):
    """A loop over pairs, with the median distance and with a scale that was given; in small blocks too."""
    model, x = Quartic(), 0.7 * torch.randn(9, *shape, generator=generator, dtype=F64)
    median = kernels.median_distance(x.flatten(1))
    for entries in (2**22, 20):
        monkeypatch.setattr(kernels, "ENTRIES", entries)
        for scale, used in ((None, median), (1.7, 1.7)):
            pairs = [stein_kernel(model, x[i], x[j], used) for i in range(9) for j in range(9) if i != j]
            expected = float(sum(pairs)) / 72
            found = kernel_stein_discrepancy(model, x, scale=scale, batch_size=4)
            assert found == pytest.approx(expected, rel=1e-9)
            tested = kernel_stein_test(model, x, 5, scale=scale, generator=generator)
            assert tested.value == pytest.approx(expected, rel=1e-9)


def test_blocks_leave_out_their_own_pairs(generator):
    model, x = Quartic(), 0.7 * torch.randn(12, 2, generator=generator, dtype=F64)
    pairs = [stein_kernel(model, x[i], x[j], 1.0) for i in range(12) for j in range(12) if i // 3 != j // 3]
    found = kernel_stein_test(model, x, 5, block_size=3, scale=1.0, generator=generator)
    assert found.value == pytest.approx(float(sum(pairs)) / len(pairs), rel=1e-9)


def test_signs_are_of_blocks(generator):
    """Two blocks: their pairs count with +1 or -1, each half of the time; of 200, five standard errors."""
    x = torch.randn(8, 2, generator=generator)
    found = kernel_stein_test(Quartic(), x, 200, block_size=4, generator=generator)
    torch.testing.assert_close(found.null.abs(), torch.full((200,), abs(found.value), dtype=F64))
    assert abs(int((found.null > 0).sum()) - 100) < 5 * math.sqrt(50)


def test_conditions_go_with_their_points(generator):
    x, tilt = torch.randn(10, 2, generator=generator, dtype=F64), torch.rand(10, generator=generator, dtype=F64)
    whole = kernel_stein_discrepancy(Quartic(), x, model_kwargs={"tilt": tilt})
    assert kernel_stein_discrepancy(Quartic(), x, model_kwargs={"tilt": tilt}, batch_size=3) == pytest.approx(whole)
    assert whole != kernel_stein_discrepancy(Quartic(), x)


def test_exact_samples_have_none_on_average(generator):
    """600 sets of 15 exact draws of a correlated normal: the mean is zero to five standard errors, and that of draws
    with a half more spread is fifteen of them."""
    model = GaussianModel(torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=F64))

    def found(stretch):
        sets = [stretch * (model.sample(15, generator=generator) - model.mean) + model.mean for _ in range(600)]
        return torch.tensor([kernel_stein_discrepancy(model, x, scale=2.0) for x in sets])

    right, wrong = found(1.0), found(1.5)
    error = float(right.std()) / math.sqrt(600)
    assert abs(float(right.mean())) < 5 * error
    assert float(wrong.mean()) > 8 * error


def test_p_values_are_uniform_for_exact_samples(generator, off_uniform, bound):
    """300 sets of 60 draws; the bootstrap is right for many, so that 0.05 is added to the bound, of failure 1e-6."""
    model = HarmonicModel(dim=2)
    p = torch.tensor([kernel_stein_test(model, model.sample(60, generator=generator), 49, generator=generator).p_value
                      for _ in range(300)])  # fmt: skip
    p = p.double() - torch.rand(300, generator=generator, dtype=F64) / 50
    assert max(off_uniform(p)) < bound(300) + 0.05


@pytest.mark.parametrize("change", [lambda x: x + 0.5, lambda x: 1.5 * x, lambda x: 0.6 * x, lambda x: x.exp() - 1.5])
def test_other_densities_are_found(change, generator):
    x = torch.randn(300, 3, generator=generator)
    assert kernel_stein_test(HarmonicModel(dim=3), change(x), 199, generator=generator).p_value == 1 / 200


def test_the_weights_of_modes_are_not_seen(generator):
    """All samples in one of two distant modes: the test is content, as its documentation says."""
    model = GaussianMixtureModel(means=[[-20.0], [20.0]], scales=1.0)
    one = 20 + torch.randn(200, 1, generator=generator)
    assert kernel_stein_test(model, one, 199, generator=generator).p_value > 0.001


def test_draws_of_chains_want_blocks(chains, generator):
    """As for two sets: without blocks, a share of rejections that is far above 5 %; with them, of 200, five standard
    errors and what the bootstrap of 20 blocks lacks."""
    model, single, blocks = EnergyModel(lambda x: 0.5 * x.square()), [], []
    for _ in range(200):
        x = chains(20, 10).flatten()
        blocks.append(kernel_stein_test(model, x, 49, block_size=10, generator=generator).p_value <= 0.06)
        single.append(kernel_stein_test(model, x, 49, generator=generator).p_value <= 0.06)
    assert sum(single) / 200 > 0.4
    assert sum(blocks) / 200 < 0.06 + 5 * math.sqrt(0.06 * 0.94 / 200) + 0.03


def test_the_model_is_as_it_samples_and_left_as_it_was(generator):
    network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(0.5), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    model, x = EnergyModel(network).train(), torch.randn(20, 2, generator=generator)
    assert kernel_stein_discrepancy(model, x) == kernel_stein_discrepancy(model, x)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "x", "options", "message"),
    [
        (HarmonicModel(dim=2), torch.full((5, 2), math.nan), {}, "x has entries that are not finite"),
        (HarmonicModel(dim=2), torch.zeros(1, 2), {}, "x holds 1 points; at least 2"),
        (EnergyModel(lambda x: x.abs().sqrt().sum(1)), torch.zeros(5, 2), {}, "score of the model at x has entries"),
        (HarmonicModel(dim=2), torch.ones(5, 2), {"block_size": 2}, "block_size=2: leave out the first 1"),
        (HarmonicModel(dim=2), torch.ones(4, 2), {"block_size": 4}, "two or more blocks"),
        (HarmonicModel(dim=2), torch.ones(4, 2), {"scale": 0.0}, "scale must be greater than 0"),
        (HarmonicModel(dim=2), torch.ones(4, 2), {"n_bootstrap": 0}, "n_bootstrap must be at least 1"),
        (HarmonicModel(dim=2), torch.ones(4, 2), {"batch_size": 0}, "batch_size must be at least 1"),
    ],
    ids=["nan", "few", "score", "rest", "one block", "scale", "bootstrap", "batch"],
)
def test_bad_input(model, x, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_stein_test(model, x, **options)
