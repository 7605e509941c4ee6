"""Losses: what training minimises."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .model import BaseModel, as_model
from .sampler import BaseSampler

__all__ = ["BaseLoss", "LossOutput"]


class LossOutput(NamedTuple):
    """What one evaluation of a loss yields."""

    loss: Float[Tensor, ""]
    """The scalar to differentiate."""
    metrics: dict[str, Float[Tensor, ""]]
    """Detached figures by name; reading them is left to whoever wants them."""
    negatives: Float[Tensor, " n *event"] | None = None
    """The model's samples that were used, for contrastive losses."""


class BaseLoss(nn.Module, ABC):
    """A loss over batches of data. Subclasses write `evaluate`; calling the loss unpacks what it returns.

    The model and the sampler are referred to, not registered: `state_dict()` holds what the loss owns, such as a replay
    buffer, and never a copy of the model.

    Args:
        model: The energy to train; a network or a function is wrapped in `EnergyModel`.
        sampler: Draws negatives, in losses that need them.
    """

    def __init__(self, model: BaseModel, sampler: BaseSampler | None = None) -> None:
        super().__init__()
        self._others = (as_model(model), sampler)  # a tuple registers nothing

    @property
    def model(self) -> BaseModel:
        """The energy that is trained."""
        return self._others[0]

    @property
    def sampler(self) -> Any:
        """The sampler that draws negatives, if there is one."""
        return self._others[1]

    @abstractmethod
    def evaluate(
        self, batch: Float[Tensor, " batch *event"], *, generator: torch.Generator | None = None
    ) -> LossOutput:
        """The loss of a batch, with its figures. Changes nothing that `commit` has not been called for."""

    def commit(self) -> None:
        """Makes what the last `evaluate` did lasting (a replay buffer's new chains): called after a finite update."""

    def survey(
        self, batch: Float[Tensor, " batch *event"], noise: Float[Tensor, " batch *event"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Figures that are too dear for every update: asked for once a line of metrics, and detached.

        Draws nothing and changes nothing.

        Args:
            batch: The last batch.
            noise: As many points, uniform in the data's box.
        """
        return {}

    def forward(self, batch: Float[Tensor, " batch *event"], *, generator: torch.Generator | None = None) -> Any:
        """`evaluate` and, in training mode, `commit`; returns `(loss, negatives)`, or the loss where there are none."""
        output = self.evaluate(batch, generator=generator)
        if self.training:
            self.commit()
        return output.loss if output.negatives is None else (output.loss, output.negatives)

    def check_batch(self, batch: Tensor) -> None:
        """Refuses what is not a batch of points."""
        if not isinstance(batch, Tensor):
            raise TypeError(f"a batch must be a tensor [batch, *event]; got {type(batch).__name__}.")
        if batch.ndim == 0 or len(batch) == 0:
            raise ValueError(f"a batch must hold at least one point; got shape {list(batch.shape)}.")
