"""Densities in other coordinates: pushed through a bijection, and standardised."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from .model import BaseModel
from .shapes import sum_event

__all__ = ["LinearTransform", "StandardizedModel", "TransformedModel", "units"]


class TransformedModel(BaseModel):
    r"""The density of $x = T(z)$ when $z$ has the energy $E_z$.

    $E(x) = E_z(T^{-1}(x)) + \log |\det \partial T / \partial z|$

    A network that works on standardised values becomes, with the scaling as its transform, a model in the data's own
    units: energies, likelihoods and samples are in those units, while samplers walk in $z$, where all directions have
    one scale.

    Args:
        inner: The energy of z.
        transform: A `torch.distributions` bijection from z to x.

    Example:
        >>> from torch.distributions.transforms import AffineTransform
        >>> from torchebm.core import HarmonicModel
        >>> model = TransformedModel(HarmonicModel(), AffineTransform(torch.tensor([10.0]), torch.tensor([2.0])))
        >>> model(torch.tensor([[12.0]]))  # half a square, plus the logarithm of the scale
        tensor([1.1931])
    """

    def __init__(self, inner: BaseModel, transform: Transform) -> None:
        super().__init__()
        self.inner = inner
        self.transform = transform
        self.event_shape = inner.event_shape

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        z = self.transform.inv(x)
        log_det = self.transform.log_abs_det_jacobian(z, x)
        return self.inner(z, **model_kwargs) + sum_event(log_det)

    def coordinates(self) -> tuple[BaseModel, Transform]:
        return self.inner, self.transform


class StandardizedModel(TransformedModel):
    r"""An energy of standardised values as a model in the data's own units.

    $x = m + A z$, with z of mean 0 and covariance I

    Energies, likelihoods and samples are in the units of x; networks and samplers see z, where every direction has one
    scale. The map is part of the model: it is saved with it, moves with it, and its Jacobian is in the energy.

    Args:
        inner: The energy of z, vectors of length d.
        mean: $m$, `[*event]` with d entries.
        matrix: $A$, `[d, d]`, invertible; `from_data` finds it.

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> data = 100 + torch.randn(500, 3) @ torch.tensor([[1.0, 0.0, 0.0], [5.0, 2.0, 0.0], [0.0, 0.0, 30.0]])
        >>> model = StandardizedModel.from_data(HarmonicModel(), data)
        >>> z = model.transform.inv(data)
        >>> torch.allclose(z.T.cov(), torch.eye(3), atol=1e-3)
        True
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    def __init__(self, inner: BaseModel, mean: Float[Tensor, "*event"], matrix: Float[Tensor, "d d"]) -> None:
        super().__init__(inner, LinearTransform(mean, matrix))
        self.event_shape = mean.shape
        for name in ("mean", "matrix", "inverse"):
            self.register_buffer(name, getattr(self.transform, name))

    @classmethod
    def from_data(cls, inner: BaseModel, data: Float[Tensor, " n *event"], noise: float = 1e-3,
                  by: Literal["column", "event"] = "column") -> "StandardizedModel":  # fmt: skip
        r"""Standardises as the data asks for: its mean, and a square root of its covariance.

        Args:
            inner: The energy of z.
            data: At least two points.
            noise: Standard deviation that is added to every direction, so that none is flat: in units of each column's
                own standard deviation, or of all values' if `by="event"`.
            by: `"column"` for columns with units of their own, `"event"` for images.
        """
        flat = data.flatten(1).double()
        if len(flat) < 2:
            raise ValueError(f"standardising needs at least two points; got {len(flat)}.")
        spread, mean = units(flat, by), flat.mean(0)
        values, vectors = torch.linalg.eigh(((flat - mean) / spread).T.cov().reshape(flat.shape[1], -1))
        matrix = spread.unsqueeze(1) * vectors * (values.clamp(min=0) + noise**2).sqrt()
        return cls(inner, mean.to(data.dtype).view(data.shape[1:]), matrix.to(data.dtype))

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "StandardizedModel":
        super()._apply(function, recurse)
        self._rebuild()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._rebuild()

    def _rebuild(self) -> None:
        self.transform = LinearTransform(self.mean, self.matrix, self.inverse)


def units(flat: Float[Tensor, "n d"], by: Literal["column", "event"]) -> Float[Tensor, " d"]:
    """The unit of each component: its column's standard deviation, or the root mean square of all of them.

    A constant column keeps the unit that it is given in.
    """
    spread = flat.std(0) if by == "column" else flat.std(0).square().mean().sqrt().expand(flat.shape[1])
    return torch.where(spread > 0, spread, 1.0)


class LinearTransform(Transform):
    """$x = m + A z$ over flattened events, a `torch.distributions` bijection."""

    domain = constraints.real_vector
    bijective = True

    def __init__(
        self, mean: Float[Tensor, "*event"], matrix: Float[Tensor, "d d"], inverse: Tensor | None = None
    ) -> None:
        super().__init__()
        d = mean.numel()
        if matrix.shape != (d, d):
            raise ValueError(f"matrix has shape {list(matrix.shape)}; expected {[d, d]}, since mean has {d} entries.")
        self.mean, self.matrix = mean, matrix
        self.inverse = torch.linalg.inv(matrix.double()).to(matrix.dtype) if inverse is None else inverse
        self.log_det = torch.linalg.slogdet(matrix.double()).logabsdet

    @property
    def codomain(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, self.mean.ndim)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return shape[:-1] + self.mean.shape

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[: len(shape) - self.mean.ndim], self.mean.numel()))

    def _call(self, z: Tensor) -> Tensor:
        return (z @ self.matrix.to(z.dtype).T).view(-1, *self.mean.shape) + self.mean.to(z.dtype)

    def _inverse(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x.dtype)).flatten(1) @ self.inverse.to(x.dtype).T

    def log_abs_det_jacobian(self, z: Tensor, x: Tensor) -> Tensor:
        return self.log_det.to(z.dtype).expand(len(z))
