"""Recovery likelihood: levels, pairs and steps against their formulas, and the Gaussian of every level recovered."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from torchebm.core import BaseModel
from torchebm.losses import NoiseLevels, RecoveryLikelihood, recover
from torchebm.losses.recovery_likelihood import undone
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

LEVELS = NoiseLevels.of([0.99, 0.8, 0.5])


class Levelled(BaseModel):
    """Gaussian energies, one a level, scaled as the loss reads them: $E = U / 2h_t$."""

    def __init__(self, scale):
        super().__init__()
        self.mean, self.log_precision = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.scale = scale  # 2 h_t of each level

    def forward(self, x, level):
        energy = 0.5 * self.log_precision.exp()[level] * (x - self.mean[level].unsqueeze(1)).square().sum(1)
        return self.scale[level] * energy


def step_sizes(levels, h):
    """By the formula of the documentation, written again."""
    s = [float(v) for v in levels.signal]
    total = [math.sqrt(1 - np.prod(s[: t + 1]) ** 2) for t in range(len(s))]
    return [h * (1 - s[t + 1] ** 2) * total[t] / total[0] for t in range(len(s) - 1)]


def test_linear_levels_are_those_of_the_source():
    n = 6
    sqrt_alphas = np.sqrt(1.0 - np.linspace(1e-4, 0.02, 1000))
    index = np.concatenate([np.arange(n) * (1000 // ((n - 1) * 2)), [999]])
    factors = [np.prod(sqrt_alphas[: index[0] + 1])]
    factors += [np.prod(sqrt_alphas[index[i - 1] + 1 : index[i] + 1]) for i in range(1, len(index))]
    levels = NoiseLevels.linear(n)
    assert levels.n_levels == n
    np.testing.assert_allclose(levels.signal.numpy(), factors, rtol=1e-6)
    np.testing.assert_allclose(levels.noise.numpy(), np.sqrt(1 - np.array(factors) ** 2), rtol=1e-3)
    np.testing.assert_allclose(levels.total_signal.numpy(), np.cumprod(factors), rtol=1e-5)


def test_pairs_have_the_moments_of_their_levels(generator):
    """40,000 pairs of the point 1.5 at each level: means and variances within 5 standard errors."""
    model = Levelled(torch.ones(2))
    loss_fn = RecoveryLikelihood(model, LangevinDynamics(model), LEVELS)
    n, x = 40_000, 1.5
    for t, (scale, mean, variance, noisier, spread) in enumerate([
        (0.8, 0.8 * 0.99 * x, 0.64 * (1 - 0.99**2), 0.792 * x, 1 - 0.792**2),
        (1.0, 0.792 * x, 1 - 0.792**2, 0.0, 1.0),
    ]):  # fmt: skip
        level = torch.full((n,), t)
        y, noisy = loss_fn.pairs(torch.full((n, 1), x), level, generator)
        for value, m, v in ((y, mean, variance), (noisy, noisier, spread)):
            assert abs(value.mean().item() - m) < 5 * math.sqrt(v / n), t
            assert abs(value.var().item() / v - 1) < 5 * math.sqrt(2 / n), t
        between = float(torch.cov(torch.cat([y, noisy], 1).T)[0, 1])
        expected = scale * (1 - 0.99**2) * 0.8 if t == 0 else 0.0
        assert abs(between - expected) < 5 * math.sqrt(variance * spread * 2 / n), t


def test_one_step_is_the_formula():
    h, seed = 0.05, 3
    scale = torch.tensor(step_sizes(LEVELS, h)) * 2
    model = Levelled(scale).double()
    with torch.no_grad():
        model.mean.copy_(torch.tensor([0.5, -0.3]))
        model.log_precision.copy_(torch.tensor([0.4, 0.1]))
    noisy, level = torch.tensor([[0.3], [1.2]], dtype=torch.float64), torch.tensor([0, 1])
    sampler = LangevinDynamics(model, h, noise_scale=0.7)
    y = undone(model, sampler, LEVELS, noisy, level, 1, True, torch.Generator().manual_seed(seed))
    xi = torch.randn(2, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for i, (step, mean, precision) in enumerate(zip(step_sizes(LEVELS, h), (0.5, -0.3), (0.4, 0.1), strict=True)):
        x = noisy[i].item()
        gradient = math.exp(precision) * (x - mean)  # the second term is 0 where the chain starts
        assert y[i].item() == pytest.approx(x - step * gradient + 0.7 * math.sqrt(2 * step) * xi[i].item(), rel=1e-5)
    two = undone(model, sampler, LEVELS, noisy, level, 2, True, torch.Generator().manual_seed(seed))
    again = torch.randn(2, 2, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)[1]
    step, x, start = step_sizes(LEVELS, h)[0], y[0].item(), noisy[0].item()
    gradient = math.exp(0.4) * (x - 0.5) + (x - start) / (1 - 0.8**2)
    assert two[0].item() == pytest.approx(x - step * gradient + 0.7 * math.sqrt(2 * step) * again[0].item(), rel=1e-5)
    step, x = step_sizes(LEVELS, h)[1], y[1].item()  # at the last level nothing holds the chain
    expected = x - step * math.exp(0.1) * (x + 0.3) + 0.7 * math.sqrt(2 * step) * again[1].item()
    assert two[1].item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_weighs_levels_by_their_noise():
    """With negatives that the loss itself made, it is the weighted difference of energies, pair by pair."""
    model = Levelled(torch.tensor([0.7, 1.3]))
    loss_fn = RecoveryLikelihood(model, LangevinDynamics(model, 0.02), LEVELS, k_steps=2)
    batch = torch.tensor([[0.5], [1.0], [-0.5], [2.0]])
    output = loss_fn.evaluate(batch, generator=torch.Generator().manual_seed(2))
    again = torch.Generator().manual_seed(2)
    level = torch.randint(2, (4,), generator=again)
    assert set(level.tolist()) == {0, 1}
    y, _ = loss_fn.pairs(batch, level, again)
    sigma = [math.sqrt(1 - 0.8**2), math.sqrt(1 - 0.5**2)]
    weights = torch.tensor([sigma[0] / sigma[t] for t in level.tolist()])
    difference = weights * (model(y, level=level) - model(output.negatives, level=level))
    assert output.loss.item() == pytest.approx(difference.detach().mean().item(), rel=1e-5)
    assert output.metrics["energy_gap"].item() == pytest.approx(-output.loss.item(), rel=1e-6)


def test_the_gaussian_of_every_level_is_recovered(generator):
    """Data N(1, 0.3^2): at level t the scaled points are Gaussian with known moments, which the model must find.

    Tolerances are 5 standard errors of 4,000 points, and a tenth for the finite steps.
    """
    h = 0.02
    scale = 2 * torch.tensor(step_sizes(LEVELS, h))
    model = Levelled(scale)
    loss_fn = RecoveryLikelihood(model, LangevinDynamics(model, h), LEVELS, k_steps=40)
    x = 1 + 0.3 * torch.randn(4000, 1, generator=generator)
    optimizer, last = torch.optim.Adam(model.parameters(), 0.05), []
    for step in range(250):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 250)
        batch = x[torch.randint(len(x), (300,), generator=generator)]
        optimizer.zero_grad()
        loss_fn(batch, generator=generator)[0].backward()
        optimizer.step()
        if step >= 150:
            last.append(torch.stack([model.mean.detach(), model.log_precision.detach()]))
    mean, log_precision = torch.stack(last).mean(0)
    for t, (scale, signal) in enumerate([(0.8, 0.99), (1.0, 0.792)]):
        variance = scale**2 * (signal**2 * 0.3**2 + 1 - signal**2)
        assert abs(mean[t].item() - scale * signal) < 5 * math.sqrt(variance / 4000) + 0.03, t
        assert abs(log_precision[t].item() + math.log(variance)) < 5 * math.sqrt(2 / 4000) + 0.1, t


def test_samples_come_down_through_all_levels(generator):
    """With the exact energies of N(1, 0.3^2) in the model, 4,000 samples have its moments, up to the finite steps."""
    h = 0.02
    model = Levelled(2 * torch.tensor(step_sizes(LEVELS, h)))
    with torch.no_grad():
        for t, (scale, signal) in enumerate([(0.8, 0.99), (1.0, 0.792)]):
            model.mean[t] = scale * signal
            model.log_precision[t] = -math.log(scale**2 * (signal**2 * 0.3**2 + 1 - signal**2))
    x = recover(model, LangevinDynamics(model, h), LEVELS, torch.randn(4000, 1, generator=generator), 150,
                generator=generator)  # fmt: skip
    variance = 0.99**2 * 0.3**2 + 1 - 0.99**2  # of the level with hardly any noise
    assert abs(x.mean().item() - 0.99) < 5 * math.sqrt(variance / 4000) + 0.02
    assert abs(x.var().item() / variance - 1) < 5 * math.sqrt(2 / 4000) + 0.1


def test_what_is_wrong_is_said():
    model = Levelled(torch.ones(2))
    with pytest.raises(TypeError, match="got HamiltonianMonteCarlo"):
        RecoveryLikelihood(model, HamiltonianMonteCarlo(model), LEVELS)
    with pytest.raises(TypeError, match=r"NoiseLevels.linear\(6\); got list"):
        RecoveryLikelihood(model, LangevinDynamics(model), [0.9, 0.8])
    with pytest.raises(ValueError, match="at least two factors"):
        NoiseLevels.of([0.9])
    with pytest.raises(ValueError, match="each factor must be at most 1"):
        NoiseLevels.of([0.9, 1.2])
