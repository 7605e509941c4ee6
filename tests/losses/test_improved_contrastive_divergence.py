"""Improved contrastive divergence: the terms through the last step against their formulas, and a variance recovered."""

import math

import pytest
import torch
from torch import nn

from torchebm.core import BaseModel
from torchebm.losses import ContrastiveDivergence, ImprovedContrastiveDivergence
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics


class Parabola(BaseModel):
    """$a x^2 / 2$ of every component."""

    def __init__(self, a=1.0):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x):
        return 0.5 * self.a * x.square().flatten(1).sum(1)


def gradient_of(loss_fn, batch, seed=0):
    loss_fn.model.zero_grad()
    output = loss_fn.evaluate(batch, generator=torch.Generator().manual_seed(seed))
    output.loss.backward()
    return output, loss_fn.model.a.grad.item()


def make(model, k_steps=1, h=0.1, **options):
    return ImprovedContrastiveDivergence(model, LangevinDynamics(model, h), k_steps, energy_reg_weight=0.0, **options)


def test_both_terms_and_their_gradients_are_the_formulas(points):
    a, h, n = 1.7, 0.1, 5
    batch = points(n, (2,), dtype=torch.float64)
    plain, slope = gradient_of(make(Parabola(a), kl_weight=0.0, entropy_weight=0.0), batch)
    xi = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = batch - h * a * batch + math.sqrt(2 * h) * xi  # the last step
    torch.testing.assert_close(plain.negatives, x, rtol=1e-10, atol=1e-12)
    moved = -h * batch  # dx/da

    kl, with_kl = gradient_of(make(Parabola(a), kl_weight=0.8, entropy_weight=0.0), batch)
    assert torch.equal(kl.negatives, plain.negatives)
    value = 0.5 * a * x.square().sum(1).mean()
    assert kl.metrics["kl"].item() == pytest.approx(value.item(), rel=1e-10)
    assert kl.loss.item() - plain.loss.item() == pytest.approx(0.8 * value.item(), rel=1e-9)
    assert with_kl - slope == pytest.approx(0.8 * (a * x * moved).sum(1).mean().item(), rel=1e-9)

    entropy, with_entropy = gradient_of(make(Parabola(a), kl_weight=0.0, entropy_weight=0.3), batch)
    logs, slopes = [], []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        j = min(others, key=lambda j: float((x[i] - x[j]).norm()))
        way = x[i] - x[j]
        logs.append(float(way.norm().log()))
        slopes.append(float((way * moved[i]).sum() / way.square().sum()))  # the other one is held
    assert entropy.metrics["log_neighbour_distance"].item() == pytest.approx(sum(logs) / n, rel=1e-10)
    assert with_entropy - slope == pytest.approx(-0.3 * sum(slopes) / n, rel=1e-9)


@pytest.mark.parametrize("k_steps", [1, 4])
def test_without_its_terms_it_is_contrastive_divergence(points, k_steps):
    batch, options = points(6, (2,), dtype=torch.float64), {"persistent": True, "buffer_size": 9}
    losses = []
    for kind, extra in ((ContrastiveDivergence, {}), (ImprovedContrastiveDivergence, dict.fromkeys(
        ("kl_weight", "entropy_weight"), 0.0))):  # fmt: skip
        model, generator = Parabola(1.3), torch.Generator().manual_seed(1)
        loss_fn = kind(model, LangevinDynamics(model, 0.1), k_steps, **options, **extra)
        losses.append([loss_fn(batch, generator=generator) for _ in range(3)])
    for (a, x), (b, y) in zip(*losses, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_schedules_count_every_step(points):
    """Of one that runs on, each update sees the steps after those of the update before."""
    model, seen = Parabola(1.0), []

    def schedule(step):
        seen.append(step)
        return 0.1

    sampler = LangevinDynamics(model, schedule)
    loss_fn = ImprovedContrastiveDivergence(model, sampler, k_steps=3, reset_schedulers=False)
    for update in range(3):
        seen.clear()
        loss_fn(points(4, (2,), dtype=torch.float64))
        assert set(range(3 * update, 3 * update + 3)) <= set(seen)
        assert sampler.schedulers["step_size"].step_count == 3 * update + 3


def test_neighbours_come_from_the_buffer_once_it_is_filled(points):
    model = Parabola(1.3)
    loss_fn = make(model, persistent=True, buffer_size=3, kl_weight=0.0, n_neighbours=50)
    batch = points(3, (2,), dtype=torch.float64)
    loss_fn(batch, generator=torch.Generator().manual_seed(0))
    chains = loss_fn.replay_buffer.chains.clone()
    output = loss_fn.evaluate(batch, generator=torch.Generator().manual_seed(1))
    distance = torch.cdist(output.negatives, chains).amin(1)  # 50 draws of 3 hold all three, but once in 10^8
    assert output.metrics["log_neighbour_distance"].item() == pytest.approx(distance.log().mean().item(), rel=1e-6)


def test_a_precision_is_recovered():
    """With the dimension d = 4 as weight of the entropy the two terms cancel at the model: the precision is found.

    Its standard error from 4,000 points is a sqrt(2 / 4000 d), 0.022. Steps of 0.05 and neighbours at a distance bias
    it by some per cent. In fewer dimensions the inverse distance to a neighbour, of which the gradient is made, has no
    variance.
    """
    generator, d = torch.Generator().manual_seed(5), 4
    x = torch.randn(4000, d, generator=generator, dtype=torch.float64) / math.sqrt(2.0)
    model = Parabola(0.7)
    loss_fn = make(model, k_steps=5, h=0.05, entropy_weight=d, persistent=True, buffer_size=400, n_neighbours=400)
    optimizer, last = torch.optim.SGD(model.parameters(), 0.1), []
    for step in range(400):
        batch = x[torch.randint(len(x), (200,), generator=generator)]
        loss, _ = loss_fn(batch, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 200:
            last.append(model.a.item())
    assert sum(last) / len(last) == pytest.approx(2.0, abs=5 * 0.022 + 0.15)


def test_other_samplers_and_lonely_points_are_refused(points):
    model = Parabola()
    with pytest.raises(TypeError, match="got the sampler HamiltonianMonteCarlo"):
        ImprovedContrastiveDivergence(model, HamiltonianMonteCarlo(model))
    with pytest.raises(ValueError, match="kl_weight must be at least 0"):
        ImprovedContrastiveDivergence(model, LangevinDynamics(model), kl_weight=-1.0)
    with pytest.raises(ValueError, match="one negative has no neighbour"):
        make(model).evaluate(points(1, (2,), dtype=torch.float64))
