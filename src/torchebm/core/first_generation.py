"""The earlier spelling of the API: `EnergyFunction`, `energy_function=`, `sample_chain`, `k`, `(model, data)`.

Samplers and losses inherit a mixin each, which translates arguments where a class is constructed and offers the earlier
methods; the classes that have no later twin are in `first_generation_classes.py`. Nothing else in the library knows
about it. Where the two generations disagree, the docs say which one holds: `docs/two-generations.md`.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from .energies import check_energies
from .model import BaseModel, as_model, evaluating
from .schedulers import ConstantScheduler
from .target import Target

__all__ = ["FirstGenerationContrastiveDivergence", "FirstGenerationSampling"]

_LATER_NAMES = {"energy_function": "model", "mass_matrix": "mass", "k": "k_steps"}


class FirstGenerationSampling:
    """What samplers know of the earlier API: `energy_function=`, `mass_matrix=`, `sample_chain`, `sample_step`."""

    model: BaseModel  # these come from the classes that this is mixed into
    precision: str | None
    schedulers: Any
    sample: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _translating(cls.__init__)
        if "sample_step" in cls.__dict__ and hasattr(cls, "step"):
            for name in ("init", "refresh", "noise", "draw", "step"):
                setattr(cls, name, getattr(_OverriddenStep, name))
            cls.needs_gradient = False  # what the author's step needs, it asks the model for
            cls.can_reject = False  # nor does it tell what was rejected

    @property
    def energy_function(self) -> BaseModel:
        """The model."""
        return self.model

    @energy_function.setter
    def energy_function(self, energy_function: BaseModel) -> None:
        self.model = as_model(energy_function)

    def sample_chain(self, dim: int | tuple[int, ...] | None = None, n_steps: int = 100, n_samples: int = 1,
                     initial_samples: Float[Tensor, " chain *event"] | None = None, return_trajectory: bool = False,
                     **options: Any) -> Any:  # fmt: skip
        """`sample`, with what it returned in the first generation.

        Args:
            dim: Event shape; from `initial_samples` or the model if left out.
            n_steps: Transitions.
            n_samples: Chains, if no initial samples are given.
            initial_samples: Starting points.
            return_trajectory: Return `(samples, trajectory)`, the trajectory `[n_steps + 1, chain, *event]` with the
                starting points first.
            **options: Passed to `sample`.
        """
        if initial_samples is None:
            same = {name: options[name] for name in ("generator", "reset_schedulers") if name in options}
            initial_samples = self.sample(dim=dim, n_steps=0, n_samples=n_samples, **same)
        if not return_trajectory:
            return self.sample(x=initial_samples, dim=dim, n_steps=n_steps, **options)
        drawn = self.sample(x=initial_samples, dim=dim, n_steps=n_steps, return_trajectory=True, **options)
        later, *rest = drawn if isinstance(drawn, tuple) else (drawn,)
        first = initial_samples.to(later).unsqueeze(1)
        trajectory = torch.cat([first, later], 1).transpose(0, 1)  # [n_steps + 1, chain, *event]
        return trajectory[-1].clone(), trajectory, *rest

    @torch.no_grad()
    def sample_step(self, x: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        """One transition at the parameters in force. A subclass that overrides it has it run by `sample`."""
        own = _OverriddenStep.step
        kernel = next((cls for cls in type(self).__mro__ if cls.__dict__.get("step", own) is not own), None)
        if kernel is None:
            raise NotImplementedError(f"{type(self).__name__} has no transition of its own: define sample_step(x).")
        target = Target(self.model, precision=self.precision)
        with evaluating(self.model):
            state = kernel.init(self, x, target, None)
            noise = tuple(buffer[0] for buffer in kernel.noise(self, state.x, 1))
            kernel.draw(self, noise, None)
            parameters = {name: scheduler.get_value() for name, scheduler in self.schedulers.items()}
            return kernel.step(self, state, noise, target, **parameters)[0].x


class _Position(NamedTuple):
    x: Tensor


class _Flag(NamedTuple):
    diverging: Tensor


class _OverriddenStep:
    """The kernel of a sampler whose author overrode `sample_step(x)`, which draws for itself."""

    schedulers: Any
    sample_step: Callable[[Tensor], Tensor]

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> _Position:
        if target.model_kwargs:
            raise ValueError(
                f"{type(self).__name__}.sample_step evaluates the model itself, without model_kwargs: leave them out."
            )
        return _Position(x)

    def refresh(self, state: _Position, target: Target) -> _Position:
        return state

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        return ()

    def draw(self, out: tuple[Tensor, ...], generator: torch.Generator | None) -> None:
        if generator is not None:
            raise ValueError(
                f"{type(self).__name__}.sample_step draws for itself and takes no generator: leave it out."
            )

    def step(self, state: _Position, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             **parameters: float) -> tuple[_Position, _Flag]:  # fmt: skip
        if isinstance(temperature, Tensor) or temperature != 1.0:
            raise ValueError(
                f"{type(self).__name__}.sample_step knows no temperature: sample model.tempered(T) instead."
            )
        schedules = dict(self.schedulers)
        try:  # sample_step reads the numbers in force from the sampler
            self.schedulers.update({name: ConstantScheduler(value) for name, value in parameters.items()})
            x = self.sample_step(state.x.clone()).detach()
        finally:
            self.schedulers.update(schedules)
        return _Position(x), _Flag(~x.isfinite().reshape(len(x), -1).all(1))


class FirstGenerationContrastiveDivergence:
    """What the loss knows of the earlier API: `k=` and, where no model was given, `batch_size=` and `(model, data)`."""

    sampler: Any  # these come from the class that this is mixed into
    k_steps: int
    check_batch: Callable[[Tensor], None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _without_model(_translating(cls.__init__))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`loss(batch)`; `loss(model, data)`, the scalar, if the loss was constructed without a model."""
        if not self.__dict__.get("_takes_model", False):
            return cast(Any, super()).forward(*args, **kwargs)
        if len(args) != 2:
            raise TypeError(f"this loss was made without a model, so it is called with (model, data); got {len(args)} "
                            "arguments. For loss(batch), make it with model=.")  # fmt: skip
        model, data = args
        self.check_batch(data)
        self.sampler.energy_function = model
        n_samples = self.__dict__["_batch_size"] or len(data)
        samples = self.sampler.sample_chain(
            dim=tuple(data.shape[1:]), n_steps=self.k_steps, n_samples=n_samples, **kwargs
        )
        energy_data, energy_samples = self.sampler.model(data), self.sampler.model(samples)
        check_energies(data=energy_data, negatives=energy_samples)
        return energy_data.mean() - energy_samples.mean()


def _without_model(init: Callable[..., None]) -> Callable[..., None]:
    """`__init__` that may be called without a model: it comes with each batch then."""
    if not {"model", "sampler"} <= set(inspect.signature(init).parameters):
        return init  # a subclass that says otherwise where its model comes from

    @wraps(init)
    def constructed(self: Any, *args: Any, **kwargs: Any) -> None:
        takes_model = not args and "sampler" in kwargs and not {"model", "energy_function"} & set(kwargs)
        batch_size = None
        if takes_model:
            batch_size = kwargs.pop("batch_size", None)
            if later := set(kwargs) - {"sampler", "k", "k_steps"}:
                raise TypeError(f"model is missing; only with it can {', '.join(sorted(later))} be given.")
            kwargs["model"] = kwargs["sampler"].model
        init(self, *args, **kwargs)
        self.__dict__["_takes_model"], self.__dict__["_batch_size"] = takes_model, batch_size

    return constructed


def _translating(init: Callable[..., None]) -> Callable[..., None]:
    """`__init__` that takes the earlier names as well, with its own signature still on show."""
    own_names = set(inspect.signature(init).parameters)
    if own_names & set(_LATER_NAMES):
        return init  # written in the earlier spelling

    @wraps(init)
    def translated(self: Any, *args: Any, **kwargs: Any) -> None:
        for earlier, later in _LATER_NAMES.items():
            if earlier in kwargs:
                if later in kwargs:
                    raise TypeError(f"{earlier} and {later} are two names of one argument; give one of them.")
                if earlier == "energy_function" and kwargs.get("noise_scale", 1.0) != 1.0:
                    warnings.warn(
                        "noise_scale multiplies the noise sqrt(2 * step_size) now, so it is the square root of the "
                        "temperature; in the first generation it was the temperature itself.",
                        stacklevel=2,
                    )
                kwargs[later] = kwargs.pop(earlier)
        init(self, *args, **kwargs)

    return translated
