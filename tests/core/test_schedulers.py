"""Schedules: each a pure function of the step, with a counter on top."""

import inspect
import math
from typing import Any, NamedTuple

import pytest
import torch

import torchebm.core.schedulers
from torchebm.core import (
    BaseScheduler,
    ConstantScheduler,
    CosineScheduler,
    ExponentialDecayScheduler,
    FunctionScheduler,
    HarmonicModel,
    LinearScheduler,
    MultiStepScheduler,
    TemperatureScheduler,
    WarmupScheduler,
)
from torchebm.core.schedulers import as_scheduler
from torchebm.samplers import LangevinDynamics


class Law(NamedTuple):
    make: Any
    formula: Any


LAWS = [
    Law(lambda: ConstantScheduler(0.3), lambda k: 0.3),
    Law(lambda: FunctionScheduler(lambda k: 1 / (k + 1)), lambda k: 1 / (k + 1)),
    Law(lambda: LinearScheduler(2.0, -1.0, 8), lambda k: 2 - 3 * min(k, 8) / 8),
    Law(lambda: CosineScheduler(2.0, 1.0, 8), lambda k: 1.5 + 0.5 * math.cos(math.pi * min(k, 8) / 8)),
    Law(lambda: TemperatureScheduler(16.0, 1.0, 8), lambda k: 2 ** (4 - min(k, 8) / 2)),
    Law(lambda: ExponentialDecayScheduler(2.0, 0.5, 0.1), lambda k: max(2 * 0.5**k, 0.1)),
    Law(lambda: MultiStepScheduler(2.0, [3, 5], 0.1), lambda k: 2.0 if k < 3 else 0.2 if k < 5 else 0.02),
    Law(
        lambda: WarmupScheduler(LinearScheduler(2.0, 1.0, 4), 5, 0.1),
        lambda k: 2 * (0.1 + 0.9 * k / 5) if k < 5 else 2 - min(k - 5, 4) / 4,
    ),
]


@pytest.fixture(params=LAWS, ids=lambda law: type(law.make()).__name__)
def law(request):
    return request.param


def test_every_schedule_has_its_law_here():
    names = {name for name in torchebm.core.schedulers.__all__ if name.endswith("Scheduler")} - {"BaseScheduler"}
    assert {type(law.make()).__name__ for law in LAWS} == names


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 5, 7, 8, 9, 1000])
def test_value(law, step):
    assert law.make().value(step) == pytest.approx(law.formula(step), rel=1e-12)


def test_value_is_pure(law):
    schedule = law.make()
    backwards = [schedule.value(k) for k in reversed(range(12))]
    assert backwards[::-1] == [schedule.value(k) for k in range(12)]
    assert schedule.step_count == 0


def test_counter(law):
    schedule = law.make()
    assert schedule.get_value() == schedule.value(0)
    assert [schedule.step() for _ in range(10)] == [schedule.value(k) for k in range(1, 11)]
    assert schedule.get_value() == schedule.value(10)
    saved = schedule.state_dict()
    schedule.step()
    assert saved == {"step_count": 10}  # not a view of the live counter
    other = law.make()
    other.load_state_dict(saved)
    assert other.get_value() == schedule.value(10)
    schedule.reset()
    assert schedule.get_value() == schedule.value(0)


def test_values_are_plain_floats(law):
    assert all(type(law.make().value(k)) is float for k in (0, 3, 20))


SPELLINGS = [
    (LinearScheduler, {"start_value": 0.05, "end_value": 0.03, "n_steps": 100},
     {"initial_value": 0.05, "final_value": 0.03, "total_steps": 100}),
    (CosineScheduler, {"start_value": 0.05, "end_value": 0.03, "n_steps": 100},
     {"initial_value": 0.05, "final_value": 0.03, "total_steps": 100}),
    (TemperatureScheduler, {"start_value": 5.0, "end_value": 1.0, "n_steps": 100},
     {"initial_value": 5.0, "final_value": 1.0, "total_steps": 100}),
    (ExponentialDecayScheduler, {"start_value": 0.1, "decay_rate": 0.9}, {"initial_value": 0.1, "decay_rate": 0.9}),
    (MultiStepScheduler, {"start_value": 0.1, "milestones": [2]}, {"initial_value": 0.1, "milestones": [2]}),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "one", "other"), SPELLINGS, ids=lambda s: getattr(s, "__name__", ""))
def test_two_spellings_of_one_schedule(cls, one, other):
    assert [cls(**one).value(k) for k in range(120)] == [cls(**other).value(k) for k in range(120)]
    assert [cls(*one.values()).value(k) for k in range(120)] == [cls(**other).value(k) for k in range(120)]
    with pytest.raises(TypeError, match="are two names of one argument"):
        cls(**(one | {"initial_value": 0.1}))
    with pytest.raises(TypeError, match=r"start_value is missing \(also accepted as initial_value"):
        cls(**{name: value for name, value in one.items() if name != "start_value"})


REFUSED = [
    (lambda: ConstantScheduler(math.nan), ValueError, "start_value must be finite"),
    (lambda: ConstantScheduler(True), TypeError, "start_value must be a number"),
    (lambda: LinearScheduler(1.0, math.inf, 5), ValueError, "end_value must be finite"),
    (lambda: LinearScheduler(1.0, 0.0, 0), ValueError, "n_steps must be at least 1"),
    (lambda: CosineScheduler(1.0, 0.0, 2.5), TypeError, "n_steps must be a whole number"),
    (lambda: TemperatureScheduler(1.0, 0.0, 5), ValueError, "end_value must be greater than 0"),
    (lambda: TemperatureScheduler(-1.0, 1.0, 5), ValueError, "start_value must be greater than 0"),
    (lambda: ExponentialDecayScheduler(1.0), TypeError, "decay_rate is missing"),
    (lambda: ExponentialDecayScheduler(1.0, 1.5), ValueError, "decay_rate must be at most 1"),
    (lambda: ExponentialDecayScheduler(1.0, 0.0), ValueError, "decay_rate must be greater than 0"),
    (lambda: MultiStepScheduler(1.0, [3, 3]), ValueError, "milestones must increase"),
    (lambda: MultiStepScheduler(1.0, [5, 3]), ValueError, "milestones must increase"),
    (lambda: MultiStepScheduler(1.0, [1.5]), TypeError, "each milestone must be a whole number"),
    (lambda: MultiStepScheduler(1.0, [1], gamma=-0.1), ValueError, "gamma must be greater than 0"),
    (lambda: WarmupScheduler(ConstantScheduler(1.0), -1), ValueError, "warmup_steps must be at least 0"),
    (lambda: WarmupScheduler(ConstantScheduler(1.0), 5, -0.1), ValueError, "warmup_init_factor must be at least 0"),
    (lambda: WarmupScheduler("linear", 5), TypeError, "main_scheduler must be a number"),
    (lambda: FunctionScheduler(3.0), TypeError, "must be callable with the step"),
    (lambda: ConstantScheduler(1.0).load_state_dict({"step_count": -1}), ValueError, "step_count must be at least 0"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), REFUSED)
def test_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_warmup_over_no_steps_is_the_schedule_itself():
    main = LinearScheduler(1.0, 0.0, 4)
    assert [WarmupScheduler(main, 0).value(k) for k in range(6)] == [main.value(k) for k in range(6)]


def test_warmup_does_not_move_the_schedule_it_wraps():
    main = LinearScheduler(1.0, 0.0, 4)
    warmup = WarmupScheduler(main, 2, 0.5)
    assert [warmup.step() for _ in range(4)] == [0.75, 1.0, 0.75, 0.5]
    assert main.step_count == 0
    assert WarmupScheduler(0.5, 2, 0.5).value(1) == 0.375  # a number is a schedule too


def test_as_scheduler():
    schedule = LinearScheduler(1.0, 0.0, 4)
    assert as_scheduler("h", schedule) is schedule
    assert as_scheduler("h", 2).value(7) == 2.0
    assert as_scheduler("h", torch.tensor(2.0)).value(7) == 2.0
    assert as_scheduler("h", lambda k: 3.0 * k).value(7) == 21.0
    with pytest.raises(TypeError, match="h must be a number"):
        as_scheduler("h", "0.1")


def test_a_schedule_is_value_and_nothing_else():
    class Sawtooth(BaseScheduler):
        def value(self, step):
            return 1.0 + step % 3

    assert inspect.isabstract(BaseScheduler)
    assert [Sawtooth().value(k) for k in range(4)] == [1.0, 2.0, 3.0, 1.0]
    assert Sawtooth().step() == 2.0


@pytest.mark.parametrize(
    "schedule",
    [TemperatureScheduler(16.0, 1.0, 4), WarmupScheduler(TemperatureScheduler(16.0, 1.0, 4), 3, 0.25)],
    ids=["bare", "warmed up"],
)
def test_a_temperature_is_read_through_its_root_as_a_noise_scale(schedule):
    sampler = LangevinDynamics(HarmonicModel(), noise_scale=schedule)
    scales = sampler.parameter_table(0, 9)["noise_scale"]
    assert scales == pytest.approx([math.sqrt(schedule.value(k)) for k in range(9)], rel=1e-12)
    assert scales[0] != schedule.value(0)
    assert sampler.noise_scale == scales[0]


def test_a_noise_scale_that_is_no_temperature_is_taken_as_it_is():
    for schedule in (LinearScheduler(4.0, 1.0, 4), WarmupScheduler(LinearScheduler(4.0, 1.0, 4), 3, 0.25)):
        scales = LangevinDynamics(HarmonicModel(), noise_scale=schedule).parameter_table(0, 9)["noise_scale"]
        assert scales == [schedule.value(k) for k in range(9)]
