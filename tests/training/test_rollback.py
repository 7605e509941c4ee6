"""Going back: what is restored, what changes, what is written down, and how a run gives up."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from torchebm.core import BaseLoss, BaseModel, EnergyModel, HarmonicModel, LossOutput
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from torchebm.training import Guard, Remedy, Trainer, TrainingDivergedError, TrainingWarning, read_events, read_metrics
from torchebm.training.checkpoint import list_checkpoints, load_checkpoint
from torchebm.training.guards import acceptance_below, energies_beyond, non_finite
from torchebm.training.state import packed, unpack


def points(n=200):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def contrastive():
    torch.manual_seed(0)
    model = MLPEnergy(2, [8]) + HarmonicModel()
    sampler = LangevinDynamics(model, lambda k: 0.05 / (1 + 0.01 * k))
    return ContrastiveDivergence(model, sampler, k_steps=2, persistent=True, buffer_size=100, new_sample_ratio=0.1,
                                 reset_schedulers=False)  # fmt: skip


def once_after(step, action="rollback", **remedy):
    """Trips at the first line after a step, until the learning rate has been lowered."""

    def condition(lines):
        return "so I was told" if lines[-1]["step"] > step and lines[-1]["learning_rate"] > 9e-4 else None

    return Guard("once", condition, action, Remedy(**{"learning_rate": 0.5} | remedy))


def trainer_of(guards, out_dir=None, **options):
    options = {"log_every": 5, "checkpoint_every": 10, "ema_decay": 0.9, **options}
    return Trainer(contrastive(), out_dir=out_dir, guards=guards, **options)


@pytest.fixture
def soon(monkeypatch):
    """States are known to be good sooner than usual."""
    monkeypatch.setattr("torchebm.training.rollback.QUIET_UPDATES", 30)


def state_of(trainer):
    """Everything that the rest of a run depends on."""
    tensors = dict(trainer.model.state_dict()) | {f"average.{k}": v for k, v in trainer.ema.model.state_dict().items()}
    tensors |= {f"loss.{k}": v for k, v in trainer.loss_fn.state_dict().items()}
    for k, values in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{k}.{name}": value for name, value in values.items()}
    tensors["random"] = trainer.generator.get_state()
    return {name: t.clone() for name, t in tensors.items()}, trainer.loss_fn.sampler.schedulers["step_size"].step_count


def assert_equal(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1] == other[1]


def test_everything_is_restored_but_the_random_streams(tmp_path):
    """What follows a rollback is what follows the checkpoint, with another attempt and the remedy."""
    trainer = trainer_of([once_after(30, sampler_steps=2.0)], tmp_path / "one")
    with pytest.warns(
        TrainingWarning, match=r"step 35: so I was told \(guard 'once'\). Going back to step 0, rollback 1"
    ):
        trainer.fit(points(), 60, 32, progress=False)
    other = trainer_of([], tmp_path / "other")
    other.recovery.attempt, other.recovery.remedy = 1, Remedy(0.5, 2.0, 1.0)
    other.generator = other.stream("chains")
    other.apply_factors()
    other.fit(points(), 60, 32, progress=False)
    assert_equal(state_of(trainer), state_of(other))
    assert trainer.loss_fn.k_steps == 4
    assert trainer.metrics[-1]["learning_rate"] == pytest.approx(5e-4)


def test_what_is_unpacked_is_what_was_packed(tmp_path):
    trainer = trainer_of([], tmp_path, checkpoint_every=8)
    trainer.fit(points(), 12, 32, progress=False)
    path = tmp_path / "checkpoints/step-00000008"
    saved = load_checkpoint(path)
    unpack(trainer, load_checkpoint(path))
    found = packed(trainer)
    assert found.step == 8
    assert found.tensors.keys() == saved.tensors.keys() >= {"model", "ema", "loss", "optimizer", "random", "window"}
    for file, group in saved.tensors.items():
        assert group.keys() == found.tensors[file].keys()
        assert all(torch.equal(tensor, found.tensors[file][name]) for name, tensor in group.items()), file
    for name in ("in_window", "ema_updates", "schedulers", "optimizer"):
        assert json.loads(json.dumps(found.info[name])) == saved.info[name]


def test_attempts_draw_other_numbers():
    one, other = trainer_of([]), trainer_of([])
    other.recovery.attempt = 1
    assert not torch.equal(one.stream("chains").get_state(), other.stream("chains").get_state())
    for trainer in (one, other):
        trainer.generator = trainer.stream("chains")
        trainer.fit(points(), 3, 32, progress=False)
    assert not torch.equal(one.loss_fn.last_negatives, other.loss_fn.last_negatives)


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
@pytest.mark.parametrize(("late", "to_step"), [(30, 0), (60, 30)])
def test_memory_serves_as_well_as_disk(tmp_path, soon, late, to_step):
    """Without `out_dir` the states to go back to are kept in memory."""
    runs = [trainer_of([once_after(late)], folder) for folder in (None, tmp_path)]
    for trainer in runs:
        trainer.fit(points(), late + 20, 32, progress=False)
        assert [event["to_step"] for event in trainer.events] == [to_step]
    assert_equal(state_of(runs[0]), state_of(runs[1]))

    def lines(trainer):
        return [{k: v for k, v in line.items() if k != "seconds"} for line in trainer.records.all]

    assert lines(runs[0]) == lines(runs[1])


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_what_is_written_down(tmp_path):
    trainer = trainer_of([once_after(32)], tmp_path, checkpoint_every=7)
    trainer.fit(points(), 60, 32, progress=False)
    (event,) = read_events(tmp_path / "metrics.jsonl")
    remedy = {"learning_rate": 0.5, "sampler_steps": 1.0, "step_size": 1.0}
    assert event == {"step": 35, "event": "rollback", "guard": "once", "reason": "so I was told", "to_step": 0,
                     "to_line": 0, "attempt": 1, "remedy": remedy}  # fmt: skip
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(5, 65, 5))
    assert all(line["learning_rate"] == pytest.approx(5e-4) for line in metrics)
    assert metrics == trainer.metrics
    assert trainer.events == [event]
    raw = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in raw] == [*range(5, 36, 5), 35, *range(5, 65, 5)]
    seconds = [record["seconds"] for record in raw if "seconds" in record]
    assert seconds == sorted(seconds)  # time that was lost is counted


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_a_guard_until_the_first_rollback_is_not_asked_again(tmp_path):
    """Nor in a run that was resumed."""
    slight = Guard("slight", lambda lines: "no" if lines[-1]["step"] > 30 else None, until_rollback=True)
    trainer = trainer_of([slight], tmp_path)
    trainer.fit(points(), 40, 32, progress=False)
    assert [event["guard"] for event in trainer.events] == ["slight"]
    resumed = trainer_of([slight], tmp_path)
    resumed.fit(points(), 60, 32, resume=True, progress=False)
    assert len(resumed.events) == 1


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_it_gives_up_with_a_dump(tmp_path):
    guard = Guard("stubborn", lambda lines: "no" if lines[-1]["step"] > 30 else None)
    trainer = trainer_of([guard], tmp_path, max_rollbacks=2)
    message = (
        r"step 35 after 2 rollbacks: no \(guard 'stubborn'\); the last good checkpoint is .*step-00000000; .* in .*"
    )
    with pytest.raises(TrainingDivergedError, match=message):
        trainer.fit(points(), 60, 32, progress=False)
    assert [event["event"] for event in trainer.events] == ["rollback", "rollback", "stop"]
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000000"]  # nothing doubtful
    (folder,) = tmp_path.glob("forensics-*")
    assert folder.name == "forensics-step-00000035-attempt-2"
    seen = load_file(folder / "points.safetensors")
    assert torch.equal(seen["negatives"], trainer.loss_fn.last_negatives)
    assert torch.equal(seen["energy_negatives"], trainer.model.eval()(seen["negatives"]).detach())
    assert seen["batch"].shape == (32, 2)
    parameters = json.loads((folder / "parameters.json").read_text())
    for name, parameter in trainer.model.named_parameters():
        assert parameters[name]["norm"] == pytest.approx(float(parameter.detach().norm()), rel=1e-5)
        assert parameters[name]["gradient_norm"] > 0
    facts = json.loads((folder / "forensics.json").read_text())
    assert (facts["guard"], facts["reason"], facts["attempt"]) == ("stubborn", "no", 2)
    assert facts["remedy"]["learning_rate"] == pytest.approx(1 / 9)
    assert read_metrics(folder / "metrics.jsonl") == trainer.metrics


class Breaking(BaseLoss):
    """A loss that is NaN at chosen updates, counted over all attempts."""

    def __init__(self, model, broken):
        super().__init__(model)
        self.broken, self.n, self.last_negatives = broken, 0, None

    def evaluate(self, batch, *, generator=None):
        self.n += 1
        loss = self.model(batch).mean() * (float("nan") if self.broken(self.n) else 1.0)
        self.last_negatives = batch + torch.randn(batch.shape, generator=generator)
        return LossOutput(loss, {"energy_data": loss.detach()}, self.last_negatives)


def breaking(broken):
    torch.manual_seed(0)
    return Breaking(EnergyModel(nn.Linear(2, 1)), broken)


def test_an_update_that_is_not_finite_is_gone_back_behind():
    trainer = Trainer(breaking(lambda n: n == 7))
    with pytest.warns(
        TrainingWarning, match=r"step 6: the gradient of the parameters has norm nan.*guard 'non-finite'"
    ):
        trainer.fit(points(), 20, 32, progress=False)
    assert trainer.step == 20
    assert trainer.recovery.attempt == 1


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_what_is_never_finite_ends_with_a_dump(tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"after 3 rollbacks: the gradient .*last good checkpoint"):
        Trainer(breaking(lambda n: n > 6), out_dir=tmp_path).fit(points(), 20, 32, progress=False)
    (folder,) = tmp_path.glob("forensics-*")
    assert json.loads((folder / "parameters.json").read_text())["network.weight"]["gradient_norm"] is None  # NaN


def test_negatives_without_finite_energies_are_in_the_dump(tmp_path):
    class Cliff(BaseModel):
        def __init__(self):
            super().__init__()
            self.height = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return torch.where(x.sum(-1) > 1e3, torch.inf, self.height * x.square().sum(-1))

    model = Cliff()
    loss_fn = ContrastiveDivergence(model, LangevinDynamics(model, 0.1), k_steps=1)
    loss_fn._sample = lambda start, generator: (start + 1e4, {})
    with pytest.raises(TrainingDivergedError, match="energies of negatives are not finite"):
        Trainer(loss_fn, out_dir=tmp_path, max_rollbacks=0).fit(points(), 5, 32, progress=False)
    (folder,) = tmp_path.glob("forensics-*")
    seen = load_file(folder / "points.safetensors")
    assert bool((seen["negatives"] > 9e3).all())
    assert bool(seen["energy_negatives"].isinf().all())


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_a_warning_that_stays_does_not_keep_states_from_being_good(tmp_path, soon):
    always = Guard("chatty", lambda lines: "as ever", "warn")
    trainer = trainer_of([always, once_after(80)], tmp_path)
    trainer.fit(points(), 90, 32, progress=False)
    rollback = next(event for event in trainer.events if event["event"] == "rollback")
    assert rollback["to_step"] == 50


def test_warnings_are_said_once(tmp_path):
    guard = Guard("high", lambda lines: "too high" if 10 < lines[-1]["step"] < 30 else None, "warn")
    trainer = trainer_of([guard], tmp_path)
    with pytest.warns(TrainingWarning, match=r"step 15: too high \(guard 'high'\)") as caught:
        trainer.fit(points(), 40, 32, progress=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert trainer.events == [{"step": 15, "event": "warning", "guard": "high", "reason": "too high"}]
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 2  # no one goes back, so no more are kept


def test_a_guard_may_stop(tmp_path):
    trainer = trainer_of([once_after(30, "stop")], tmp_path)
    with pytest.raises(TrainingDivergedError, match=r"step 35: so I was told \(guard 'once'\).*step-00000030"):
        trainer.fit(points(), 60, 32, progress=False)


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_a_window_that_is_open_is_looked_at_before_a_checkpoint(tmp_path):
    """Energies exploded, and the next line is far: what is saved has been looked at."""
    guards = [energies_beyond(50.0), non_finite()]
    loss_fn = contrastive()
    evaluate, calls = loss_fn.evaluate, []

    def exploding(batch, *, generator=None):
        output = evaluate(batch, generator=generator)
        calls.append(1)
        return (
            output._replace(metrics=output.metrics | {"energy_data": torch.tensor(1e9)}) if len(calls) == 7 else output
        )

    loss_fn.evaluate = exploding
    trainer = Trainer(loss_fn, out_dir=tmp_path, checkpoint_every=10, log_every=50, guards=guards)
    trainer.fit(points(), 40, 32, progress=False)
    assert [(event["step"], event["to_step"]) for event in trainer.events] == [(10, 0)]


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_a_step_size_that_is_too_large_is_made_smaller():
    model = HarmonicModel(1e4) + MLPEnergy(2, [4])
    sampler = HamiltonianMonteCarlo(model, step_size=0.5, n_leapfrog_steps=3)
    loss_fn = ContrastiveDivergence(model, sampler, k_steps=1, persistent=True, buffer_size=100, energy_reg_weight=0.0)
    guards = [acceptance_below(0.01, 10, remedy=Remedy(step_size=0.03))]
    trainer = Trainer(loss_fn, guards=guards, log_every=5)
    trainer.fit(points(), 20, 32, progress=False)
    assert [event["guard"] for event in trainer.events] == ["acceptance"]
    assert sampler.step_size == pytest.approx(0.015)
    assert trainer.metrics[-1]["step_size"] == pytest.approx(0.015)
    assert trainer.metrics[-1]["acceptance_rate"] > 0.3


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_a_missing_checkpoint_is_passed_over(tmp_path, soon):
    """Someone tidied up while the run went on."""
    trainer = trainer_of([once_after(60)], tmp_path)
    evaluate = trainer.loss_fn.evaluate

    def tidied(batch, *, generator=None):
        if trainer.step == 63 and trainer.recovery.attempt == 0:
            (tmp_path / "checkpoints/step-00000030").rename(tmp_path / "elsewhere")
        return evaluate(batch, generator=generator)

    trainer.loss_fn.evaluate = tidied
    trainer.fit(points(), 80, 32, progress=False)
    assert trainer.events[0]["to_step"] < 30


@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
def test_what_the_last_line_shows_is_acted_upon_however_the_run_got_there(tmp_path):
    """The line after the last checkpoint trips: at once, and in a run that was killed between the two and resumed."""
    whole, killed = (trainer_of([once_after(40)], tmp_path / name, log_every=50) for name in ("whole", "killed"))
    whole.fit(points(), 43, 32, progress=False)
    assert [(event["step"], event["to_step"]) for event in whole.events] == [(43, 0)]

    def dies(batches):
        raise RuntimeError("killed")

    killed._close_window = dies
    killed.guards = [Guard("once", lambda lines: None)]  # what is checked before a checkpoint would notice it already
    with pytest.raises(RuntimeError, match="killed"):
        killed.fit(points(), 43, 32, progress=False)
    resumed = trainer_of([once_after(40)], tmp_path / "killed", log_every=50)
    resumed.fit(points(), 43, 32, resume=True, progress=False)
    assert resumed.events == whole.events
    assert_equal(state_of(resumed), state_of(whole))


def test_batches_of_any_kind_are_the_losses_affair():
    class Counting(BaseLoss):
        def evaluate(self, batch, *, generator=None):
            return LossOutput(self.model(batch["x"].double()).mean(), {})

    class Rows(list):
        pass

    model = EnergyModel(nn.Linear(2, 1).double())
    rows = Rows({"x": torch.ones(2, dtype=torch.int64)} for _ in range(20))
    trainer = Trainer(Counting(model), log_every=2)
    trainer.fit(rows, 4, 10, progress=False)
    assert [line["step"] for line in trainer.metrics] == [2, 4]
