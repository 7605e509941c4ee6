"""What closed-form energies share: gradients written by hand, and checks of the tensors that define them."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import integer
from .model import BaseModel
from .random import check_generator, randn

__all__ = ["ClosedFormModel"]

LOG_TWO_PI = math.log(2 * math.pi)


class ClosedFormModel(BaseModel):
    r"""An energy whose gradient is known in closed form: no graph is built to sample it.

    A subclass writes `forward(x)` and `gradient(x)`. It overrides `energy_and_gradient` too where the two share work.
    `forward` stays differentiable; what `gradient` returns is detached, so `gradient` begins with `x.detach()` or does
    without in-place operations.

    Where they are known, a closed form also has `log_z` $= \log \int e^{-E(x)} dx$ (float64, 0-dimensional), the
    moments `mean` and `cov` or `variance`, and exact draws from `sample(n, generator)`.

    Example:
        >>> class Quartic(ClosedFormModel):
        ...     def forward(self, x, **model_kwargs):
        ...         return x.pow(4).sum(-1)
        ...     def gradient(self, x, **model_kwargs):
        ...         return 4 * x.detach().pow(3)
        >>> Quartic().energy_and_gradient(torch.tensor([[1.0, 2.0]]))
        (tensor([17.]), tensor([[ 4., 32.]]))
    """

    def gradient(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        """The gradient of the energy, uphill."""
        raise NotImplementedError(f"{type(self).__name__} must define gradient(x) -> [batch, *event], "
                                  "or derive from BaseModel, which differentiates forward.")  # fmt: skip

    def energy_and_gradient(
        self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch *event"]]:
        with torch.no_grad():
            return self(x, **model_kwargs), self.gradient(x, **model_kwargs)


class NumberModel(ClosedFormModel):
    """A closed form whose parameters are plain numbers.

    An empty buffer follows `.to()`, so that draws and normalisers have a device and a dtype.

    Args:
        dim: Length of the vectors it lives on, if that shall be known; any event shape is accepted without it.
    """

    def __init__(self, dim: int | None = None, *, at_least: int = 1) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.empty(0), persistent=False)
        if dim is not None:
            self.event_shape = torch.Size([integer("dim", dim, at_least=at_least)])

    def _dim(self, what: str) -> int:
        if self.event_shape is None:
            name = type(self).__name__
            raise ValueError(f"{what} of {name} depends on the dimension: build the model as {name}(..., dim=2).")
        return self.event_shape[0]

    def _exact(self, value: float | Sequence) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.anchor.device)

    def _moment(self, value: float | Sequence) -> Tensor:
        return torch.tensor(value, dtype=self.anchor.dtype, device=self.anchor.device)

    def _randn(self, n: int, generator: torch.Generator | None) -> Float[Tensor, " n *event"]:
        return draw_normal(n, self._dim("sample"), self.anchor, generator)


def check_points(x: Tensor, event_shape: torch.Size | None) -> None:
    """Refuses points of another shape than the model's, and points that are not real numbers in floating point."""
    if event_shape is not None and x.shape[1:] != event_shape:
        expected = ", ".join(["batch", *map(str, event_shape)])
        raise ValueError(
            f"x has shape {list(x.shape)}; expected [{expected}], one point of shape {list(event_shape)} a row."
            + (" For a single point: x.unsqueeze(0)." if x.shape == event_shape else "")
        )
    if not x.is_floating_point():
        raise TypeError(f"x must be in floating point; got {x.dtype}. Convert it with x.float().")


def check_tensor(name: str, value: object, shape: str, ndim: int | Sequence[int]) -> Tensor:
    """A finite real tensor of its own, of the given number of axes; integers become the default dtype."""
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor {shape}; got {type(value).__name__}: {error}") from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers; got {tensor.dtype}.")
    if tensor.ndim not in ([ndim] if isinstance(ndim, int) else ndim):
        raise ValueError(f"{name} must be {shape}; got shape {list(tensor.shape)}.")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must not be empty; got shape {list(tensor.shape)}.")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
    return tensor.clone() if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def cholesky(name: str, covariance: Float[Tensor, "*k d d"]) -> Float[Tensor, "*k d d"]:
    """The Cholesky factor in float64, or an error that says why the matrix is no covariance."""
    cov = covariance.double()
    scale = cov.abs().amax((-2, -1), keepdim=True)
    asymmetry = float(((cov - cov.mT).abs() / scale.clamp_min(torch.finfo(cov.dtype).tiny)).max())
    if asymmetry > 100 * torch.finfo(covariance.dtype).eps:
        raise ValueError(
            f"{name} must be symmetric; entries that should be equal differ by {asymmetry:.3g} of the largest. "
            f"If that is rounding, pass 0.5 * ({name} + {name}.mT)."
        )
    cov = 0.5 * (cov + cov.mT)
    # Correlations are judged: units may differ by many orders, which a factorisation does not mind.
    unit = cov.diagonal(0, -2, -1).clamp_min(0).sqrt()
    unit = torch.where(unit > 0, unit, 1.0)
    eigenvalues = torch.linalg.eigvalsh(cov / unit.unsqueeze(-1) / unit.unsqueeze(-2))  # ascending
    smallest, largest = eigenvalues[..., 0], eigenvalues[..., -1]
    if bool((smallest <= cov.shape[-1] * torch.finfo(cov.dtype).eps * largest).any()):
        raise ValueError(
            f"{name} must be positive definite; its smallest eigenvalue is "
            f"{float(torch.linalg.eigvalsh(cov)[..., 0].min()):.3g}. A covariance estimated from few samples is "
            "singular: add a small multiple of the identity."
        )
    return torch.linalg.cholesky(cov)


def draw_normal(n: int, dim: int, like: Tensor, generator: torch.Generator | None) -> Float[Tensor, "n dim"]:
    """Standard normal vectors with the device and dtype of `like`."""
    check_generator(generator, like.device)
    return randn((integer("n", n), dim), generator=generator, dtype=like.dtype, device=like.device)
