"""The exponential moving average of a model's weights."""

from copy import deepcopy

import torch
from torch import nn

from torchebm.core.checks import number
from torchebm.core.model import BaseModel

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    r"""Averages weights over training: smoother than any one of them.

    $\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta$

    The decay rises to its value as $(1 + n) / (10 + n)$ with the number of updates n, so that the average does not
    remember the initial weights. Floating buffers are averaged too, others copied.

    Args:
        model: Whose weights to average.
        decay: $d$, in [0, 1); the average reaches back about 1 / (1 - d) updates.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> average = ExponentialMovingAverage(model, decay=0.999)
        >>> average.update(model)
        >>> average.model(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """

    def __init__(self, model: BaseModel, decay: float) -> None:
        self.decay = number("ema_decay", decay, at_least=0.0)
        if self.decay >= 1.0:
            raise ValueError(f"ema_decay must be below 1; got {decay:g}: the average would never move.")
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.n_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the model."""
        weight = 1 - min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        ours, theirs = self.model.state_dict(), model.state_dict()
        floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in floating], [theirs[name] for name in floating], weight)
        for name in ours.keys() - set(floating):
            ours[name].copy_(theirs[name])
        self.n_updates += 1
