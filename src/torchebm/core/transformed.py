"""Densities in other coordinates: pushed through a bijection, standardised, or walked over without bounds."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

from .bijections import Block, Blocks, bijection_onto, inside
from .model import BaseModel, check_energy
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


class RebuiltModel(TransformedModel):
    """A transformed energy whose transform is made of its buffers, and made anew when these are moved or loaded."""

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(function, recurse)
        self._rebuild()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._rebuild()

    def _rebuild(self) -> None:
        raise NotImplementedError


class StandardizedModel(RebuiltModel):
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

    def _rebuild(self) -> None:
        self.transform = LinearTransform(self.mean, self.matrix, self.inverse)


def units(flat: Float[Tensor, "n d"], by: Literal["column", "event"]) -> Float[Tensor, " d"]:
    """The unit of each component: its column's standard deviation, or the root mean square of all of them.

    A constant column keeps the unit that it is given in.
    """
    spread = flat.std(0) if by == "column" else flat.std(0).square().mean().sqrt().expand(flat.shape[1])
    return torch.where(spread > 0, spread, 1.0)


class ConstrainedModel(BaseModel):
    r"""A density on a part of space, with samplers that walk where there are no bounds; `model.transformed` makes it.

    $E_z(z) = E(T(z)) - \log |\det \partial T / \partial z|$, with draws $x = T(z)$

    It is the density of the model it is made from, and infinite in energy outside the support: energies, gradients,
    starting points and draws are in the user's space. Samplers see $E_z$, a density over all of space.

    Args:
        inner: The energy of x. It is evaluated inside the support only: for a point outside, at one inside instead,
            and what it says there is left out.
        transform: Onto where x lives: a constraint of `torch.distributions`, `ordered` or `correlation_matrix` of
            `torchebm.core.bijections`, or a bijection from real numbers; for a vector of several parameters a list of
            pairs (constraint, shape), or `Blocks`, which also tells them apart in the energy.

    Raises:
        ValueError: If no bijection leads onto the support, or its shape is not the model's.

    Note:
        Volume is measured as usual: on a simplex in its first K - 1 entries, as for the Dirichlet density, among
        correlations in the entries below the diagonal, as for the LKJ density. A sampler's temperature tempers $E_z$,
        its Jacobian included; `model.tempered(T).transformed(...)` tempers E. Sums and multiples of the result walk in
        x again, so constrain last: `(prior + likelihood).transformed(...)`. The inner energy and gradient are evaluated
        as often as without, and in closed form where they have one. Give distributions of torch that the energy uses
        `validate_args=False`: a proposal that is not finite is then a rejection, and no error.

    References: Carpenter et al. (2017), https://doi.org/10.18637/jss.v076.i01

    Example:
        >>> from torchebm.core import EnergyModel
        >>> from torchebm.core.bijections import Blocks
        >>> from torchebm.samplers import HamiltonianMonteCarlo
        >>> y = torch.tensor([1.2, 3.1, 2.4, 0.7, 2.6])
        >>> parameters = Blocks([(constraints.real, ()), (constraints.positive, ())])
        >>> def energy(x):  # y ~ Normal(mean, scale), mean ~ Normal(0, 10), scale ~ Exponential(1)
        ...     mean, scale = parameters.split(x)  # each [chain]
        ...     residual = (y - mean.unsqueeze(1)) / scale.unsqueeze(1)  # [chain, 5]
        ...     return (0.5 * residual**2).sum(1) + len(y) * scale.log() + mean**2 / 200 + scale
        >>> model = EnergyModel(energy).transformed(parameters)
        >>> sampler = HamiltonianMonteCarlo(model, step_size=0.2, n_leapfrog_steps=8)
        >>> start = torch.tensor([[0.0, 2.0]]).repeat(500, 1)  # mean and scale, as in the energy and in the draws
        >>> x = sampler.sample(start, n_steps=50, generator=torch.Generator().manual_seed(0))
        >>> bool((x[:, 1] > 0).all()), bool((x.mean(0) - torch.tensor([1.99, 1.17])).abs().max() < 0.1)
        (True, True)
    """

    def __init__(self, inner: BaseModel, transform: Transform | Constraint | Sequence[Block]) -> None:
        super().__init__()
        self.inner = inner
        self.transform = bijection_onto(transform)
        self.event_shape = inner.event_shape
        if isinstance(self.transform, Blocks):
            if inner.event_shape not in (None, self.transform.event_shape):
                raise ValueError(
                    f"the blocks make vectors of length {self.transform.size}; the model is about points of shape "
                    f"{list(inner.event_shape or ())}."
                )
            self.event_shape = self.transform.event_shape
        if self.event_shape is not None:
            self.transform.inverse_shape(self.event_shape)  # refuses shapes that are no points of the support

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        within = inside(self.transform.codomain, x)
        energy = self.inner(self._brought_inside(x, within), **model_kwargs)
        return torch.where(within, energy, torch.inf)

    def energy_and_gradient(
        self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch *event"]]:
        within = inside(self.transform.codomain, x)
        energy, gradient = self.inner.energy_and_gradient(self._brought_inside(x, within), **model_kwargs)
        return torch.where(within, energy, torch.inf), torch.where(_rows(within, x), gradient, 0.0)

    def _brought_inside(
        self, x: Float[Tensor, " batch *event"], within: Bool[Tensor, " batch"]
    ) -> Float[Tensor, " batch *event"]:
        """Points outside are replaced by T(0): distributions of torch raise errors outside their support."""
        shape = self.transform.inverse_shape(x.shape[1:])
        centre = cast(Tensor, self.transform(x.new_zeros(1, *shape))).to(x.dtype)
        return torch.where(_rows(within, x), x, centre)

    def coordinates(self) -> tuple[BaseModel, Transform]:
        return PulledBackModel(self.inner, self.transform, self.event_shape), self.transform


class PulledBackModel(BaseModel):
    r"""The density of $z = T^{-1}(x)$ when x has the energy E: what samplers of a `ConstrainedModel` walk on.

    $E_z(z) = E(T(z)) - \log |\det \partial T / \partial z|$

    Args:
        inner: The energy of x.
        transform: $T$.
        event_shape: Shape of x, if it is known.
    """

    def __init__(self, inner: BaseModel, transform: Transform, event_shape: torch.Size | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.transform = transform
        if event_shape is not None:
            self.event_shape = torch.Size(transform.inverse_shape(event_shape))

    def forward(self, z: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        x, log_det = self._push(z)
        energy = self.inner(x, **model_kwargs)
        check_energy(energy, x)
        return _walked(energy, log_det)

    def energy_and_gradient(
        self, z: Float[Tensor, " batch *event"], **model_kwargs: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch *event"]]:
        r"""Both, the inner gradient carried over by the chain rule: $J^\top \nabla E - \nabla \log |\det J|$."""
        if torch.compiler.is_compiling():
            return super().energy_and_gradient(z, **model_kwargs)
        with torch.inference_mode(False), torch.enable_grad():
            y = (z.clone() if z.is_inference() else z).detach().requires_grad_()
            x, log_det = self._push(y)
            energy, gradient = self.inner.energy_and_gradient(x.detach(), **model_kwargs)
            check_energy(energy, x)
            outputs, weights = [x], [gradient.to(x.dtype)]
            if log_det.requires_grad:
                outputs, weights = [x, log_det], [*weights, -torch.ones_like(log_det)]
            (gradient,) = torch.autograd.grad(outputs, y, weights)
        return _walked(energy, log_det.detach()), gradient

    def _push(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = cast(Tensor, self.transform(z))
        log_det = sum_event(self.transform.log_abs_det_jacobian(z, x))  # [batch]
        return x.to(z.dtype), log_det  # bounds of another dtype do not change that of the chains


def _walked(energy: Float[Tensor, " batch"], log_det: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Infinite where x has rounded to an edge of its support, whatever the energy is there."""
    return torch.where(log_det == -torch.inf, torch.inf, energy - log_det)


def _rows(mask: Bool[Tensor, " batch"], x: Float[Tensor, " batch *event"]) -> Tensor:
    return mask.view(-1, *[1] * (x.ndim - 1))


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
