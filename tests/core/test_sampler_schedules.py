"""Parameters that change with the step: which value a transition sees, and where the counters stand after a run."""

import pytest
import torch

from torchebm.core import (
    BaseSampler,
    ConstantScheduler,
    HarmonicModel,
    LinearScheduler,
    TemperatureScheduler,
    WarmupScheduler,
)
from torchebm.samplers import LangevinDynamics

X = torch.ones(3, 1)


def spied(case):
    """A sampler whose steps note the values they see, and the list of them."""
    seen = []

    class Spied(case.cls):
        def step(self, state, noise, target, **parameters):
            seen.append(parameters[case.positive])
            return super().step(state, noise, target, **parameters)

    return Spied(HarmonicModel(), **case.parameters), seen


@pytest.mark.parametrize(
    "schedule", [LinearScheduler(0.3, 0.1, 4), lambda k: 0.3 / (k + 1)], ids=["schedule", "callable"]
)
def test_the_first_transition_sees_value_0(case, schedule):
    sampler, seen = spied(case)
    setattr(sampler, case.positive, schedule)
    value = getattr(schedule, "value", schedule)
    sampler.sample(X, n_steps=6)
    assert seen == [value(k) for k in range(6)]
    assert getattr(sampler, case.positive) == value(6)  # the counter stands where the next transition would be
    assert sampler.schedulers[case.positive].step_count == 6


def test_warmup_keeps_to_the_first_value(case):
    sampler, seen = spied(case)
    setattr(sampler, case.positive, lambda k: 0.1 + 0.01 * k)
    sampler.sample(X, n_steps=2, n_warmup=3)
    assert seen == [0.1, 0.1, 0.1, 0.1, 0.11]


def test_schedules_start_anew_or_go_on(case):
    sampler, seen = spied(case)
    setattr(sampler, case.positive, lambda k: 1.0 + k)
    sampler.sample(X, n_steps=2)
    sampler.sample(X, n_steps=2)
    sampler.sample(X, n_steps=2, reset_schedulers=False)
    _, state = sampler.sample(X, n_steps=1, reset_schedulers=False, return_state=True)
    sampler.sample(X, n_steps=1)
    sampler.sample(state=state, n_steps=2)  # a state knows its step
    assert seen == [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 6.0, 7.0]


def test_counters_by_hand(case):
    sampler = case.make(HarmonicModel(), **{case.positive: LinearScheduler(0.5, 0.1, 4)})
    assert sampler.get_scheduled_value(case.positive) == getattr(sampler, case.positive) == 0.5
    assert sampler.step_schedulers()[case.positive] == pytest.approx(0.4)
    sampler.reset_schedulers()
    assert getattr(sampler, case.positive) == 0.5
    with pytest.raises(KeyError, match="no schedule is registered under 'step'"):
        sampler.get_scheduled_value("step")


def test_a_schedule_shared_by_two_parameters_moves_once():
    schedule = LinearScheduler(0.5, 0.1, 4)
    sampler = LangevinDynamics(HarmonicModel(), step_size=schedule, noise_scale=schedule)
    assert set(sampler.step_schedulers().values()) == {schedule.value(1)}
    assert schedule.step_count == 1
    sampler.sample(X, n_steps=3)
    assert schedule.step_count == 3


def test_a_schedule_that_leaves_the_limits_is_an_error_before_anything_runs(case, counting_model, generator):
    schedules = {
        lambda k: 0.1 - 0.02 * k: "must be greater than 0; got 0. That is its schedule's value at step 5",
        lambda k: 0.1 if k < 3 else float("nan"): "must be finite; got nan. That is its schedule's value at step 3",
        LinearScheduler(0.1, -0.1, 10): "must be greater than 0; got 0. That is its schedule's value at step 5",
    }
    before = generator.get_state()
    for schedule, message in schedules.items():
        sampler = case.make(counting_model, **{case.positive: schedule})
        with pytest.raises(ValueError, match=f"{case.positive} {message}"):
            sampler.sample(X, n_steps=20, generator=generator)
    assert counting_model.given == []
    assert torch.equal(generator.get_state(), before)
    assert sampler.sample(X, n_steps=5, generator=generator).shape == X.shape  # no step sees a value out of its limits


@pytest.mark.parametrize("value", [-0.1, 1j, "0.1", None, True])
def test_a_callable_is_tried_when_it_is_set(case, value):
    with pytest.raises((ValueError, TypeError), match=rf"{case.positive} must be .* value at step 0"):
        case.make(HarmonicModel(), **{case.positive: lambda k: value})


def test_a_temperature_schedule_is_the_square_of_the_noise_scale(seeded):
    temperature = TemperatureScheduler(4.0, 1.0, 6)
    samples = [
        LangevinDynamics(HarmonicModel(), 0.1, noise_scale).sample(X, n_steps=8, generator=seeded())
        for noise_scale in (temperature, lambda k: temperature.value(k) ** 0.5)
    ]
    assert torch.equal(*samples)


def test_schedules_of_the_guide_run(case, generator):
    linear = LinearScheduler(initial_value=0.05, final_value=0.03, total_steps=10)
    schedule = WarmupScheduler(main_scheduler=linear, warmup_steps=5, warmup_init_factor=0.01)
    sampler = case.make(HarmonicModel(), **{case.positive: schedule})
    assert sampler.sample(x=X, dim=1, n_steps=20, generator=generator, return_trajectory=True).shape == (3, 20, 1)


def test_a_sampler_of_ones_own_registers_schedules():
    class Walk(BaseSampler):
        def __init__(self, model, my_parameter=0.1, dtype=torch.float32, device=None):
            super().__init__(model=model, dtype=dtype, device=device)
            self.my_parameter = my_parameter
            self.register_scheduler("my_parameter", ConstantScheduler(my_parameter))

        @torch.no_grad()
        def sample(self, x, n_steps=100):
            self.reset_schedulers()
            for _ in range(n_steps):
                self.step_schedulers()
                x = x - self.get_scheduled_value("my_parameter") * self.model.gradient(x.to(self.device))
            return x

    torch.testing.assert_close(Walk(HarmonicModel(), 0.5).sample(X, n_steps=3), X / 8)
