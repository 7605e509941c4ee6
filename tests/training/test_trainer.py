"""The training loop: what it does at each update, and how it stops."""

import json

import pytest
import torch
from torch import nn

from torchebm.core import BaseModel, EnergyModel
from torchebm.core.loss import BaseLoss, LossOutput
from torchebm.losses import ContrastiveDivergence
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from torchebm.training import ExponentialMovingAverage, Trainer, TrainingDivergedError
from torchebm.training.batches import Batches
from torchebm.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from torchebm.training.guards import acceptance_below, energies_beyond

STOPPING = [energies_beyond(1e6, "stop")]


def network():
    torch.manual_seed(0)
    return EnergyModel(nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1)))


def contrastive(model, **options):
    return ContrastiveDivergence(model, LangevinDynamics(model), k_steps=2, persistent=True, buffer_size=100, **options)


def points(n=200):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


class Quadratic(BaseModel):
    """E(x) = theta x^2: its loss below has gradient 1 in theta, so updates can be written down."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x):
        return self.theta * x.square().sum(-1)


class Linear(BaseLoss):
    """The loss is theta, or whatever `broken` makes of it."""

    broken = staticmethod(lambda step, loss: loss)
    step = 0
    committed = 0

    def evaluate(self, batch, *, generator=None):
        self.step += 1
        loss = self.broken(self.step, self.model.theta * 1.0)
        return LossOutput(loss, {"energy_data": loss.detach()})

    def commit(self):
        self.committed += 1


def test_update_follows_optimizer_schedule_and_average():
    loss_fn = Linear(Quadratic())
    optimizer = torch.optim.SGD(loss_fn.model.parameters(), lr=0.1)
    trainer = Trainer(loss_fn, optimizer, learning_rate_schedule=lambda k: 0.5**k, ema_decay=0.9)
    averaged = trainer.fit(points(), 3, 10, progress=False)
    theta, average = 1.0, 1.0
    for k in range(3):
        theta -= 0.1 * 0.5**k
        decay = min(0.9, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * theta
    assert loss_fn.model.theta.item() == pytest.approx(theta, rel=1e-12)
    assert averaged.theta.item() == pytest.approx(average, rel=1e-12)
    assert loss_fn.committed == 3


def test_gradient_is_clipped_and_its_norm_logged(tmp_path):
    loss_fn = Linear(Quadratic())
    loss_fn.broken = lambda step, loss: 50 * loss
    optimizer = torch.optim.SGD(loss_fn.model.parameters(), lr=1.0)
    trainer = Trainer(loss_fn, optimizer, grad_clip_norm=0.25, out_dir=tmp_path, log_every=1)
    trainer.fit(points(), 2, 10, progress=False)
    assert loss_fn.model.theta.item() == pytest.approx(0.5, abs=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["gradient_norm"] == pytest.approx(50.0)
    assert lines[0]["loss"] == pytest.approx(50.0)


def test_metrics_are_means_over_the_window(tmp_path):
    loss_fn = Linear(Quadratic())
    loss_fn.broken = lambda step, loss: loss * 0 + step
    Trainer(loss_fn, out_dir=tmp_path, log_every=4).fit(points(), 8, 10, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [2.5, 6.5]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_gradient_stops_with_the_last_good_state(tmp_path, value):
    loss_fn = Linear(Quadratic())
    loss_fn.broken = lambda step, loss: loss * value if step == 6 else loss
    optimizer = torch.optim.SGD(loss_fn.model.parameters(), lr=0.1)
    trainer = Trainer(loss_fn, optimizer, out_dir=tmp_path, checkpoint_every=2, guards=())
    with pytest.raises(TrainingDivergedError, match=r"step 5: the gradient.*norm.*step-00000004"):
        trainer.fit(points(), 20, 10, progress=False)
    assert loss_fn.model.theta.item() == pytest.approx(0.5)  # five good updates, and no other
    assert loss_fn.committed == 5
    newest = load_checkpoint(newest_checkpoint(tmp_path / "checkpoints"))
    assert newest.tensors["model"]["theta"].item() == pytest.approx(0.6)


def test_non_finite_energy_stops_and_is_not_replaced(tmp_path):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.calls = nn.Parameter(torch.ones(())), 0

        def forward(self, x):
            self.calls += self.training
            energy = self.scale * x.square().sum(-1)
            return energy * float("nan") if self.calls > 8 else energy

    model = EnergyModel(Breaks())
    trainer = Trainer(contrastive(model), out_dir=tmp_path, guards=())
    expected = r"energies of data are not finite.*last good checkpoint is .*step-00000000"
    with pytest.raises(TrainingDivergedError, match=expected):
        trainer.fit(points(), 50, 32, progress=False)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert trainer.loss_fn.replay_buffer.chains.isfinite().all()


def test_exploding_energies_stop(tmp_path):
    loss_fn = Linear(Quadratic())
    loss_fn.broken = lambda step, loss: loss * 10.0**step
    guards = [energies_beyond(1000, "stop")]
    with pytest.raises(TrainingDivergedError, match=r"energy_data is .*beyond the limit of 1000"):
        Trainer(loss_fn, out_dir=tmp_path, log_every=1, guards=guards).fit(points(), 20, 10, progress=False)


def test_frozen_chains_stop():
    model = network()
    sampler = HamiltonianMonteCarlo(model, step_size=1e4)
    loss_fn = ContrastiveDivergence(model, sampler, k_steps=1, persistent=True, buffer_size=100)
    with pytest.raises(TrainingDivergedError, match=r"accepts .* of its proposals"):
        Trainer(loss_fn, log_every=5, guards=[acceptance_below(0.01, 5, "stop")]).fit(points(), 20, 32, progress=False)


def test_a_run_is_a_function_of_its_seed():
    def weights(seed):
        trainer = Trainer(contrastive(network()), seed=seed)
        return torch.cat([p.flatten() for p in trainer.fit(points(), 10, 32, progress=False).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_global_stream_is_left_alone():
    model = network()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Trainer(contrastive(model)).fit(points(), 5, 32, progress=False)
    assert torch.equal(torch.rand(2), expected)


def test_fit_goes_on_to_a_total():
    trainer = Trainer(contrastive(network()))
    trainer.fit(points(), 3, 32, progress=False)
    trainer.fit(points(), 5, 32, progress=False)
    assert trainer.step == 5


def test_an_existing_run_is_refused(tmp_path):
    Trainer(contrastive(network()), out_dir=tmp_path).fit(points(), 2, 32, progress=False)
    with pytest.raises(FileExistsError, match="resume=True"):
        Trainer(contrastive(network()), out_dir=tmp_path).fit(points(), 4, 32, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": 1}, "seed 0, not 1"), ({"seed": 0, "ema_decay": 0.9}, "without ema_decay")],
)
def test_resuming_otherwise_is_refused(tmp_path, options, message):
    Trainer(contrastive(network()), out_dir=tmp_path).fit(points(), 2, 32, progress=False)
    with pytest.raises(ValueError, match=message):
        Trainer(contrastive(network()), out_dir=tmp_path, **options).fit(points(), 4, 32, resume=True, progress=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"ema_decay": 1.0}, ValueError, "ema_decay must be below 1"),
        ({"ema_decay": 5}, ValueError, "below 1"),
        ({"grad_clip_norm": 0.0}, ValueError, "grad_clip_norm"),
        ({"log_every": 0}, ValueError, "log_every"),
        ({"seed": 1.5}, TypeError, "seed"),
    ],
)
def test_bad_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Trainer(contrastive(network()), **options)


def test_bad_data_is_refused():
    trainer = Trainer(contrastive(network()))
    with pytest.raises(ValueError, match="batch_size=500 exceeds the 200 rows"):
        trainer.fit(points(), 1, 500, progress=False)
    with pytest.raises(TypeError, match="data must be a tensor"):
        trainer.fit(iter([1]), 1, progress=False)
    with pytest.raises(ValueError, match="nothing to train"):
        Trainer(ContrastiveDivergence(*[EnergyModel(lambda x: x.sum(-1))] * 1, LangevinDynamics(lambda x: x.sum(-1))))
    with pytest.raises(TypeError, match="loss_fn must be a BaseLoss"):
        Trainer(nn.MSELoss())


def test_batches_are_permutations_and_datasets_serve():
    batches = Batches(torch.arange(10.0).view(10, 1), 3, (0, "batches"))
    for epoch in range(3):
        rows = torch.cat([batches[3 * epoch + k] for k in range(3)]).flatten().tolist()
        assert len(set(rows)) == 9
    assert torch.equal(batches[4], Batches(torch.arange(10.0).view(10, 1), 3, (0, "batches"))[4])
    dataset = [torch.full((2,), float(i)) for i in range(10)]
    rows = torch.cat([Batches(dataset, 3, (0, "batches"))[k] for k in range(3)])[:, 0]
    assert torch.equal(rows, torch.cat([batches[k] for k in range(3)]).flatten())


def test_average_covers_buffers():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = ExponentialMovingAverage(model, 0.5)
    model[1].running_mean.fill_(1.0)
    model[1].num_batches_tracked.fill_(7)
    average.update(model)
    assert average.model[1].running_mean.tolist() == pytest.approx([0.9, 0.9])  # decay starts at 1 / 10
    assert average.model[1].num_batches_tracked.item() == 7


def test_checkpoints_are_whole_or_not_there(tmp_path, monkeypatch):
    tensors = {"model": {"w": torch.ones(2)}}
    for step in range(4):
        save_checkpoint(tmp_path, step, tensors, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchebm.training.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 4, tensors, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"model": {"w": torch.ones(200)}}, {})
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    message = r"step-00000001 cannot be read: model.safetensors: .* cut or changed; there is none before it"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)


def test_a_checkpoint_without_one_of_its_files_is_named(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"model": {"w": torch.ones(2)}, "loss": {}}, {})
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="step-00000001 cannot be read"):
        load_checkpoint(path)


def test_energies_that_exploded_within_a_window_are_not_saved(tmp_path):
    loss_fn = Linear(Quadratic())
    loss_fn.broken = lambda step, loss: loss * (1e9 if step > 6 else 1.0)
    with pytest.raises(TrainingDivergedError, match=r"energy_data is .*last good checkpoint is .*step-00000005"):
        Trainer(loss_fn, out_dir=tmp_path, checkpoint_every=5, guards=STOPPING).fit(points(), 40, 10, progress=False)


def test_a_short_run_is_checked_and_logged():
    loss_fn = Linear(Quadratic())
    trainer = Trainer(loss_fn, log_every=50, guards=STOPPING)
    trainer.fit(points(), 3, 10, progress=False)
    assert [line["step"] for line in trainer.metrics] == [3]
    loss_fn.broken = lambda step, loss: loss * 1e9
    with pytest.raises(TrainingDivergedError, match="energy_data"):
        trainer.fit(points(), 6, 10, progress=False)


def test_means_are_right_after_resuming_with_another_interval(tmp_path):
    def make(log_every):
        loss_fn = Linear(Quadratic())
        loss_fn.broken = lambda step, loss: 0 * loss + 1.0
        return Trainer(loss_fn, out_dir=tmp_path, log_every=log_every)

    make(50).fit(points(), 45, 10, progress=False)
    trainer = make(10)
    trainer.fit(points(), 60, 10, resume=True, progress=False)
    assert [line["loss"] for line in trainer.metrics] == [1.0] * len(trainer.metrics)
    assert [line["step"] for line in trainer.metrics] == [50, 60]


def test_leftovers_of_killed_processes_are_cleared(tmp_path):
    (tmp_path / "step-00000003").mkdir()
    (tmp_path / ".step-00000002.999").mkdir()
    save_checkpoint(tmp_path, 3, {"model": {"w": torch.ones(2)}}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_data_that_are_not_finite_are_named():
    data = points()
    data[17, 1] = float("nan")
    with pytest.raises(ValueError, match="row 17"):
        Trainer(contrastive(network())).fit(data, 1, 32, progress=False)


def test_a_tensor_dataset_serves():
    trainer = Trainer(contrastive(network()))
    trainer.fit(torch.utils.data.TensorDataset(points()), 2, 32, progress=False)
    assert trainer.step == 2
