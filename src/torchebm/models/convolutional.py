"""Convolutional energies of images."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from torchebm.core.closed_form import check_points
from torchebm.core.model import BaseModel

from .layers import check_image_shape, check_widths, maybe_spectral_norm

__all__ = ["ConvEnergy"]


class ConvEnergy(BaseModel):
    """An energy of small images by a plain convolutional network: fast, and enough for digits.

    A 3x3 convolution, then one 4x4 convolution of stride 2 for every further entry of `channels`, and more of the last
    width until the shorter side is below 8; a 3x3 convolution, the sum over positions, a linear map. SiLU follows each
    convolution. There is no normalisation layer, as the energy of an image must not depend on its batch.

    Args:
        image_shape: `(channels, height, width)`, sides of 8 or more; they need not be equal.
        channels: Width of each stage. The default has 312,065 parameters on 8x8 and 28x28 images of one channel, and
            574,913 on 32x32 images of three.
        spectral_norm: Whether each layer is divided by its largest singular value, which bounds the slope.

    Example:
        >>> import torch
        >>> model = ConvEnergy(image_shape=(1, 28, 28))
        >>> model(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5])
    """

    def __init__(self, image_shape: Sequence[int] = (1, 8, 8), channels: Sequence[int] = (32, 64, 128),
                 spectral_norm: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.event_shape = check_image_shape(image_shape)
        widths = check_widths("channels", channels)
        side = min(self.event_shape[1:])
        if not 1 <= len(widths) <= side.bit_length():
            raise ValueError(f"channels must name 1 to {side.bit_length()} stages, as each but the first halves an "
                             f"image whose shorter side is {side}; got {len(widths)}.")  # fmt: skip
        side >>= len(widths) - 1
        while side >= 8:
            widths, side = [*widths, widths[-1]], side // 2
        layers: list[nn.Module] = [nn.Conv2d(self.event_shape[0], widths[0], 3, padding=1), nn.SiLU()]
        for n_in, n_out in pairwise(widths):
            # 4x4 for stride 2, so that every pixel is seen equally often and the gradient has no checkerboard
            layers += [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1), nn.SiLU()]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.SiLU()]
        self.features = nn.Sequential(*(maybe_spectral_norm(layer, spectral_norm and isinstance(layer, nn.Conv2d))
                                        for layer in layers))  # fmt: skip
        self.head = maybe_spectral_norm(nn.Linear(widths[-1], 1), spectral_norm)

    def forward(
        self, x: Float[Tensor, "batch channel height width"], **model_kwargs: Tensor
    ) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        features = self.features(x).sum((2, 3))  # [batch, width]
        return self.head(features).squeeze(-1)
