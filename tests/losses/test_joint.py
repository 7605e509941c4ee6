"""Joint contrastive divergence: its formula, and classes of known means and shares recovered."""

import pytest
import torch
from torch import nn

from torchebm.core import BaseSampler, EnergyModel, HarmonicModel, StandardizedModel
from torchebm.losses import JointContrastiveDivergence, class_logits
from torchebm.models import JointEnergyModel
from torchebm.samplers import LangevinDynamics


class Classes(nn.Module):
    """Logits of Gaussian classes of variance 1 in one dimension: means and log-shares are the parameters."""

    def __init__(self, means, log_shares):
        super().__init__()
        self.means, self.log_shares = nn.Parameter(torch.tensor(means)), nn.Parameter(torch.tensor(log_shares))

    def forward(self, x):
        return self.log_shares - 0.5 * (x - self.means).square()  # [batch, 1] against [class]


class Exact(BaseSampler):
    """Independent draws from the mixture that the logits are, as they stand."""

    def sample(self, x=None, *, generator=None, **options):
        classes = self.model.network
        shares = classes.log_shares.detach().softmax(0)
        which = torch.multinomial(shares, len(x), replacement=True, generator=generator)
        return (classes.means.detach()[which] + torch.randn(len(x), generator=generator)).unsqueeze(1)


def test_the_loss_is_the_sum_of_its_parts(still, points):
    model = JointEnergyModel(nn.Linear(3, 4).double(), 4)
    x, label = points(6, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2, 0])
    loss_fn = JointContrastiveDivergence(
        model, still(model, lambda x: x + 0.5), classification_weight=0.7, energy_reg_weight=0.01
    )
    output = loss_fn.evaluate((x, label))
    weight, bias = model.network.weight.detach(), model.network.bias.detach()
    f, g = x @ weight.T + bias, (x + 0.5) @ weight.T + bias
    energy, negative = -f.exp().sum(1).log(), -g.exp().sum(1).log()
    cross_entropy = -sum(float(f[i, y] + energy[i]) for i, y in enumerate(label.tolist())) / 6
    expected = energy.mean() - negative.mean() + 0.005 * (energy.square().mean() + negative.square().mean())
    assert output.loss.item() == pytest.approx(expected.item() + 0.7 * cross_entropy, rel=1e-10)
    assert output.metrics["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-10)
    assert output.metrics["accuracy"].item() == (f.argmax(1) == label).double().mean().item()
    alone = loss_fn.evaluate(x)
    assert alone.loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert "accuracy" not in alone.metrics


def test_classes_are_recovered(seeded):
    """Means and shares within 5 standard errors of 4,000 points; the estimate at the optimum is their likelihood's."""
    generator = seeded(3)
    true_means, shares, n = torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([0.2, 0.5, 0.3]), 4000
    label = torch.multinomial(shares, n, replacement=True, generator=generator)
    x = (true_means[label] + torch.randn(n, generator=generator)).unsqueeze(1)
    model = JointEnergyModel(Classes([-1.0, 0.5, 1.0], [0.0, 0.0, 0.0]), 3)
    loss_fn = JointContrastiveDivergence(model, Exact(model), energy_reg_weight=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    last = []
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.06 * (1 - step / 300)
        optimizer.zero_grad()
        loss_fn.evaluate((x, label), generator=generator).loss.backward()
        optimizer.step()
        if step >= 200:
            last.append(torch.cat([model.network.means.detach(), model.network.log_shares.detach().softmax(0)]))
    estimate = torch.stack(last).mean(0)
    counts = torch.bincount(label)
    empirical = torch.stack([x[label == k].mean() for k in range(3)])
    assert ((estimate[:3] - empirical).abs() < 0.05).all(), "of the class means of these very points"
    assert ((estimate[:3] - true_means).abs() < 5 / counts.sqrt() + 0.03).all()
    assert ((estimate[3:] - shares).abs() < 5 * (shares * (1 - shares) / n).sqrt() + 0.01).all()


def test_noise_reaches_the_classification_too(still, points):
    model = JointEnergyModel(nn.Linear(3, 2), 2)
    x, label = points(4), torch.tensor([0, 1, 1, 0])
    clean = JointContrastiveDivergence(model, still(model)).evaluate((x, label))
    noisy = JointContrastiveDivergence(model, still(model), data_noise=1.0)
    a, b = (noisy.evaluate((x, label), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    figures = [out.metrics["cross_entropy"] for out in (clean, a, b)]
    assert len({float(figure) for figure in figures}) == 3


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (torch.zeros(3), "whole numbers"),
        (torch.zeros(2, dtype=torch.long), r"\[3\], one a point"),
        (torch.zeros(3, 1, dtype=torch.long), r"\[3\], one a point"),
        ([0, 1, 0], "got list"),
    ],
    ids=["floats", "too few", "a column", "list"],
)
def test_labels_that_are_none_are_refused(still, points, label, says):
    model = JointEnergyModel(nn.Linear(3, 2), 2)
    with pytest.raises(ValueError, match=says):
        JointContrastiveDivergence(model, still(model)).evaluate((points(3), label))


def test_a_model_without_classes_is_refused_once_labels_come(bowl, still, points):
    model = bowl()
    with pytest.raises(TypeError, match="knows no classes"):
        JointContrastiveDivergence(model, still(model)).evaluate((points(3), torch.zeros(3, dtype=torch.long)))


def test_logits_are_the_same_in_any_units(points):
    inner = JointEnergyModel(nn.Linear(3, 2), 2, HarmonicModel())
    model = StandardizedModel(inner, torch.tensor([1.0, 2.0, 3.0]), torch.diag(torch.tensor([2.0, 1.0, 0.5])))
    x = points(5)
    z = (x - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([2.0, 1.0, 0.5])
    torch.testing.assert_close(class_logits(model, x), inner.logits(z))
    loss_fn = JointContrastiveDivergence(model, LangevinDynamics(model, step_size=0.01), k_steps=2)
    loss_fn.evaluate((x, torch.zeros(5, dtype=torch.long))).loss.backward()
    with pytest.raises(TypeError, match="knows no classes"):
        class_logits(EnergyModel(lambda x: x.sum(1)), x)
