"""A sampler's step size while a model trains: scaled, and steered to a target."""

import math
from typing import Any

from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.sampler import BaseSampler
from torchebm.core.schedulers import BaseScheduler, ConstantScheduler

__all__ = ["StepSizeControl", "StepSizeScale"]

_LARGEST_CHANGE = math.log(2.0)  # of the logarithm of the step size, at once


class StepSizeControl:
    r"""Keeps a sampler's step size right while the energy that it walks on changes: given to the `Trainer`.

    After every few updates $\log h \leftarrow \log h + g\,(a - a^*)$ with acceptance rate a and its target, or
    $\log h \leftarrow \log h + g \log(d^* / d)$ with the distance d that chains move in an update. No change exceeds a
    factor of 2. A schedule of the step size keeps its course, and is multiplied as a whole.

    Args:
        target_acceptance: $a^*$, for samplers with an accept test.
        target_displacement: $d^*$, root mean square over components of the way from a chain's start to its end in an
            update, in units of the data: the figure `displacement`. For samplers without an accept test.
        gain: $g$.
        every: Updates between changes.

    Note:
        A step size that follows the chains no longer leaves the density exactly invariant; the effect vanishes as the
        changes do. A displacement in the chains' stationary state is bounded by the width of the density, so a target
        near it grows the step without end; keep the target well below.

    Example:
        >>> import torch
        >>> from torchebm.core import HarmonicModel
        >>> from torchebm.losses import ContrastiveDivergence
        >>> from torchebm.models import MLPEnergy
        >>> from torchebm.samplers import HamiltonianMonteCarlo
        >>> from torchebm.training import Trainer
        >>> model = MLPEnergy(2, [16]) + HarmonicModel()
        >>> sampler = HamiltonianMonteCarlo(model, step_size=5.0, n_leapfrog_steps=3)
        >>> loss_fn = ContrastiveDivergence(model, sampler, k_steps=1, persistent=True, buffer_size=64)
        >>> trainer = Trainer(loss_fn, step_size_control=StepSizeControl(0.8, every=2))
        >>> trained = trainer.fit(torch.randn(500, 2), n_steps=50, batch_size=64, progress=False)
        >>> 0.3 < sampler.step_size < 2.5
        True
    """

    def __init__(self, target_acceptance: float | None = None, *, target_displacement: float | None = None,
                 gain: float = 1.0, every: int = 10) -> None:  # fmt: skip
        if (target_acceptance is None) == (target_displacement is None):
            raise ValueError(
                "give target_acceptance, for samplers that reject, or target_displacement, for others: one of them."
            )
        if target_acceptance is not None:
            target_acceptance = number("target_acceptance", target_acceptance, above=0.0)
            if target_acceptance >= 1.0:
                raise ValueError(f"target_acceptance must be less than 1; got {target_acceptance:g}.")
        if target_displacement is not None:
            target_displacement = number("target_displacement", target_displacement, above=0.0)
        self.target_acceptance, self.target_displacement = target_acceptance, target_displacement
        self.gain = number("gain", gain, above=0.0)
        self.every = integer("every", every, at_least=1)
        self.log_factor = 0.0
        self._total: float | Tensor = 0.0
        self._n = 0

    @property
    def figure(self) -> str:
        """The metric that is steered."""
        return "displacement" if self.target_acceptance is None else "acceptance_rate"

    def check(self, sampler: Any) -> None:
        """Refuses a sampler that it cannot steer."""
        if not isinstance(sampler, BaseSampler) or "step_size" not in sampler.schedulers:
            raise ValueError(
                "step_size_control needs a loss whose sampler has a step_size; got "
                + ("a loss without a sampler." if sampler is None else f"{type(sampler).__name__}.")
            )
        if self.target_acceptance is not None and not getattr(sampler, "can_reject", False):
            raise ValueError(f"{type(sampler).__name__} has no accept test: give target_displacement instead.")

    def update(self, metrics: dict[str, Tensor]) -> bool:
        """Takes the figures of one update; true if the factor changed, which is when the host reads them."""
        if self.figure not in metrics:
            raise ValueError(f"step_size_control needs the figure {self.figure!r}, which the loss does not tell.")
        self._total, self._n = self._total + metrics[self.figure], self._n + 1
        if self._n < self.every:
            return False
        mean, self._total, self._n = float(self._total) / self._n, 0.0, 0
        if not math.isfinite(mean):  # a matter for the guards: no step size mends it
            return False
        if self.target_displacement is not None:
            error = math.log(self.target_displacement / mean) if mean > 0 else _LARGEST_CHANGE / self.gain
        else:
            error = mean - float(self.target_acceptance or 0.0)
        change = max(-_LARGEST_CHANGE, min(_LARGEST_CHANGE, self.gain * error))
        self.log_factor += change
        return change != 0.0

    def state_dict(self) -> dict[str, float | int]:
        """The factor reached, and what was collected since."""
        return {"log_factor": self.log_factor, "total": float(self._total), "n": self._n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it from `state_dict()`."""
        self.log_factor, self._total, self._n = state["log_factor"], state["total"], state["n"]


class StepSizeScale:
    """A factor on the step size that a sampler was given.

    Args:
        sampler: Whose; one without a step size is left alone.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.given: BaseScheduler | None = getattr(sampler, "schedulers", {}).get("step_size")
        self.factor = 1.0

    def set(self, factor: float) -> None:
        """Scales the step size as it was given, whatever the factor was before."""
        if self.given is None or factor == self.factor:
            return
        self.factor = factor
        if isinstance(self.given, ConstantScheduler):
            scaled: BaseScheduler = ConstantScheduler(self.given.start_value * factor)
        else:
            scaled = self.given if factor == 1.0 else Scaled(self.given, factor)
        scaled.step_count = self.sampler.schedulers["step_size"].step_count
        self.sampler.register_scheduler("step_size", scaled)


class Scaled(BaseScheduler):
    """Another schedule, multiplied."""

    def __init__(self, schedule: BaseScheduler, factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def value(self, step: int) -> float:
        return self.factor * self.schedule.value(step)

    def __repr__(self) -> str:
        return f"{self.factor:g} * {self.schedule!r}"
