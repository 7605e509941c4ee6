"""What is measured while a model trains: formulas, streams of their own, and lines that any JSON reader takes."""

import json
import math

import pytest
import torch
from torch import nn

from torchebm.core import BaseLoss, BaseModel, HarmonicModel, LossOutput, StandardizedModel
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from torchebm.training import Trainer
from torchebm.training.telemetry import GAP_LINES, Window, running_gap, uniform_noise

F64 = torch.float64


def points(n=200):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def contrastive(**options):
    torch.manual_seed(0)
    model = MLPEnergy(2, [8]) + HarmonicModel()
    return ContrastiveDivergence(model, HamiltonianMonteCarlo(model, 0.2, 3), k_steps=1, **options)


def test_the_gap_in_units_of_its_noise():
    window, gaps, errors = Window(), torch.tensor([1.0, -3.0, 2.0]), torch.tensor([0.5, 1.0, 2.0])
    for gap, error in zip(gaps, errors, strict=True):
        window.add({"energy_gap": gap, "energy_gap_error": error})
    means = window.means()
    assert means["gap_ratio"] == pytest.approx(math.sqrt((1 + 9 + 4) / (0.25 + 1 + 4)))
    assert means["energy_gap"] == pytest.approx(0.0)
    assert means["gap_fluctuation"] == pytest.approx(math.sqrt(3 * float(gaps.var()) / (0.25 + 1 + 4)))
    assert set(means) == {"energy_gap", "energy_gap_error", "gap_ratio", "gap_fluctuation"}
    other = Window()
    other.load(window.state_dict(), 3)
    assert other.means() == means
    window.clear()
    assert window.means() == {}


def test_the_ratio_is_one_where_data_and_negatives_are_of_one_density():
    """1,000 gaps of batches that differ by chance alone: their mean square has a standard error of 4.5 %."""

    class Same(ContrastiveDivergence):
        def _negatives(self, start, batch, generator):
            return torch.randn(start.shape, generator=generator), {}, []

    model = HarmonicModel() + MLPEnergy(2, [4])
    loss_fn, generator, window = Same(model, LangevinDynamics(model)), torch.Generator().manual_seed(0), Window()
    for _ in range(1000):
        batch = torch.randn(50, 2, generator=generator)
        window.add(loss_fn.evaluate(batch, generator=generator).metrics)
    for name in ("gap_ratio", "gap_fluctuation"):  # each fails with probability below 1e-7
        assert window.means()[name] ** 2 == pytest.approx(1.0, abs=5.5 * 0.045)


def test_a_steady_gap_does_not_fluctuate():
    window = Window()
    for _ in range(10):
        window.add({"energy_gap": torch.tensor(3.0), "energy_gap_error": torch.tensor(0.5)})
    assert window.means()["gap_ratio"] == pytest.approx(6.0)
    assert window.means()["gap_fluctuation"] == 0.0
    single = Window()
    single.add({"energy_gap": torch.tensor(3.0), "energy_gap_error": torch.tensor(0.0)})
    assert math.isnan(single.means()["gap_ratio"])
    assert math.isnan(single.means()["gap_fluctuation"])


def test_the_error_of_a_gap():
    loss_fn = contrastive(energy_reg_weight=0.0)
    output = loss_fn.evaluate(points(50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        data, negatives = loss_fn.model(points(50)), loss_fn.model(output.negatives)
    expected = math.sqrt(float(data.var(correction=0) + negatives.var(correction=0)) / 50)
    assert float(output.metrics["energy_gap_error"]) == pytest.approx(expected, rel=1e-5)


def test_a_line_tells_what_there_is_to_tell():
    trainer = Trainer(contrastive(persistent=True, buffer_size=100), log_every=10, guards=())
    trainer.fit(points(), 20, 50, progress=False)
    names = {
        *("step", "loss", "gradient_norm", "learning_rate", "seconds"),
        *("energy_data", "energy_negative", "energy_noise"),
        *("energy_gap", "energy_gap_error", "energy_gap_mean", "gap_ratio", "gap_fluctuation"),
        *("chain_gradient_norm", "displacement", "acceptance_rate", "buffer_age", "step_size"),
    }
    assert all(set(line) == names for line in trainer.metrics)
    assert trainer.metrics[-1]["buffer_age"] == pytest.approx(0.5 * 14.5)  # 50 of 100 chains an update, before updates
    gaps = [line["energy_gap"] for line in trainer.metrics]
    assert trainer.metrics[1]["energy_gap_mean"] == pytest.approx(sum(gaps) / 2)


def test_the_running_mean_forgets():
    lines = [{"step": k, "energy_gap": float(k)} for k in range(100)]
    assert running_gap(lines[:-1], 99.0) == pytest.approx(sum(range(100 - GAP_LINES, 100)) / GAP_LINES)
    assert running_gap([], 3.0) == 3.0
    assert running_gap([{"step": 1, "energy_gap": None}], 3.0) == 3.0


def test_training_draws_what_it_would_have_drawn():
    def weights(**changes):
        loss_fn = contrastive(persistent=True, buffer_size=100)
        for name, value in changes.items():
            setattr(loss_fn, name, value)
        before = torch.get_rng_state()
        model = Trainer(loss_fn, log_every=3).fit(points(), 20, 50, progress=False)
        assert torch.equal(before, torch.get_rng_state())
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(), weights(survey=lambda batch, noise: {}))


class Slope(BaseModel):
    """E(x) = a * (sum of x): the energies of noise and the slope can be written down."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0, dtype=F64))

    def forward(self, x):
        return self.a * x.sum(-1)


def test_energies_of_noise_and_the_slope_at_the_negatives():
    model = Slope()
    loss_fn = ContrastiveDivergence(model, LangevinDynamics(model), k_steps=1)
    loss_fn.evaluate(points().double(), generator=torch.Generator().manual_seed(0))
    noise = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    figures = loss_fn.survey(points().double(), noise)
    assert float(figures["energy_noise"]) == pytest.approx(2.0 * 5.0)
    assert float(figures["chain_gradient_norm"]) == pytest.approx(2.0 * math.sqrt(2.0))
    assert not any(figure.requires_grad for figure in figures.values())


def test_noise_is_uniform_in_the_box_and_a_function_of_its_key():
    box = torch.tensor([-1.0, 5.0], dtype=F64), torch.tensor([1.0, 5.5], dtype=F64)
    noise = uniform_noise(box, 10_000, (0, 0, 0, "noise", 50))
    u = (noise - box[0]) / (box[1] - box[0])
    assert ((u >= 0) & (u < 1)).all()
    assert (u.mean(0) - 0.5).abs().max() < 5 / math.sqrt(12 * 10_000)
    assert torch.equal(noise, uniform_noise(box, 10_000, (0, 0, 0, "noise", 50)))
    assert not torch.equal(noise, uniform_noise(box, 10_000, (0, 0, 0, "noise", 100)))


def test_the_box_is_that_of_the_data():
    """E = a * (sum of x) and data from 0 to 10: noise has energies near a * 10, whatever the batch."""
    model, data = Slope(), torch.rand(2000, 2, generator=torch.Generator().manual_seed(0), dtype=F64) * 10
    for given in (data, torch.utils.data.TensorDataset(data, torch.zeros(2000))):
        loss_fn = ContrastiveDivergence(model, LangevinDynamics(model), k_steps=1)
        evaluate = loss_fn.evaluate
        loss_fn.evaluate = lambda batch, evaluate=evaluate, **options: evaluate(
            batch[0] if isinstance(batch, list) else batch, **options
        )
        trainer = Trainer(loss_fn, torch.optim.SGD(model.parameters(), lr=1e-9), log_every=1, guards=())
        trainer.fit(given, 1, 1000, progress=False)
        assert trainer.metrics[0]["energy_noise"] == pytest.approx(20.0, abs=5 * 2 * 10 * math.sqrt(2 / 12 / 1000))


def test_what_lies_at_the_edge_of_the_box():
    """In the coordinates that the sampler walks in: a box of one standard deviation holds 68 % of each component."""
    data = 100 + 5 * torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    model = StandardizedModel.from_data(MLPEnergy(2, [4]) + HarmonicModel(), data)
    loss_fn = ContrastiveDivergence(model, LangevinDynamics(model, 1e-6, clamp=(-1.0, 1.0)), k_steps=1)
    loss_fn.evaluate(data, generator=torch.Generator().manual_seed(0))
    figures = loss_fn.survey(data, data)
    share = 2 * 0.158655  # beyond a standard deviation, and drawn onto the edge by the first step
    assert float(figures["saturation"]) == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 5000))
    assert float(figures["saturation_data"]) == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 5000))
    inside = model.transform(torch.rand(100, 2) - 0.5)
    assert float(loss_fn.survey(inside, data)["saturation_data"]) == 0.0


def test_what_is_not_finite_is_null(tmp_path):
    class Bounded(MLPEnergy):
        def forward(self, x):
            return torch.where(x[:, 0] > x[:, 1] + 0.01, torch.inf, super().forward(x))

    torch.manual_seed(0)
    model = Bounded(2, [4])
    x = points()
    data = torch.stack([x.amin(1), x.amax(1)], 1)
    loss_fn = ContrastiveDivergence(model, HamiltonianMonteCarlo(model, 0.01, 2), k_steps=1)
    trainer = Trainer(loss_fn, out_dir=tmp_path, log_every=1)
    trainer.fit(data, 2, 50, progress=False)
    assert trainer.metrics[0]["energy_noise"] is None
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "Infinity" not in text
    assert [json.loads(line) for line in text.splitlines()] == trainer.metrics


def test_other_losses_tell_their_own_figures():
    class Plain(BaseLoss):
        def evaluate(self, batch, *, generator=None):
            return LossOutput(self.model(batch).square().mean(), {})

    trainer = Trainer(Plain(MLPEnergy(2, [4])), log_every=1)
    trainer.fit(points(), 1, 50, progress=False)
    assert set(trainer.metrics[0]) == {"step", "loss", "gradient_norm", "learning_rate", "seconds"}
