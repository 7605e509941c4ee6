"""A small convolutional network that ends in vectors, for energies and classifiers of images."""

from collections.abc import Sequence

from torch import nn

from torchebm.core.checks import integer

from .layers import check_image_shape, check_widths, maybe_spectral_norm

__all__ = ["StridedNetwork"]


class StridedNetwork(nn.Sequential):
    """Strided convolutions and two linear maps, with SiLU between them; positions are kept apart to the end.

    Where `ConvEnergy` sums over positions, this network flattens them, so that it knows where in the image something
    is: right for centred digits, wrong for photographs. `EnergyModel` makes an energy of it, `JointEnergyModel` a
    classifier that is one. A first layer of padding 4 brings images of 28 to 16.

    Args:
        image_shape: `(channels, height, width)`, sides of 8 or more.
        channels: Width of each convolution; each halves the image, the first by 5x5, the others by 3x3.
        output_dim: Length of the output vectors. With 1, on 28x28 images, the default has 76,993 parameters.
        spectral_norm: Whether each layer is divided by its largest singular value.

    References: Lippe (2024), Deep energy-based generative models, UvA Deep Learning Tutorials 8,
    https://uvadlc-notebooks.readthedocs.io

    Example:
        >>> import torch
        >>> from torchebm.core import EnergyModel
        >>> EnergyModel(StridedNetwork((1, 28, 28)))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5])
    """

    def __init__(self, image_shape: Sequence[int] = (1, 28, 28), channels: Sequence[int] = (16, 32, 64, 64),
                 output_dim: int = 1, *, spectral_norm: bool = False) -> None:  # fmt: skip
        n_in, *sides = check_image_shape(image_shape)
        widths, output_dim = check_widths("channels", channels), integer("output_dim", output_dim, at_least=1)
        if not widths:
            raise ValueError("channels must name at least one convolution; got none.")
        layers: list[nn.Module] = []
        for k, n_out in enumerate(widths):
            kernel, padding = (5, 4) if k == 0 else (3, 1)
            layers += [nn.Conv2d(n_in, n_out, kernel, stride=2, padding=padding), nn.SiLU()]
            n_in, sides = n_out, [(side + 2 * padding - kernel) // 2 + 1 for side in sides]
        layers += [nn.Flatten(), nn.Linear(n_in * sides[0] * sides[1], n_in), nn.SiLU(), nn.Linear(n_in, output_dim)]
        super().__init__(
            *(maybe_spectral_norm(layer, spectral_norm and isinstance(layer, (nn.Conv2d, nn.Linear)))
              for layer in layers)
        )  # fmt: skip
