"""What the published recipes share: the box that images are scaled to, and chains that begin in it."""

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions.transforms import AffineTransform

from torchebm.core import BaseModel, StandardizedModel, TransformedModel
from torchebm.core.random import randn, uniform
from torchebm.datasets import Data
from torchebm.losses import ReplayBuffer

__all__ = ["Columns", "NoiseBuffer", "Start", "box_of", "columns_of", "in_data_units", "in_model_units", "unit_of"]

Start = Literal["uniform", "gaussian"]
Columns = tuple[tuple[float, float], ...]


class NoiseBuffer(ReplayBuffer):
    """Persistent chains that begin in noise which knows nothing of the data, as published recipes have it.

    Args:
        size: Slots.
        start: `"uniform"` on the box, or standard `"gaussian"`, in the units of the model.
        box: Lowest and highest value.
    """

    def __init__(self, size: int, start: Start, box: tuple[float, float]) -> None:
        super().__init__(size, start)
        self.box = box

    def begin(
        self, n: int, like: Float[Tensor, " batch *event"], *, generator: torch.Generator | None = None
    ) -> Tensor:
        shape, options = (n, *like.shape[1:]), {"dtype": like.dtype, "device": like.device}
        if self.fresh == "gaussian":
            return randn(shape, generator=generator, **options)
        low, high = self.box
        return low + (high - low) * uniform(shape, generator=generator, **options)


def box_of(data: Data) -> tuple[float, float]:
    """The lowest and the highest value that a pixel can take, or takes where nobody knows."""
    low, high = data.bounds or (float(data.x.min()), float(data.x.max()))
    return low, high


def columns_of(data: Data) -> Columns:
    """Mean and standard deviation of every column; a constant column keeps its unit."""
    spread = data.x.std(0)
    return tuple(zip(data.x.mean(0).tolist(), torch.where(spread > 0, spread, 1.0).tolist(), strict=True))


def in_data_units(
    inner: BaseModel, pixels: tuple[float, float] | None, columns: Columns | None, box: tuple[float, float]
) -> BaseModel:
    """A model of scaled values as one of the data's own: images by their box, columns by mean and deviation.

    Args:
        inner: The energy of scaled values.
        pixels: Black and white in the data; `None` for columns.
        columns: Mean and deviation of each; `None` for images.
        box: What black and white are in the model.
    """
    if columns is not None:
        mean, spread = torch.tensor(columns).T
        return StandardizedModel(inner, mean, spread.diag())
    low, high = pixels or box
    scale = (high - low) / (box[1] - box[0])
    return TransformedModel(inner, AffineTransform(low - scale * box[0], scale))


def in_model_units(model: BaseModel, x: Float[Tensor, " n *event"]) -> Float[Tensor, " n *event"]:
    """Data as the model within sees them."""
    transform = model.coordinates()[1]
    return x if transform is None else cast(Tensor, transform.inv(x))


def unit_of(
    x: Float[Tensor, " n *event"],
    pixels: tuple[float, float] | None,
    columns: Columns | None,
    box: tuple[float, float],
) -> Float[Tensor, "*event"]:
    """What one unit of the model is in the data, for each component."""
    if columns is not None:
        return torch.tensor(columns, dtype=x.dtype, device=x.device)[:, 1]
    low, high = pixels or box
    return torch.full_like(x[0], (high - low) / (box[1] - box[0]))
