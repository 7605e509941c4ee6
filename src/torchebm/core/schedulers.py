"""Schedules: numbers that change with the step, each a pure function `value(step)`."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence

from .checks import integer, number

__all__ = [
    "BaseScheduler",
    "ConstantScheduler",
    "CosineScheduler",
    "ExponentialDecayScheduler",
    "FunctionScheduler",
    "LinearScheduler",
    "MultiStepScheduler",
    "TemperatureScheduler",
    "WarmupScheduler",
    "as_scheduler",
]


class BaseScheduler(ABC):
    """A number that changes with the step; subclasses write `value(step)` and nothing else.

    `value` is pure, so a schedule may be shared by several parameters and evaluated ahead of time. On top of it stands
    a counter for loops that walk by hand: `get_value()` is the value at the counter, `step()` moves it, `reset()`
    returns it to 0.

    Example:
        >>> schedule = LinearScheduler(start_value=1.0, end_value=0.0, n_steps=4)
        >>> [schedule.value(step) for step in range(6)]
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
        >>> schedule.step(), schedule.get_value()
        (0.75, 0.75)
    """

    step_count: int = 0
    is_temperature: bool = False
    """Whether the values are temperatures, so that a noise scale takes their square root."""

    @abstractmethod
    def value(self, step: int) -> float:
        """The number in force at `step`, counted from 0."""

    def step(self) -> float:
        """Moves the counter by one and returns the value there."""
        self.step_count += 1
        return self.get_value()

    def get_value(self) -> float:
        """The value at the counter."""
        return self.value(self.step_count)

    def reset(self) -> None:
        """Returns the counter to 0."""
        self.step_count = 0

    def state_dict(self) -> dict[str, int]:
        """The counter: all that a schedule remembers."""
        return {"step_count": self.step_count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restores the counter from `state_dict()`."""
        self.step_count = integer("step_count", state["step_count"])


class ConstantScheduler(BaseScheduler):
    """The same number at every step."""

    def __init__(self, start_value: float) -> None:
        self.start_value = number("start_value", start_value)

    def value(self, step: int) -> float:
        return self.start_value

    def __repr__(self) -> str:
        return f"ConstantScheduler({self.start_value:g})"


class FunctionScheduler(BaseScheduler):
    """Any callable of the step, as `lambda step: 1 / (step + 1)`.

    Example:
        >>> FunctionScheduler(lambda step: 1 / (step + 1)).value(3)
        0.25
    """

    def __init__(self, function: Callable[[int], float]) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable with the step; got {type(function).__name__}.")
        self.function = function

    def value(self, step: int) -> float:
        return self.function(step)


class _Interpolation(BaseScheduler):
    """From `start_value` to `end_value` in `n_steps`, and `end_value` from then on; how, the subclass says.

    Args:
        start_value: Value at step 0.
        end_value: Value from step `n_steps` on.
        n_steps: Steps from one to the other.
        initial_value, final_value, total_steps: The same three under their other names.
    """

    lowest = -math.inf  # both values must lie above it

    def __init__(self, start_value: float | None = None, end_value: float | None = None, n_steps: int | None = None, *,
                 initial_value: float | None = None, final_value: float | None = None,
                 total_steps: int | None = None) -> None:  # fmt: skip
        first = _either("start_value", start_value, "initial_value", initial_value)
        last = _either("end_value", end_value, "final_value", final_value)
        self.start_value = number("start_value", first, above=self.lowest)
        self.end_value = number("end_value", last, above=self.lowest)
        self.n_steps = integer("n_steps", _either("n_steps", n_steps, "total_steps", total_steps), at_least=1)

    def value(self, step: int) -> float:
        if step >= self.n_steps:
            return self.end_value
        return self._between(step / self.n_steps)

    @abstractmethod
    def _between(self, fraction: float) -> float:
        """The value at a fraction of the way, in [0, 1)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.start_value:g}, {self.end_value:g}, {self.n_steps})"


class LinearScheduler(_Interpolation):
    r"""A straight line from `start_value` to `end_value` in `n_steps`, then flat.

    $v_k = v_\mathrm{start} + (v_\mathrm{end} - v_\mathrm{start})\, k / n$
    """

    def _between(self, fraction: float) -> float:
        return self.start_value + (self.end_value - self.start_value) * fraction


class CosineScheduler(_Interpolation):
    r"""Half a cosine from `start_value` to `end_value`, then flat: slow, fast, slow.

    $v_k = v_\mathrm{end} + \tfrac12 (v_\mathrm{start} - v_\mathrm{end}) (1 + \cos(\pi k / n))$

    References: Loshchilov & Hutter (2017), https://arxiv.org/abs/1608.03983
    """

    def _between(self, fraction: float) -> float:
        return self.end_value + 0.5 * (self.start_value - self.end_value) * (1 + math.cos(math.pi * fraction))


class TemperatureScheduler(_Interpolation):
    r"""A temperature that changes by the same factor at every step, from `start_value` to `end_value`, then stays.

    $T_k = T_\mathrm{start}\,(T_\mathrm{end} / T_\mathrm{start})^{k/n}$

    Given as the `noise_scale` of a sampler, which is $\sqrt T$, its square root is used.

    Example:
        >>> TemperatureScheduler(start_value=16.0, end_value=1.0, n_steps=2).value(1)
        4.0
    """

    lowest = 0.0
    is_temperature = True

    def _between(self, fraction: float) -> float:
        return self.start_value * (self.end_value / self.start_value) ** fraction


class ExponentialDecayScheduler(BaseScheduler):
    """`start_value * decay_rate ** step`, never below `min_value`.

    Args:
        start_value: Value at step 0.
        decay_rate: Factor per step, in (0, 1].
        min_value: Floor of the schedule.
        initial_value: `start_value` under its other name.
    """

    def __init__(self, start_value: float | None = None, decay_rate: float | None = None, min_value: float = 0.0, *,
                 initial_value: float | None = None) -> None:  # fmt: skip
        self.start_value = number("start_value", _either("start_value", start_value, "initial_value", initial_value))
        if decay_rate is None:
            raise TypeError("decay_rate is missing: the factor per step, such as 0.99.")
        self.decay_rate = number("decay_rate", decay_rate, above=0.0, at_most=1.0)
        self.min_value = number("min_value", min_value)

    def value(self, step: int) -> float:
        return max(self.start_value * self.decay_rate**step, self.min_value)


class MultiStepScheduler(BaseScheduler):
    """`start_value`, multiplied by `gamma` at each milestone.

    Args:
        start_value: Value before the first milestone.
        milestones: Increasing steps at which the factor applies.
        gamma: The factor.
        initial_value: `start_value` under its other name.

    Example:
        >>> schedule = MultiStepScheduler(1.0, milestones=[2, 4], gamma=0.5)
        >>> [schedule.value(step) for step in range(5)]
        [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, start_value: float | None = None, milestones: Sequence[int] = (), gamma: float = 0.1, *,
                 initial_value: float | None = None) -> None:  # fmt: skip
        self.start_value = number("start_value", _either("start_value", start_value, "initial_value", initial_value))
        self.milestones = [integer("each milestone", m) for m in milestones]
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones must increase; got {list(milestones)}.")
        self.gamma = number("gamma", gamma, above=0.0)

    def value(self, step: int) -> float:
        return self.start_value * self.gamma ** bisect_right(self.milestones, step)


class WarmupScheduler(BaseScheduler):
    """A straight line up to another schedule's first value, then that schedule from its own step 0.

    Args:
        main_scheduler: What follows the warm-up.
        warmup_steps: Steps of the line; 0 for none.
        warmup_init_factor: Fraction of the first value at step 0.
    """

    def __init__(self, main_scheduler: BaseScheduler, warmup_steps: int, warmup_init_factor: float = 0.01) -> None:
        self.main_scheduler = as_scheduler("main_scheduler", main_scheduler)
        self.is_temperature = self.main_scheduler.is_temperature
        self.warmup_steps = integer("warmup_steps", warmup_steps)
        self.warmup_init_factor = number("warmup_init_factor", warmup_init_factor, at_least=0.0)

    def value(self, step: int) -> float:
        if step >= self.warmup_steps:
            return self.main_scheduler.value(step - self.warmup_steps)
        factor = self.warmup_init_factor + (1 - self.warmup_init_factor) * step / self.warmup_steps
        return factor * self.main_scheduler.value(0)


def as_scheduler(name: str, value: float | BaseScheduler | Callable[[int], float]) -> BaseScheduler:
    """A number, a schedule or a callable of the step, as a schedule; `name` is what an error calls it."""
    if isinstance(value, BaseScheduler):
        return value
    if callable(value):
        return FunctionScheduler(value)
    return ConstantScheduler(number(name, value))


def _either(name: str, value: object, other_name: str, other: object) -> object:
    if value is None and other is None:
        raise TypeError(f"{name} is missing (also accepted as {other_name}).")
    if value is not None and other is not None:
        raise TypeError(f"{name} and {other_name} are two names of one argument; give one of them.")
    return other if value is None else value
