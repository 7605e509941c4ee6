r"""The contract of a density one can both sample and evaluate exactly, and the arithmetic that several share."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.random import check_generator

__all__ = ["Density"]


class Density:
    r"""A probability density with a sampler, its exact logarithm and its entropy; the ground truth to learn from.

    The optimum of every likelihood-based loss is known: $-\mathbb{E}[\log p] = H$, the entropy in nats. A subclass
    writes `_draw` and `_log_prob`, both in float64; the results are rounded once, to the dtype that was asked for.

    Args:
        name: The name under which messages and plots show the density.
        entropy: $H = -\int p \log p$, in nats.
        low: Lower corner of a box that holds all but about $10^{-9}$ of the mass.
        high: Upper corner of that box.

    Example:
        >>> from torchebm.datasets import density
        >>> moons = density("two_moons")
        >>> x = moons.sample(1000, torch.Generator().manual_seed(0))
        >>> x.shape, moons.log_prob(x).shape, moons.event_shape
        (torch.Size([1000, 2]), torch.Size([1000]), (2,))
        >>> abs(-moons.log_prob(x).mean().item() - moons.entropy) < 0.1
        True
    """

    def __init__(self, name: str, entropy: float, low: Sequence[float], high: Sequence[float]) -> None:
        self.name = name
        self.entropy = entropy
        self.event_shape = (len(low),)
        self._box = (tuple(low), tuple(high))

    def __repr__(self) -> str:
        return f"<density {self.name}: event_shape={self.event_shape}, entropy={self.entropy:.4f} nats>"

    @property
    def bounds(self) -> Float[Tensor, "2 d"]:
        """The lower and the upper corner of a box that holds all but about 1e-9 of the mass, for plots and grids."""
        return torch.tensor(self._box)  # [2, d]

    def sample(self, n: int, generator: torch.Generator | None = None, *, dtype: torch.dtype | None = None,
               device: torch.device | str | None = None) -> Float[Tensor, "n d"]:  # fmt: skip
        """Draws `n` independent points.

        Args:
            n: How many; 0 gives an empty tensor.
            generator: The stream to draw from; PyTorch's default one without it, else the default is left alone.
            dtype: Of the result, PyTorch's default if not given; the points of a seed are the same but for rounding.
            device: Of the result; the generator's if not given.
        Returns:
            The points, `[n, *event_shape]`.
        Raises:
            TypeError: If `n` is not an integer or `dtype` not floating point.
            ValueError: If `n` is negative or the generator lives on another device.
        """
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"n must be an integer, the number of points to draw; got {n!r}.")
        if n < 0:
            raise ValueError(f"n must be 0 or more, the number of points to draw; got {n}.")
        if dtype is None:
            dtype = torch.get_default_dtype()
        elif not dtype.is_floating_point:
            raise TypeError(f"dtype must be floating point, because {self.name} is continuous; got {dtype}.")
        if device is None:
            device = generator.device if isinstance(generator, torch.Generator) else torch.get_default_device()
        device = torch.device(device)
        check_generator(generator, device)
        return self._draw(n, generator, device).to(dtype)

    def log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        r"""The logarithm of the normalised density, $\log p(x)$, differentiable in `x`.

        Args:
            x: Points, `[n, *event_shape]`, in any floating-point dtype.
        Returns:
            One number per point, `[n]`, on the device and in the dtype of `x`, computed in float64 and rounded.
        Raises:
            TypeError: If `x` is not a floating-point tensor.
            ValueError: If `x` is not `[n, *event_shape]`.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = f"a {x.dtype} tensor" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"log_prob needs a floating-point tensor of points; got {got}. Try x.float().")
        if x.ndim != 2 or x.shape[1:] != self.event_shape:
            d = self.event_shape[0]
            raise ValueError(
                f"{self.name} is a density of points of shape [{d}]: expected x of shape [n, {d}], got "
                f"{list(x.shape)}. For a grid or a single point: x.reshape(-1, {d})."
            )
        return self._log_prob(x.double()).to(x.dtype)

    def _draw(self, n: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, "n d"]:
        raise NotImplementedError

    def _log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        raise NotImplementedError


def log_mixture(x: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], sd: float,
                log_weights: Float[Tensor, " k"]) -> Float[Tensor, " n"]:  # fmt: skip
    r"""$\log\sum_k w_k\,\mathcal{N}(x; c_k, \sigma^2 I)$, a few thousand points at a time to bound the memory."""
    centres, log_weights = centres.to(x), log_weights.to(x)
    blocks = []
    for points in x.split(8192):
        squared = sum((points[:, i, None] - centres[:, i]).square() for i in range(x.shape[1]))  # [block, k]
        blocks.append(torch.logsumexp(log_weights - squared / (2 * sd**2), dim=1))
    return torch.cat(blocks) - x.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(sd))
