"""Models: energies `[batch, *event] -> [batch]` with their gradients, and an algebra on them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributions.constraints import Constraint
    from torch.distributions.transforms import Transform

    from .bijections import Block
    from .composite import MixtureModel, WeightedSum
    from .transformed import ConstrainedModel

__all__ = ["BaseModel", "EnergyModel", "evaluating", "mixture"]


class BaseModel(nn.Module):
    r"""An energy: a scalar for every point, low where the density $p(x) = e^{-E(x)} / Z$ is high.

    A subclass writes `forward(x) -> [batch]`; the gradient comes by autograd. A subclass that knows its gradient in
    closed form derives from `ClosedFormModel` and writes `gradient` as well.

    Energies combine: `a + b` is the product of experts, `0.5 * a` scales, `a.tempered(T)` is $E / T$, `-a` turns wells
    into hills, `mixture([a, b], weights)` adds densities, `a.transformed(constraint)` keeps to a part of space. Keyword
    arguments of `forward` (labels, conditions) are given to every method as `**model_kwargs`.

    Attributes:
        event_shape: Shape of one point, where the model knows it; samplers then need no `dim`.

    Example:
        >>> class Quartic(BaseModel):
        ...     def forward(self, x):
        ...         return x.pow(4).sum(-1)
        >>> Quartic().gradient(torch.tensor([[1.0, 2.0]]))
        tensor([[ 4., 32.]])
    """

    event_shape: torch.Size | None = None
    log_z: Any  # logarithm of the normaliser, where it has a closed form
    sample: Any  # exact draws, where there are any

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        """Energies, one a point."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x) -> [batch], the energy of each point.")

    def energy_and_gradient(
        self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch *event"]]:
        """Energies and their gradients with respect to `x`, in one forward pass.

        Both are detached: no graph is left, and parameters accumulate nothing. Works under `torch.no_grad()` and
        `torch.inference_mode()`; `x` itself is left as it was.

        Raises:
            ValueError: If the model does not return one energy a point, or an energy that does not depend on `x`.
        """
        if torch.compiler.is_compiling():  # Dynamo traces torch.func, not autograd.grad
            return _traced_energy_and_gradient(self, x, model_kwargs)
        with torch.inference_mode(False), torch.enable_grad():
            y = (x.clone() if x.is_inference() else x).detach().requires_grad_()
            energy = self(y, **{name: _outside_inference(value) for name, value in model_kwargs.items()})
            check_energy(energy, y)
            gradient = None
            if energy.requires_grad:
                (gradient,) = torch.autograd.grad(energy.sum(), y, allow_unused=True)
            if gradient is None:
                raise ValueError(
                    f"the energy of {type(self).__name__} does not depend on x as far as autograd can see, so it has "
                    "no gradient. forward was probably decorated with torch.no_grad(), or detaches x."
                )
        return energy.detach(), gradient

    def gradient(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        r"""$\nabla E(x)$: the gradient of the energy, uphill."""
        return self.energy_and_gradient(x, **model_kwargs)[1]

    def score(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        r"""$\nabla \log p(x) = -\nabla E(x)$: the gradient of the log-density."""
        return -self.gradient(x, **model_kwargs)

    def coordinates(self) -> tuple["BaseModel", "Transform | None"]:
        """Where samplers walk: an energy, and the map from its space to this model's (`None` for the identity)."""
        return self, None

    # the algebra; each result is a model ------------------------------------------------------------------------------

    def __add__(self, other: "BaseModel | float") -> "WeightedSum":
        from .composite import WeightedSum

        if isinstance(other, BaseModel):
            return WeightedSum([self, other])
        return WeightedSum([self], constant=other) if _is_number(other) else NotImplemented

    __radd__ = __add__

    def __mul__(self, factor: float) -> "WeightedSum":
        from .composite import WeightedSum

        return WeightedSum([self], weights=[factor]) if _is_number(factor) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> "WeightedSum":
        return self * -1.0

    def __sub__(self, other: "BaseModel | float") -> "WeightedSum":
        return self + (-other)

    def __rsub__(self, other: float) -> "WeightedSum":
        return -self + other

    def __truediv__(self, divisor: float) -> "WeightedSum":
        return self * (1.0 / divisor) if _is_number(divisor) else NotImplemented

    def tempered(self, temperature: float) -> "WeightedSum":
        r"""$E(x) / T$: flatter above temperature 1, sharper below."""
        from .checks import number

        return self * (1.0 / number("temperature", temperature, above=0.0))

    def transformed(self, transform: "Transform | Constraint | Sequence[Block]") -> "ConstrainedModel":
        """This density on its support, a part of space, with samplers that walk where there are no bounds.

        Args:
            transform: A constraint of `torch.distributions`, a bijection from real numbers, or, for a vector of several
                parameters, a list of pairs (constraint, shape); see `ConstrainedModel`.

        Example:
            >>> from torch.distributions import Gamma, constraints
            >>> from torchebm.samplers import HamiltonianMonteCarlo
            >>> gamma = Gamma(3.0, 1.0, validate_args=False)
            >>> model = EnergyModel(lambda x: -gamma.log_prob(x).sum(-1)).transformed(constraints.positive)
            >>> sampler = HamiltonianMonteCarlo(model, step_size=0.5, n_leapfrog_steps=5)
            >>> x = sampler.sample(dim=1, n_samples=1000, n_steps=30, generator=torch.Generator().manual_seed(0))
            >>> bool(x.min() > 0), round(x.mean().item())
            (True, 3)
        """
        from .transformed import ConstrainedModel

        return ConstrainedModel(self, transform)

    def normalized(self) -> "WeightedSum":
        r"""$E(x) + \log Z$, so that $e^{-E}$ integrates to one; for models that know `log_z`."""
        if not hasattr(self, "log_z"):
            raise ValueError(f"{type(self).__name__} does not know its normaliser, log_z, so it cannot be normalised.")
        return self + float(self.log_z)


class EnergyModel(BaseModel):
    """Turns any network or function into a model.

    Args:
        network: An `nn.Module` or a callable, `[batch, *event] -> [batch]` or `[batch, 1]`.
        event_shape: Shape of one point, if samplers shall know it.

    Example:
        >>> model = EnergyModel(nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1)))
        >>> model(torch.zeros(5, 2)).shape
        torch.Size([5])
        >>> EnergyModel(lambda x: x.square().sum(-1)).score(torch.ones(1, 2))
        tensor([[-2., -2.]])
    """

    def __init__(self, network: nn.Module | Callable[..., Tensor], event_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        if not callable(network):
            raise TypeError(f"network must be an nn.Module or a callable; got {type(network).__name__}.")
        self.network = network
        if event_shape is not None:
            self.event_shape = torch.Size(event_shape)

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        energy = self.network(x, **model_kwargs)
        return energy.squeeze(-1) if isinstance(energy, Tensor) and energy.shape == (len(x), 1) else energy


def mixture(models: Sequence[BaseModel], weights: Sequence[float] | Tensor | None = None) -> "MixtureModel":
    r"""The sum of densities, $e^{-E(x)} = \sum_k w_k e^{-E_k(x)}$; see `MixtureModel`."""
    from .composite import MixtureModel

    return MixtureModel(models, weights)


def as_model(model: BaseModel | nn.Module | Callable[..., Tensor]) -> BaseModel:
    """A model as it is; a network or a function wrapped in `EnergyModel`."""
    if not callable(model) or isinstance(model, type):
        what = f"the class {model.__name__}, not an instance" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model must be a BaseModel, a network or a function; got {what}.")
    return model if isinstance(model, BaseModel) else EnergyModel(model)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in `eval()` with its parameters frozen, and everything as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def check_energy(energy: Tensor, x: Tensor) -> None:
    """Refuses anything but one energy a chain."""
    if not isinstance(energy, Tensor):
        raise TypeError(f"the model returned a {type(energy).__name__}; expected a tensor of energies, one a chain.")
    if energy.shape != x.shape[:1]:
        squeeze = " The last layer was probably not squeezed: return `net(x).squeeze(-1)`."
        raise ValueError(
            f"the model returned energies of shape {list(energy.shape)}; expected {list(x.shape[:1])}, one scalar per "
            f"chain, because x has shape {list(x.shape)} = [chain, *event]."
            + (squeeze if energy.shape == (*x.shape[:1], 1) else "")
        )


def _traced_energy_and_gradient(model: BaseModel, x: Tensor, model_kwargs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    def total(y: Tensor) -> tuple[Tensor, Tensor]:
        energy = model(y, **model_kwargs)
        check_energy(energy, y)
        return energy.sum(), energy

    gradient, energy = torch.func.grad(total, has_aux=True)(x)
    return energy, gradient


def _outside_inference(value: object) -> object:
    """A copy of a tensor made under `torch.inference_mode()`, which autograd refuses; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
