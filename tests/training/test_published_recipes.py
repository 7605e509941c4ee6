"""Published recipes: the figures of their sources, written again."""

import dataclasses
import math

import pytest
import torch

from torchebm.datasets import Data, load
from torchebm.training import recipe


@pytest.mark.parametrize(
    ("name", "k_steps", "eta", "sigma", "buffer", "fresh", "alpha", "noise", "rate", "betas", "batch"),
    [
        ("mnist", 60, 10, 0.005, 8192, 0.05, 0.1, 0.005, 1e-4, (0.0, 0.999), 128),
        ("igebm", 60, 10, 0.005, 10_000, 0.05, 1.0, 0.0, 3e-4, (0.0, 0.999), 128),
        ("jem", 20, 1, 0.01, 10_000, 0.05, 0.0, 0.03, 1e-4, (0.9, 0.999), 64),
        ("improved-cd", 40, 100, 0.001, 10_000, 0.001, 1.0, 0.0, 2e-4, (0.0, 0.9), 128),
        ("short-run", 100, 1, 0.01, 100, 1.0, 0.0, 0.0, 1e-4, (0.9, 0.999), 100),
    ],
)
def test_published_recipes_are_what_was_published(
    name, k_steps, eta, sigma, buffer, fresh, alpha, noise, rate, betas, batch
):
    r = recipe(name)
    assert (r.loss.k_steps, r.loss.buffer_size, r.loss.new_sample_ratio) == (k_steps, buffer, fresh)
    assert (r.sampler.step_size, r.sampler.noise) == (eta, sigma)
    assert r.temperature == pytest.approx(sigma**2 / (2 * eta))
    assert r.loss.energy_reg_weight == pytest.approx(2 * alpha)  # theirs has no half
    assert r.loss.data_noise == noise
    assert (r.training.learning_rate, r.training.betas, r.training.batch_size) == (rate, betas, batch)
    assert r.training.optimiser == "adam"
    assert r.purpose == "short-run generator"


def test_stabilisers_of_published_recipes():
    mnist, igebm, improved, jem = (recipe(name) for name in ("mnist", "igebm", "improved-cd", "jem"))
    assert (mnist.sampler.gradient_clip, igebm.sampler.gradient_clip, jem.sampler.gradient_clip) == (0.03, 0.01, None)
    assert (mnist.sampler.clamp, igebm.sampler.clamp, improved.sampler.clamp, jem.sampler.clamp) == (True,) * 3 + (
        False,
    )
    assert (mnist.training.grad_clip_norm, improved.training.grad_clip_norm) == (0.1, 0.5)
    assert (improved.training.ema_decay, improved.loss.kl_weight, improved.loss.entropy_weight) == (0.99, 1.0, 0.3)
    assert igebm.model.spectral_norm
    assert (jem.training.warmup_steps, jem.loss.classification_weight) == (1000, 1.0)


def test_the_sampler_has_the_temperature_of_its_source():
    x = torch.zeros(4, 1, 8, 8)
    r = recipe("mnist").fitted(Data(x, "image", "black", bounds=(0.0, 255.0)))
    model = r.build_model(x)
    sampler = r.build_sampler(model)
    assert sampler.step_size == 10
    assert sampler.noise_scale == pytest.approx(0.005 / math.sqrt(20))
    assert sampler.noise_scale * math.sqrt(2 * sampler.step_size) == pytest.approx(0.005)
    assert sampler.clamp == (-1.0, 1.0)
    trainer = r.build_trainer(model, x, out_dir=None, seed=0)
    factors = [trainer.learning_rate_schedule.value(step) for step in (0, 467, 468, 936)]
    assert factors == pytest.approx([1, 1, 0.97, 0.97**2])
    assert not any(word in guard.name for word in ("gap", "fluctuation") for guard in trainer.guards)
    assert "gap" in {guard.name for guard in recipe("digits").guards()}


def test_convergent_is_at_temperature_one_in_the_units_of_its_source():
    data = load("two_moons", torch.Generator().manual_seed(0))
    r = recipe("convergent").fitted(data)
    epsilon = 0.125
    assert r.sampler.step_size == epsilon**2 / 2
    assert r.sampler.noise == epsilon
    model = r.build_model(data.x)
    trainer = r.build_trainer(model, data.x, out_dir=None, seed=0)
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * epsilon**2 / 2)
    assert trainer.loss_fn.energy_reg_weight == 0
    inner = model.coordinates()[0]
    assert inner.weights == (pytest.approx(2 / epsilon**2),)
    z = torch.zeros(1, 2)
    assert r.build_sampler(inner).noise_scale == pytest.approx(1.0)
    assert torch.allclose(inner(z), inner.models[0](z) * 2 / epsilon**2)
    with pytest.raises(ValueError, match=r"noise must be sqrt\(2 step_size\) = 0.125"):
        dataclasses.replace(r, sampler=dataclasses.replace(r.sampler, noise=0.1)).fitted(data)


def test_diffusion_recovery_is_what_was_published():
    r = recipe("diffusion-recovery")
    assert (r.model.n_levels, r.loss.k_steps, r.sampler.step_size) == (6, 30, 1e-4)  # b^2 = 2e-4
    assert (r.training.learning_rate, r.training.warmup_steps, r.training.batch_size) == (1e-4, 1000, 256)
    assert r.training.ema_decay == 0.999
    assert r.model.spectral_norm
