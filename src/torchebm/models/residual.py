"""Residual energies of images."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchebm.core.checks import integer
from torchebm.core.closed_form import check_points
from torchebm.core.model import BaseModel

from .layers import check_image_shape, maybe_spectral_norm

__all__ = ["ResNetEnergy"]


class ResNetEnergy(BaseModel):
    """An energy of images by a residual network: deeper than `ConvEnergy`, for natural images.

    A 3x3 convolution, `n_blocks` residual blocks of two, the sum over positions, a linear map. A block halves the image
    by averaging while its shorter side is 8 or more. SiLU throughout and no normalisation layer, as the energy of an
    image must not depend on its batch.

    Args:
        image_shape: `(channels, height, width)`, sides of 8 or more; they need not be equal.
        channels: Width of all blocks.
        n_blocks: Number of blocks. The default has 296,129 parameters on images of one channel, 297,281 on three.
        spectral_norm: Whether each layer is divided by its largest singular value, which bounds the slope.

    References: Du & Mordatch (2019), Implicit generation and modeling with EBMs, https://arxiv.org/abs/1903.08689
    Example:
        >>> import torch
        >>> model = ResNetEnergy(image_shape=(3, 32, 32), channels=16)
        >>> model(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5])
    """

    def __init__(self, image_shape: Sequence[int] = (1, 8, 8), channels: int = 64, n_blocks: int = 4,
                 spectral_norm: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.event_shape = check_image_shape(image_shape)
        channels = integer("channels", channels, at_least=1)
        side = min(self.event_shape[1:])
        self.stem = maybe_spectral_norm(nn.Conv2d(self.event_shape[0], channels, 3, padding=1), spectral_norm)
        self.blocks = nn.Sequential()
        for _ in range(integer("n_blocks", n_blocks, at_least=1)):
            self.blocks.append(_Block(channels, halve=side >= 8, spectral_norm=spectral_norm))
            side = -(-side // 2) if side >= 8 else side
        self.head = maybe_spectral_norm(nn.Linear(channels, 1), spectral_norm)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], **model_kwargs: Tensor
    ) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        features = F.silu(self.blocks(self.stem(x))).sum((2, 3))  # [batch, channels]
        return self.head(features).squeeze(-1)


class _Block(nn.Module):
    def __init__(self, channels: int, *, halve: bool, spectral_norm: bool) -> None:
        super().__init__()
        self.first = maybe_spectral_norm(nn.Conv2d(channels, channels, 3, padding=1), spectral_norm)
        self.second = maybe_spectral_norm(nn.Conv2d(channels, channels, 3, padding=1), spectral_norm)
        self.halve = halve

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        x = x + self.second(F.silu(self.first(F.silu(x))))
        return F.avg_pool2d(x, 2, ceil_mode=True) if self.halve else x  # ceil: no pixel of an odd side is dropped
