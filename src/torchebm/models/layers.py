"""What the image energies share."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrizations

from torchebm.core.checks import integer


def maybe_spectral_norm(layer: nn.Module, wanted: bool) -> nn.Module:
    """The layer, its weight divided by its largest singular value if that is wanted."""
    return parametrizations.spectral_norm(layer) if wanted else layer


def check_widths(name: str, widths: Sequence[int]) -> list[int]:
    """Layer widths, positive whole numbers."""
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise TypeError(f"{name} must be a sequence of widths, such as (64, 64); got {widths!r}.")
    return [integer(f"each of {name}", width, at_least=1) for width in widths]


def check_image_shape(image_shape: Sequence[int]) -> torch.Size:
    """`[channel, height, width]` with sides of at least 8."""
    if not isinstance(image_shape, Sequence) or len(image_shape) != 3:
        raise ValueError(f"image_shape must be (channels, height, width), such as (1, 28, 28); got {image_shape!r}.")
    image_shape = torch.Size(integer("each of image_shape", size, at_least=1) for size in image_shape)
    if min(image_shape[1:]) < 8:
        raise ValueError(f"image_shape must be at least 8 high and wide; got {tuple(image_shape)}. For smaller images "
                         "use MLPEnergy on flattened ones.")  # fmt: skip
    return image_shape
