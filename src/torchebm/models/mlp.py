"""Fully connected networks, and energies of vectors made of them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchebm.core.checks import integer
from torchebm.core.closed_form import check_points
from torchebm.core.model import BaseModel

from .layers import check_widths, maybe_spectral_norm

__all__ = ["MLP", "MLPEnergy"]


class MLP(nn.Sequential):
    """A plain network, to be made a model by `EnergyModel`: linear layers with SiLU between them.

    Args:
        input_dim: Length of the input vectors.
        hidden_dims: Width of each hidden layer; none for a linear map.
        output_dim: Length of the output vectors.
        spectral_norm: Whether each layer is divided by its largest singular value.

    Example:
        >>> import torch
        >>> from torchebm.core import EnergyModel
        >>> EnergyModel(MLP(input_dim=2, hidden_dims=[32, 32], output_dim=1))(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, input_dim: int, hidden_dims: Sequence[int] = (128, 128), output_dim: int = 1, *,
                 spectral_norm: bool = False) -> None:  # fmt: skip
        n_in, n_out = integer("input_dim", input_dim, at_least=1), integer("output_dim", output_dim, at_least=1)
        widths = [n_in, *check_widths("hidden_dims", hidden_dims), n_out]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [maybe_spectral_norm(nn.Linear(n_in, n_out), spectral_norm), nn.SiLU()]
        super().__init__(*layers[:-1])


class MLPEnergy(BaseModel):
    """An energy of vectors by a fully connected network: the first choice for data without spatial structure.

    Args:
        input_dim: Length of the vectors.
        hidden_dims: Width of each hidden layer. The default on 2-D data has 17,025 parameters.
        spectral_norm: Whether each layer is divided by its largest singular value, which bounds the slope.

    Example:
        >>> import torch
        >>> model = MLPEnergy(input_dim=2)
        >>> model(torch.zeros(5, 2)).shape, model.event_shape
        (torch.Size([5]), torch.Size([2]))
    """

    def __init__(self, input_dim: int, hidden_dims: Sequence[int] = (128, 128), spectral_norm: bool = False) -> None:
        super().__init__()
        self.network = MLP(input_dim, hidden_dims, spectral_norm=spectral_norm)
        self.event_shape = torch.Size([input_dim])

    def forward(self, x: Float[Tensor, "batch input_dim"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        return self.network(x).squeeze(-1)
