"""Figures of an evaluation for models whose figures are known."""

import math
from types import SimpleNamespace

import pytest
import torch

from torchebm.cli import judging
from torchebm.core import EnergyModel
from torchebm.datasets import Data, density
from torchebm.training.recipes import Tabular


def run_of(model, source="eight_gaussians", purpose="density", **more):
    """What the figures ask of a run."""
    recipe = SimpleNamespace(purpose=purpose, noisy=Tabular().noisy)
    return SimpleNamespace(model=model, device=torch.device("cpu"), dtype=torch.float32, recipe=recipe,
                           config={"seed": 0, "data": {"source": source}}, **more)  # fmt: skip


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_truth_is_at_no_distance_from_itself(shift):
    """Up to the grid's tolerance and 5 standard errors; a constant in the energy changes nothing."""
    truth = density("eight_gaussians")
    found = judging.divergence(run_of(EnergyModel(lambda x: shift - truth.log_prob(x))), None, ())
    assert abs(found["kl"]) < 5 * found["standard_error"] + 2e-3
    assert found["log_z"] == pytest.approx(-shift, abs=2e-3)
    assert found["entropy"] == truth.entropy


def test_a_temperature_is_at_the_distance_that_it_is():
    """KL of p from p^(1/2) / Z: -H/2 + log Z, with log Z by another grid."""
    truth = density("eight_gaussians")
    found = judging.divergence(run_of(EnergyModel(lambda x: -0.5 * truth.log_prob(x))), None, ())
    low, high = truth.bounds.double()
    wide = high - low
    axes = [
        torch.linspace(float(a - w), float(b + w), 1501, dtype=torch.float64)
        for a, b, w in zip(low, high, wide, strict=True)
    ]
    points = torch.cartesian_prod(*axes)
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    log_z = torch.logsumexp(0.5 * truth.log_prob(points), 0).item() + math.log(cell)
    assert found["log_z"] == pytest.approx(log_z, abs=2e-3)
    assert found["kl"] == pytest.approx(-0.5 * truth.entropy + log_z, abs=5 * found["standard_error"] + 4e-3)


def test_the_gaussian_beside_the_likelihood():
    """A Gaussian fitted to 20,000 points of one has that one's likelihood: -d/2 (1 + log 2 pi) - log |det| / 2."""
    g = torch.Generator().manual_seed(0)
    root = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    train, x = (torch.randn(20_000, 2, generator=g) @ root.T + 3 for _ in range(2))
    expected = -1 - math.log(2 * math.pi) - math.log(2.0 * 0.5)
    assert judging.gaussian_log_likelihood(train, x) == pytest.approx(expected, abs=5 / math.sqrt(20_000) + 1e-3)
    assert judging.gaussian_log_likelihood(train.view(-1, 1, 1, 2), x.view(-1, 1, 1, 2)) == pytest.approx(
        expected, abs=5 / math.sqrt(20_000) + 1e-3
    )


def test_dequantised_values_stay_in_their_bins(generator):
    x = torch.randint(17, (500, 1, 2, 2), generator=generator).float()
    y = judging.dequantise(run_of(None), x, 1.0, generator)
    assert torch.equal((y - 1e-4 * (y - x).sign()).round(), x)
    assert (y - x).min() < -0.49
    assert (y - x).max() > 0.49


def test_only_whole_grey_values_have_bins():
    whole = torch.randint(5, (4, 1, 2, 2), generator=torch.Generator().manual_seed(0)).float()
    assert judging.bin_width(Data(whole, "image", "whole")) == 1.0
    assert judging.bin_width(Data(whole / 4, "image", "scaled")) is None
    assert judging.bin_width(Data(whole.flatten(1), "table", "counts")) is None


def test_noise_is_that_of_training(generator):
    """Each component has its own standard deviation, within 5 standard errors."""
    noise = torch.tensor([0.5, 2.0])
    x = judging.with_noise(run_of(None, data_noise=noise), torch.ones(10_000, 2), generator)
    assert ((x.std(0) / noise - 1).abs() < 5 / math.sqrt(20_000)).all()
    assert ((x.mean(0) - 1).abs() < 5 * noise / 100).all()


def test_what_cannot_be_computed_has_its_reason_and_the_rest_its_figures(monkeypatch):
    def missing(*_):
        raise ImportError("needs scikit-learn")

    monkeypatch.setattr(judging, "tests", lambda *_: {"mmd": 0.0})
    monkeypatch.setattr(judging, "likelihood", missing)
    run = run_of(None)
    run.recipe.one_chain = False
    run.recipe.name = "diffusion-recovery"
    run.config["data"]["kind"] = "table"
    monkeypatch.setattr(judging, "knows_classes", lambda run: False)
    monkeypatch.setattr(judging, "divergence", lambda *_: {"kl": 0.0})
    found = judging.thorough(run, torch.zeros(3, 2), (1,))
    assert found["two_sample_tests"] == {"mmd": 0.0}
    assert found["log_likelihood"] == {"refused": "needs scikit-learn"}
    assert "levels of noise: no chain could go on" in found["long_run"]["refused"]
