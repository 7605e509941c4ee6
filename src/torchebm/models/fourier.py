"""Energies of a few coordinates, by a network that sees waves of many lengths."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.closed_form import check_points
from torchebm.core.model import BaseModel
from torchebm.core.random import randn, uniform

from .mlp import MLP

__all__ = ["FourierEnergy"]


class FourierEnergy(BaseModel):
    r"""A fully connected network of sines and cosines: for densities with fine structure, in few dimensions.

    $E(x) = f(x, \sin Wx, \cos Wx)$ with a network f and fixed frequencies W. A plain network learns what is smooth
    first and what is fine hardly ever; one that sees waves learns both. The rows of W point in random directions;
    their lengths are spread evenly, on a logarithmic scale, over the range of frequencies.

    Args:
        input_dim: Length of the vectors.
        hidden_dims: Width of each hidden layer. The default on 2-D data has 33,409 parameters.
        n_frequencies: Rows of W.
        frequencies: The lowest and the highest, in radians per unit of x: about one over the width of the data, and one
            over some widths of its finest structure. Higher ones than needed fit the noise in the data.

    Note:
        Far from all data the waves go on, so the energy does not fall off there by itself: add a base that confines,
        such as `HarmonicModel`, and train with chains that visit its tails.

    References: Rahimi & Recht (2007), https://papers.nips.cc/paper/3182; Tancik et al. (2020),
    https://arxiv.org/abs/2006.10739

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> model = FourierEnergy(input_dim=2, frequencies=(1.0, 10.0)) + HarmonicModel()
        >>> model(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    directions: Tensor
    """$W^\\top$, `[input_dim, n_frequencies]`; saved with the weights."""

    def __init__(self, input_dim: int, hidden_dims: Sequence[int] = (128, 128), n_frequencies: int = 64,
                 frequencies: tuple[float, float] = (1.0, 10.0)) -> None:  # fmt: skip
        super().__init__()
        d, n = integer("input_dim", input_dim, at_least=1), integer("n_frequencies", n_frequencies, at_least=1)
        low, high = _check_range(frequencies)
        self.event_shape = torch.Size([d])
        lengths = torch.exp(math.log(low) + math.log(high / low) * uniform((n,)))
        directions = randn((d, n))
        self.register_buffer("directions", lengths * directions / directions.norm(dim=0))
        self.network = MLP(d + 2 * n, hidden_dims)

    def forward(self, x: Float[Tensor, "batch input_dim"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        phase = x @ self.directions  # [batch, n_frequencies]
        return self.network(torch.cat([x, phase.sin(), phase.cos()], 1)).squeeze(-1)


def _check_range(frequencies: object) -> tuple[float, float]:
    if not isinstance(frequencies, (tuple, list)) or len(frequencies) != 2:
        raise TypeError(f"frequencies must be (lowest, highest), such as (1.0, 10.0); got {frequencies!r}.")
    low, high = (number("each of frequencies", value, above=0.0) for value in frequencies)
    if low > high:
        raise ValueError(f"frequencies must be (lowest, highest); got {tuple(frequencies)}.")
    return low, high
