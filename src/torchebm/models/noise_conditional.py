"""Energies at a sequence of noise levels, by one network that is told the level."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchebm.core.checks import integer
from torchebm.core.closed_form import check_points
from torchebm.core.model import BaseModel

from .layers import check_image_shape, check_widths, maybe_spectral_norm

__all__ = ["NoiseConditionalEnergy"]


class NoiseConditionalEnergy(BaseModel):
    """An energy for each of a sequence of noise levels, of images or of vectors; what recovery likelihood trains.

    Images pass through residual blocks of 3x3 convolutions, halved while their shorter side is 8 or more; vectors
    through residual blocks of linear layers. Every block is shifted by what it has learned about the level. SiLU
    throughout, no normalisation over the batch; all positions are summed at the end.

    Args:
        event_shape: `(channels, height, width)` with sides of 8 or more, or `(length,)`.
        n_levels: Noise levels.
        widths: Width of each block.
        spectral_norm: Whether each layer is divided by its largest singular value, which bounds the slope.

    Example:
        >>> model = NoiseConditionalEnergy((1, 8, 8), n_levels=6, widths=(16, 16))
        >>> model(torch.zeros(5, 1, 8, 8), level=torch.tensor([0, 1, 2, 5, 5])).shape
        torch.Size([5])
    """

    def __init__(self, event_shape: Sequence[int], n_levels: int, widths: Sequence[int] = (64, 64, 64, 64),
                 spectral_norm: bool = False) -> None:  # fmt: skip
        super().__init__()
        if len(event_shape) == 3:
            self.event_shape = check_image_shape(event_shape)
        elif len(event_shape) == 1:
            self.event_shape = torch.Size([integer("the length of event_shape", event_shape[0], at_least=1)])
        else:
            raise ValueError(f"event_shape must be (channels, height, width) or (length,); got {tuple(event_shape)}.")
        self.n_levels, widths = integer("n_levels", n_levels, at_least=1), check_widths("widths", widths)
        if not widths:
            raise ValueError("widths must name at least one block; got none.")
        side = min(self.event_shape[1:], default=0)
        self.stem = _layer(self.event_shape, self.event_shape[0], widths[0], spectral_norm)
        self.blocks = nn.ModuleList()
        for n_in, n_out in pairwise([widths[0], *widths]):
            self.blocks.append(
                _Block(self.event_shape, n_in, n_out, self.n_levels, halve=side >= 8, spectral_norm=spectral_norm)
            )
            side = -(-side // 2) if side >= 8 else side
        self.head = maybe_spectral_norm(nn.Linear(widths[-1], 1), spectral_norm)

    def forward(
        self, x: Float[Tensor, " batch *event"], level: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        """Energies at the level of each point; at level 0, of hardly any noise, if it is left out."""
        check_points(x, self.event_shape)
        if level is None:
            level = torch.zeros(len(x), dtype=torch.long, device=x.device)
        elif level.shape != x.shape[:1]:
            raise ValueError(f"level has shape {list(level.shape)}; expected {list(x.shape[:1])}, one a point.")
        features = self.stem(x)
        for block in self.blocks:
            features = block(features, level)
        features = F.silu(features)
        return self.head(features if features.ndim == 2 else features.sum((2, 3))).squeeze(-1)


class _Block(nn.Module):
    def __init__(self, event: Sequence[int], n_in: int, n_out: int, n_levels: int, *, halve: bool,
                 spectral_norm: bool) -> None:  # fmt: skip
        super().__init__()
        self.first = _layer(event, n_in, n_out, spectral_norm)
        self.second = _layer(event, n_out, n_out, spectral_norm)
        self.shift = nn.Embedding(n_levels, n_out)
        self.skip = nn.Identity() if n_in == n_out else _layer(event, n_in, n_out, spectral_norm)
        self.halve = halve

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        shift = self.shift(level)  # [batch, width]
        y = self.first(F.silu(x)) + shift.view(*shift.shape, *[1] * (x.ndim - 2))
        x = self.skip(x) + self.second(F.silu(y))
        return F.avg_pool2d(x, 2, ceil_mode=True) if self.halve else x


def _layer(event: Sequence[int], n_in: int, n_out: int, spectral_norm: bool) -> nn.Module:
    """A 3x3 convolution for images, a linear map for vectors."""
    layer = nn.Conv2d(n_in, n_out, 3, padding=1) if len(event) == 3 else nn.Linear(n_in, n_out)
    return maybe_spectral_norm(layer, spectral_norm)
