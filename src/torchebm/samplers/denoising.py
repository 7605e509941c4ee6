"""From samples of noisy data to the data."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.model import BaseModel

__all__ = ["denoise"]


@torch.no_grad()
def denoise(
    model: BaseModel, x: Float[Tensor, " n *event"], noise: float | Float[Tensor, "*event"]
) -> Float[Tensor, " n *event"]:
    r"""The expected clean point behind each noisy one, for a model of data to which Gaussian noise was added.

    $\hat x = x - \sigma^2 \nabla E(x)$, the posterior mean of the clean point given the noisy one. Exact where E is;
    walking on the smooth density of noisy data and then taking this one step is known as walk and jump.

    Args:
        model: The energy of the noisy data.
        x: Samples of it.
        noise: $\sigma$, a number or one a component.

    References: Miyasawa (1961); Saremi & Hyvärinen (2019), https://arxiv.org/abs/1903.02334

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> denoise(HarmonicModel(k=0.5), torch.tensor([[2.0]]), noise=1.0)  # N(0, 1) data with unit noise: half of it
        tensor([[1.]])
    """
    return x - noise**2 * model.gradient(x)
