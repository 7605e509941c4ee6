"""Wide residual networks without normalisation, for energies and classifiers of natural images."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchebm.core.checks import integer, number
from torchebm.core.closed_form import check_points

from .layers import check_image_shape, check_widths

__all__ = ["WideResidualNetwork"]


class WideResidualNetwork(nn.Module):
    """Three groups of residual blocks, the last two of which halve the image; the mean over positions, a linear map.

    A joint energy model of natural images is made of it, on an accelerator. There is no normalisation layer, as the
    energy of an image must not depend on its batch. `EnergyModel` makes an energy of it, `JointEnergyModel` a
    classifier that is one.

    Args:
        image_shape: `(channels, height, width)`, sides of 8 or more.
        channels: Width of each group. The default, with 4 blocks, is the network known as WRN-28-10.
        n_blocks: Blocks of two convolutions in each group.
        output_dim: Length of the output vectors. With 10, the default has 36,471,338 parameters.
        leak: Slope of the rectifiers below zero.

    References: Zagoruyko & Komodakis (2016), https://arxiv.org/abs/1605.07146; without normalisation in Grathwohl et
    al. (2020), https://arxiv.org/abs/1912.03263

    Example:
        >>> import torch
        >>> network = WideResidualNetwork((3, 32, 32), channels=(8, 16, 16), n_blocks=1, output_dim=10)
        >>> network(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """

    def __init__(self, image_shape: Sequence[int] = (3, 32, 32), channels: Sequence[int] = (160, 320, 640),
                 n_blocks: int = 4, output_dim: int = 10, leak: float = 0.2) -> None:  # fmt: skip
        super().__init__()
        self.event_shape = check_image_shape(image_shape)
        widths, n_blocks = check_widths("channels", channels), integer("n_blocks", n_blocks, at_least=1)
        if not widths:
            raise ValueError("channels must name at least one group; got none.")
        self.leak = number("leak", leak, at_least=0.0)
        self.stem = nn.Conv2d(self.event_shape[0], 16, 3, padding=1)
        self.blocks, n_in = nn.ModuleList(), 16
        for group, n_out in enumerate(widths):
            for k in range(n_blocks):
                self.blocks.append(_WideBlock(n_in, n_out, 2 if group and k == 0 else 1, self.leak))
                n_in = n_out
        self.head = nn.Linear(n_in, integer("output_dim", output_dim, at_least=1))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch output_dim"]:
        check_points(x, self.event_shape)
        features = self.stem(x)
        for block in self.blocks:
            features = block(features)
        return self.head(F.leaky_relu(features, self.leak).mean((2, 3)))


class _WideBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, leak: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.second = nn.Conv2d(n_out, n_out, 3, stride=stride, padding=1)
        self.skip = nn.Identity() if n_in == n_out and stride == 1 else nn.Conv2d(n_in, n_out, 1, stride=stride)
        self.leak = leak

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Tensor:
        y = self.second(F.leaky_relu(self.first(F.leaky_relu(x, self.leak)), self.leak))
        return y + self.skip(x)
