"""Paths of densities, from one that can be drawn from to a model: what annealing walks along."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions.transforms import Transform

from torchebm.core.bijections import pull_back
from torchebm.core.gaussian import GaussianModel
from torchebm.core.model import BaseModel, as_model
from torchebm.core.random import check_generator
from torchebm.core.target import Target
from torchebm.core.transformed import PulledBackModel

__all__ = ["AnnealingBase", "AnnealingPath", "Parts", "PathTarget", "ReshapedModel", "gaussian_base"]


class Parts(NamedTuple):
    """Energies of base and model at the chains, and gradients if a kernel wants them; evaluated once, mixed at will."""

    base: Float[Tensor, " chain"]
    model: Float[Tensor, " chain"]
    base_gradient: Float[Tensor, " chain *event"] | None
    model_gradient: Float[Tensor, " chain *event"] | None

    def gap(self) -> Float[Tensor, " chain"]:
        r"""$E_{base} - E$, in float64: a step $\delta$ along the path multiplies weights by $e^{\delta (E_{base} -
        E)}$."""
        return self.base.double() - self.model.double()

    def gather(self, index: Tensor) -> "Parts":
        """Those of the chains in `index`."""
        base, model = self.base[index], self.model[index]
        if self.base_gradient is None or self.model_gradient is None:
            return Parts(base, model, None, None)
        return Parts(base, model, self.base_gradient[index], self.model_gradient[index])


class AnnealingPath(BaseModel):
    r"""$E_\beta = (1 - \beta) E_{base} + \beta E$: from the base at $\beta = 0$ to the model at $\beta = 1$.

    β is a tensor argument of the energy, so that compiled kernels see it as an input. Where the base has no density,
    no density of the path has any.

    Args:
        base: The energy to start from.
        model: The energy to arrive at.

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> path = AnnealingPath(HarmonicModel(k=1.0), HarmonicModel(k=3.0))
        >>> path(torch.ones(1, 2), beta=torch.tensor(0.5))
        tensor([2.])
    """

    def __init__(self, base: BaseModel, model: BaseModel) -> None:
        super().__init__()
        self.base, self.model = base, model
        self.event_shape = model.event_shape

    def forward(self, x: Float[Tensor, " batch *event"], *, beta: Tensor) -> Float[Tensor, " batch"]:
        return _mix_energies(self.base(x), self.model(x), beta)

    def energy_and_gradient(
        self, x: Float[Tensor, " batch *event"], *, beta: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch *event"]]:
        base, base_gradient = self.base.energy_and_gradient(x)
        energy, gradient = self.model.energy_and_gradient(x)
        return _mix_energies(base, energy, beta), _mix(base_gradient, gradient, beta)


class PathTarget(Target):
    """What kernels see of a path at one β; `at` leads to another one.

    Args:
        path: The energies.
        beta: β, a tensor without axes.
        precision: As for samplers.
    """

    def __init__(self, path: AnnealingPath, beta: Tensor, precision: str | None = None) -> None:
        super().__init__(path, {"beta": beta}, precision)
        self.path = path
        self._ends = Target(path.base, precision=precision), Target(path.model, precision=precision)

    def parts(self, x: Float[Tensor, " chain *event"], with_gradient: bool) -> Parts:
        """Base and model at `x`."""
        if not with_gradient:
            base, model = (end.energy(x) for end in self._ends)
            return Parts(base, model, None, None)
        (base, base_gradient), (model, gradient) = (end(x) for end in self._ends)
        return Parts(base, model, base_gradient, gradient)

    def at(self, beta: Tensor, x: Tensor, parts: Parts) -> "PathTarget":
        """The target at β, which knows its value at `x` already: a `refresh` there evaluates nothing."""
        target = PathTarget(self.path, beta, self.precision)
        gradient = None
        if parts.base_gradient is not None and parts.model_gradient is not None:
            gradient = _mix(parts.base_gradient, parts.model_gradient, beta)
        target._known = (x, _mix_energies(parts.base, parts.model, beta), gradient)
        return target


def _mix(base: Tensor, model: Tensor, beta: Tensor) -> Tensor:
    beta = beta.to(base.dtype)
    return (1 - beta) * base + beta * model


def _mix_energies(base: Tensor, model: Tensor, beta: Tensor) -> Tensor:
    """Infinite wherever the base is, at β = 1 as well, where the product would be NaN."""
    return torch.where(base == torch.inf, torch.inf, _mix(base, model, beta))


# where paths begin ----------------------------------------------------------------------------------------------------


class ReshapedModel(BaseModel):
    """A density of points of one shape as one of points of another shape with as many entries.

    Args:
        inner: The density, with a known `event_shape`.
        event_shape: The other shape.
    """

    def __init__(self, inner: BaseModel, event_shape: torch.Size) -> None:
        super().__init__()
        if inner.event_shape is None or inner.event_shape.numel() != event_shape.numel():
            known = None if inner.event_shape is None else list(inner.event_shape)
            raise ValueError(f"the base is a density of points of shape {known}, the model of {list(event_shape)}.")
        self.inner, self.event_shape = inner, event_shape

    def forward(self, x: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
        return self.inner(self._there(x))

    def energy_and_gradient(
        self, x: Float[Tensor, " batch *event"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch *event"]]:
        energy, gradient = self.inner.energy_and_gradient(self._there(x))
        return energy, gradient.reshape(x.shape)

    @property
    def log_z(self) -> Tensor:
        """That of the inner density: shapes have no volume."""
        return self.inner.log_z

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, " n *event"]:
        """Exact, independent draws."""
        return self.inner.sample(n, generator=generator).reshape(n, *cast(torch.Size, self.event_shape))

    def _there(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *cast(torch.Size, self.inner.event_shape))


class AnnealingBase:
    """A density with exact draws and a known normaliser, in the coordinates that samplers of a model walk in.

    Args:
        density: A model with `log_z` and `sample(n, generator)`: a Gaussian, a mixture of them, `UniformModel` for a
            box. It is a density of the data's own values, in their units.
        model: The model that the path leads to.
        walked: Whether the density is one of the coordinates that samplers walk in instead.

    Raises:
        TypeError: If the density does not have `log_z` and `sample`.
        ValueError: If its points do not have the shape of the model's, or it does not know its normaliser.
    """

    def __init__(self, density: BaseModel, model: BaseModel, walked: bool = False) -> None:
        inner, transform = model.coordinates()
        self.transform: Transform | None = None if walked else transform
        shape = event_shape_walked(model) if walked else model.event_shape
        if not isinstance(density, BaseModel) or not callable(getattr(density, "sample", None)):
            raise TypeError(
                "base must be a model with exact draws, sample(n, generator), and a known log_z, such as "
                f"GaussianModel or UniformModel; got {type(density).__name__}."
            )
        try:
            self.log_z = float(density.log_z)
        except AttributeError:
            raise TypeError(f"base must know its normaliser, log_z; {type(density).__name__} does not.") from None
        if shape is not None and density.event_shape != shape:
            density = ReshapedModel(density, shape)
        self.density = density
        self.energy = density
        if self.transform is not None:
            self.energy = PulledBackModel(density, self.transform, density.event_shape)
        self.walks = inner

    def draw(self, n: int, *, generator: torch.Generator | None, dtype: torch.dtype,
             device: torch.device) -> Float[Tensor, " n *event"]:  # fmt: skip
        """Exact, independent draws, in the coordinates that samplers walk in."""
        check_generator(generator, device)
        x = self.density.sample(n, generator=generator).to(device=device, dtype=dtype)
        return x if self.transform is None else pull_back(self.transform, x)


def event_shape_walked(model: BaseModel) -> torch.Size | None:
    """Shape of a point in the coordinates that samplers walk in, where it is known."""
    inner, transform = model.coordinates()
    if transform is None or inner.event_shape is not None or model.event_shape is None:
        return inner.event_shape
    return torch.Size(transform.inverse_shape(model.event_shape))


def gaussian_base(model: BaseModel, x: Float[Tensor, " n *event"] | None = None, *, dim: int | None = None,
                  noise: float = 1e-3) -> AnnealingBase:  # fmt: skip
    r"""The Gaussian to anneal from: that with mean and covariance of given points, or the standard normal.

    It lives in the coordinates that samplers of the model walk in. Any Gaussian is a valid base; one that overlaps the
    model needs fewer temperatures.

    Args:
        model: The model.
        x: Points near which the model has its mass: data, or samples, in the data's units. At least two.
        dim: Length of the vectors, where there are no points and the model does not know it.
        noise: Added to the covariance, as a share of the mean variance, so that no direction is flat.
    """
    model = as_model(model)
    _, transform = model.coordinates()
    if x is None:
        shape = event_shape_walked(model) if dim is None else torch.Size([dim])
        if shape is None:
            raise ValueError(
                f"{type(model).__name__} does not know its event shape: give a base, or points to fit one to."
            )
        tensors = (t for ts in (model.parameters(), model.buffers()) for t in ts if t.is_floating_point())
        at = next(tensors, torch.empty(0)).device
        mean, covariance = torch.zeros(shape.numel(), device=at), torch.eye(shape.numel(), device=at)
    else:
        if len(x) < 2:
            raise ValueError(f"a Gaussian is fitted to at least two points; got {len(x)}.")
        z = x if transform is None else pull_back(transform, x)
        flat, shape = z.reshape(len(z), -1).double(), z.shape[1:]
        mean, covariance = flat.mean(0), flat.T.cov().reshape(flat.shape[1], -1)
        covariance = covariance + noise * covariance.diagonal().mean() * torch.eye(len(mean)).to(covariance)
    density: BaseModel = GaussianModel(mean, covariance)
    if shape != density.event_shape:
        density = ReshapedModel(density, shape)
    return AnnealingBase(density, model, walked=True)
