"""The sampler's step size while a model trains: held at a target, saved, and scaled as a whole."""

import pytest
import torch

from torchebm.core import BaseLoss, GaussianModel, HarmonicModel, LinearScheduler, LossOutput
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from torchebm.training import StepSizeControl, Trainer
from torchebm.training.control import StepSizeScale


def model():
    torch.manual_seed(0)
    return MLPEnergy(8, [4]) + HarmonicModel()


def points(n=500):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("start", [0.01, 20.0])
def test_an_acceptance_rate_is_held(start):
    energy = model()
    sampler = HamiltonianMonteCarlo(energy, start, 3)
    loss_fn = ContrastiveDivergence(energy, sampler, k_steps=1, persistent=True, buffer_size=200)
    trainer = Trainer(loss_fn, step_size_control=StepSizeControl(0.7, every=2), log_every=20, guards=())
    trainer.fit(points(), 240, 100, progress=False)
    last = [line["acceptance_rate"] for line in trainer.metrics[-4:]]
    assert sum(last) / 4 == pytest.approx(0.7, abs=0.05)
    assert trainer.metrics[-1]["step_size"] == sampler.step_size


@pytest.mark.parametrize("start", [1e-5, 0.5])
def test_a_displacement_is_held(start):
    energy = model()
    sampler = LangevinDynamics(energy, start)
    loss_fn = ContrastiveDivergence(energy, sampler, k_steps=2, persistent=True, buffer_size=200)
    control = StepSizeControl(target_displacement=0.2, every=2)
    trainer = Trainer(loss_fn, step_size_control=control, log_every=20, guards=())
    trainer.fit(points(), 120, 100, progress=False)
    assert trainer.metrics[-1]["displacement"] == pytest.approx(0.2, rel=0.05)


def test_no_change_is_larger_than_a_factor_of_two():
    control = StepSizeControl(target_displacement=1.0, every=1)
    for moved in (0.0, 1e-30):
        before = control.log_factor
        assert control.update({"displacement": torch.tensor(moved)})
        assert control.log_factor - before == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
@pytest.mark.parametrize("control", [StepSizeControl(0.8, every=1), StepSizeControl(target_displacement=1.0, every=1)])
def test_what_is_not_finite_changes_nothing(control, figure):
    assert not control.update({control.figure: torch.tensor(figure)})
    assert control.log_factor == 0.0


def test_the_law():
    control = StepSizeControl(0.8, gain=0.5, every=2)
    assert not control.update({"acceptance_rate": torch.tensor(0.5)})
    assert control.update({"acceptance_rate": torch.tensor(0.7)})
    assert control.log_factor == pytest.approx(0.5 * (0.6 - 0.8))
    assert not control.update({"acceptance_rate": torch.tensor(0.5)})
    other = StepSizeControl(0.8, gain=0.5, every=2)
    other.load_state_dict(control.state_dict())
    for each in (control, other):
        each.update({"acceptance_rate": torch.tensor(0.1)})
    assert other.log_factor == control.log_factor != pytest.approx(0.5 * (0.6 - 0.8))


def test_a_schedule_keeps_its_course():
    sampler = LangevinDynamics(HarmonicModel(), LinearScheduler(1.0, 0.0001, 10))
    scale = StepSizeScale(sampler)
    sampler.schedulers["step_size"].step_count = 5
    before = sampler.step_size
    scale.set(0.5)
    scale.set(0.25)  # of what was given, not of what was in force
    assert sampler.step_size == pytest.approx(before / 4)
    sampler.step_schedulers()
    assert sampler.step_size == pytest.approx(LinearScheduler(1.0, 0.0001, 10).value(6) / 4)
    scale.set(1.0)
    assert sampler.step_size == pytest.approx(LinearScheduler(1.0, 0.0001, 10).value(6))


def test_a_schedule_that_serves_two_parameters_is_scaled_for_one():
    schedule = LinearScheduler(1.0, 0.1, 10)
    sampler = LangevinDynamics(HarmonicModel(), schedule, schedule)
    StepSizeScale(sampler).set(0.5)
    assert (sampler.step_size, sampler.noise_scale) == (0.5, 1.0)


def test_the_users_sampler_is_left_alone_without_control():
    energy = model()
    sampler = LangevinDynamics(energy, 0.05)
    schedule = sampler.schedulers["step_size"]
    Trainer(ContrastiveDivergence(energy, sampler)).fit(points(), 3, 100, progress=False)
    assert sampler.schedulers["step_size"] is schedule


class Plain(BaseLoss):
    def evaluate(self, batch, *, generator=None):
        return LossOutput(self.model(batch).mean(), {})


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: StepSizeControl(), "give target_acceptance, for samplers that reject, or target_displacement"),
        (lambda: StepSizeControl(0.8, target_displacement=1.0), "one of them"),
        (lambda: StepSizeControl(1.0), "target_acceptance must be less than 1"),
        (lambda: StepSizeControl(0.0), "target_acceptance must be greater than 0"),
        (lambda: StepSizeControl(target_displacement=-1.0), "target_displacement must be greater than 0"),
        (lambda: StepSizeControl(0.8, gain=0.0), "gain must be greater than 0"),
        (lambda: StepSizeControl(0.8, every=0), "every must be at least 1"),
        (lambda: Trainer(Plain(model()), step_size_control=StepSizeControl(0.8)), "a loss without a sampler"),
        (
            lambda: Trainer(
                ContrastiveDivergence(model(), LangevinDynamics(model())), step_size_control=StepSizeControl(0.8)
            ),
            "LangevinDynamics has no accept test: give target_displacement instead",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_resuming_with_or_without_is_refused(tmp_path):
    def trainer(control):
        energy = model()
        return Trainer(
            ContrastiveDivergence(energy, LangevinDynamics(energy)), out_dir=tmp_path, step_size_control=control
        )

    trainer(StepSizeControl(target_displacement=0.1)).fit(points(), 2, 100, progress=False)
    with pytest.raises(ValueError, match="was written with step_size_control: resume as it was begun"):
        trainer(None).fit(points(), 4, 100, resume=True, progress=False)


def test_a_sampler_that_is_none_of_ours_cannot_be_steered():
    class Exact:
        """No `schedulers`: nothing to steer, nothing to scale."""

    scale = StepSizeScale(Exact())
    scale.set(0.5)
    assert scale.given is None
    with pytest.raises(ValueError, match="has a step_size; got GaussianModel"):
        StepSizeControl(0.8).check(GaussianModel(torch.zeros(2), torch.eye(2)))
