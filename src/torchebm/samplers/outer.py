"""What samplers share that do something of their own around the transitions of another."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.schedulers import BaseScheduler

from .hmc import HamiltonianMonteCarlo

__all__ = ["OuterSampler"]


class OuterSampler(MarkovSampler):
    """A sampler around another: it has the model, the place and the scheduled parameters of the inner one.

    Args:
        model: The energy, or the inner sampler.
        inner: The class of the inner sampler, where `model` is an energy; `HamiltonianMonteCarlo` if left out.
        **options: For the inner sampler, where it is made here.
    """

    def __init__(self, model: MarkovSampler | BaseModel | Callable[..., Tensor],
                 inner: type[MarkovSampler] | None = None, **options: Any) -> None:  # fmt: skip
        if isinstance(model, MarkovSampler):
            given = [*options, *([] if inner is None else ["inner"])]
            if given:
                raise TypeError(f"{type(model).__name__} is a sampler already: leave {', '.join(given)} out.")
            moves = model
        else:
            inner = HamiltonianMonteCarlo if inner is None else inner
            if not (isinstance(inner, type) and issubclass(inner, MarkovSampler)):
                raise TypeError(f"inner must be a class of samplers, such as HamiltonianMonteCarlo; got {inner!r}.")
            moves = inner(model, **options)
        super().__init__(moves.model, dtype=moves._dtype, device=moves._device, precision=moves.precision)
        self.inner = moves
        self.can_reject, self.needs_gradient = moves.can_reject, moves.needs_gradient
        self.divergence_advice = moves.divergence_advice
        self.steps_per_block = None if moves.steps_per_block is None else 1
        if moves.compiled is not None:  # its steps are part of this one's
            self.compile(**moves.compiled.function.options)

    @property
    def schedulers(self) -> dict[str, BaseScheduler]:
        """Those of the inner sampler."""
        return self.inner.schedulers

    def register_scheduler(self, name: str, scheduler: float | BaseScheduler | Callable[[int], float]) -> None:
        if name not in self.schedulers:
            raise ValueError(f"{type(self.inner).__name__} has no {name}; it has {', '.join(self.schedulers)}.")
        self.inner.register_scheduler(name, scheduler)

    def _read(self, name: str, scheduler: BaseScheduler, step: int) -> float:
        return self.inner._read(name, scheduler, step)
