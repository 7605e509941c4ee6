"""Anything that samples a model: where and in which dtype it works, and its schedules."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor

from .checks import number
from .first_generation import FirstGenerationSampling
from .model import BaseModel, as_model
from .schedulers import BaseScheduler, ConstantScheduler, as_scheduler
from .target import check_precision

__all__ = ["BaseSampler", "SamplerOptions", "SamplerState", "Scheduled"]


class SamplerOptions(TypedDict, total=False):
    """What every sampler takes by keyword: `dtype` and `device` of its states (those of the input if left out), and
    `precision`, `"bf16"` to evaluate the model under autocast."""

    dtype: torch.dtype | None
    device: torch.device | str | None
    precision: str | None


class SamplerState(NamedTuple):
    """Where a run stopped: what `state=` continues from."""

    kernel: Any
    """What the transition keeps: a NamedTuple of `[chain, ...]` tensors."""
    step: int
    """Transitions since the schedules began."""

    @property
    def x(self) -> Tensor:
        """The chains, `[chain, *event]`, in the coordinates that the sampler walks in."""
        return self.kernel.x


class Scheduled:
    """A sampler's parameter: assign a number, a schedule or a callable of the step; read the number in force.

    Args:
        above, at_least: What every value must satisfy, checked for each step before a run begins.
        optional: Whether `None` leaves the parameter out of `step`.
    """

    def __init__(self, *, above: float = -math.inf, at_least: float = -math.inf, optional: bool = False) -> None:
        self.limits = {"above": above, "at_least": at_least}
        self.optional = optional

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, sampler: "BaseSampler | None", owner: type | None = None) -> Any:
        if sampler is None:
            return self
        if self.optional and self.name not in sampler.schedulers:
            return None
        return sampler.get_scheduled_value(self.name)

    def __set__(self, sampler: "BaseSampler", value: "float | BaseScheduler | Callable[[int], float] | None") -> None:
        if value is None and self.optional:
            sampler.schedulers.pop(self.name, None)
        else:
            sampler.register_scheduler(self.name, cast(Any, value))

    def read(self, scheduler: BaseScheduler, step: int) -> float:
        """The parameter at a step of its schedule, if it is a finite real number within the limits."""
        value = scheduler.value(step)
        try:
            return number(self.name, value, **self.limits)
        except (ValueError, TypeError) as error:
            if isinstance(scheduler, ConstantScheduler):
                raise
            raise type(error)(f"{error} That is its schedule's value at step {step}.") from None


class BaseSampler(FirstGenerationSampling, ABC):
    """Anything with `sample`: holds the model, where and in which dtype to work, and schedules.

    Args:
        model: The energy to sample; a network or a function is wrapped in `EnergyModel`.
        dtype: Of the states; left out, that of the starting points, or else of the model.
        device: Of the states; left out, that of the starting points, or else of the model.
        precision: `"bf16"` evaluates the model under autocast while the state keeps its dtype.
    """

    def __init__(self, model: BaseModel | Callable[..., Tensor], *, dtype: torch.dtype | None = None,
                 device: torch.device | str | None = None, precision: str | None = None) -> None:  # fmt: skip
        self.model = as_model(model)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating torch.dtype; got {dtype!r}.")
        self._dtype = dtype
        self._device = None if device is None else torch.device(device)
        self.precision = check_precision(precision)

    @abstractmethod
    def sample(self, x: Tensor | None = None, **options: Any) -> Any:
        """Draws from the model."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype asked for, or else the model's."""
        if self._dtype is not None:
            return self._dtype
        tensor = self._tensor_of_model()
        return torch.get_default_dtype() if tensor is None else tensor.dtype

    @property
    def device(self) -> torch.device:
        """The device asked for, or else the model's."""
        if self._device is not None:
            return self._device
        tensor = self._tensor_of_model()
        return torch.device("cpu") if tensor is None else tensor.device

    @device.setter
    def device(self, device: torch.device | str | None) -> None:
        self._device = None if device is None else torch.device(device)

    def to(
        self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> "BaseSampler":
        """Moves the sampler and its model to a device, a dtype, or both, and returns the sampler."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if device is not None:
            self._device = torch.device(device)
        if dtype is not None:
            self._dtype = dtype
        self.model.to(device=device, dtype=dtype)
        return self

    # schedules --------------------------------------------------------------------------------------------------------

    @property
    def schedulers(self) -> dict[str, BaseScheduler]:
        """Every parameter that may change with the step, by name."""
        return self.__dict__.setdefault("_schedulers", {})

    def register_scheduler(self, name: str, scheduler: "float | BaseScheduler | Callable[[int], float]") -> None:
        """Lets the parameter `name` follow a schedule; a number is a constant one."""
        scheduler = as_scheduler(name, scheduler)
        self._read(name, scheduler, 0)
        self.schedulers[name] = scheduler

    def parameter_table(self, start: int, n_steps: int) -> dict[str, list[float]]:
        """The values of every scheduled parameter for `n_steps` steps from `start` on, each checked."""
        table = {}
        for name, scheduler in self.schedulers.items():
            if isinstance(scheduler, ConstantScheduler):
                table[name] = [scheduler.start_value] * n_steps
            else:
                table[name] = [self._read(name, scheduler, step) for step in range(start, start + n_steps)]
        return table

    def get_scheduled_value(self, name: str) -> float:
        """The value in force: that at the schedule's counter."""
        if name not in self.schedulers:
            raise KeyError(f"no schedule is registered under {name!r}; there are {sorted(self.schedulers)}.")
        return self._read(name, self.schedulers[name], self.schedulers[name].step_count)

    def step_schedulers(self) -> dict[str, float]:
        """Moves every schedule by one step; one that serves two parameters moves once."""
        for scheduler in self._distinct_schedulers():
            scheduler.step()
        return {name: self.get_scheduled_value(name) for name in self.schedulers}

    def reset_schedulers(self) -> None:
        """Returns every schedule to step 0."""
        for scheduler in self._distinct_schedulers():
            scheduler.reset()

    def _read(self, name: str, scheduler: BaseScheduler, step: int) -> float:
        """The value of a schedule, as the parameter of that name takes it."""
        parameter = getattr(type(self), name, None)
        return parameter.read(scheduler, step) if isinstance(parameter, Scheduled) else scheduler.value(step)

    def _distinct_schedulers(self) -> list[BaseScheduler]:
        return list({id(s): s for s in self.schedulers.values()}.values())

    def _tensor_of_model(self) -> Tensor | None:
        tensors = (t for ts in (self.model.parameters(), self.model.buffers()) for t in ts)
        return next((t for t in tensors if t.is_floating_point()), None)

    def __repr__(self) -> str:
        parameters = "".join(f", {name}={scheduler!r}" for name, scheduler in self.schedulers.items())
        return f"{type(self).__name__}({type(self.model).__name__}{parameters})"
