"""Energies made of other energies: weighted sums and mixtures."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import integer, number
from .model import BaseModel
from .random import categorical
from .shapes import add_scaled

__all__ = ["MixtureModel", "WeightedSum"]


class WeightedSum(BaseModel):
    r"""$E(x) = c + \sum_k w_k E_k(x)$: a product of experts, each raised to the power of its weight.

    What `a + b`, `0.5 * a`, `-a` and `a.tempered(T)` make.

    Args:
        models: The energies.
        weights: One number each; all 1 if left out.
        constant: Added to the sum; it changes $Z$ and nothing else.
    """

    def __init__(self, models: Sequence[BaseModel], weights: Sequence[float] | None = None,
                 constant: float = 0.0) -> None:  # fmt: skip
        super().__init__()
        weights = [1.0] * len(models) if weights is None else weights
        if not models or len(weights) != len(models):
            raise ValueError(f"expected one weight a model; got {len(models)} models and {len(weights)} weights.")
        self.models = nn.ModuleList(models)
        self.weights = tuple(number("each weight", weight) for weight in weights)
        self.constant = number("constant", constant)
        self.event_shape = _common_event_shape(models)

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        energies = torch.stack([weight * model(x, **model_kwargs) for weight, model in self._terms()])
        return energies.sum(0) + self.constant

    def energy_and_gradient(
        self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch *event"]]:
        parts = [(weight, *model.energy_and_gradient(x, **model_kwargs)) for weight, model in self._terms()]
        weight, energy, gradient = parts[0]
        energy, gradient = weight * energy + self.constant, weight * gradient
        for weight, its_energy, its_gradient in parts[1:]:
            energy, gradient = add_scaled(energy, weight, its_energy), add_scaled(gradient, weight, its_gradient)
        return energy, gradient

    @property
    def log_z(self) -> Tensor:
        """Known where a single energy of known `log_z` was shifted by a constant."""
        return self._shifted("log_z").log_z - self.constant

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, " n *event"]:
        """Exact, independent draws, where a single energy that has them was shifted by a constant."""
        return self._shifted("sample").sample(n, generator=generator)

    def _shifted(self, what: str) -> BaseModel:
        if self.weights != (1.0,):
            raise ValueError(f"{what} of a weighted sum of energies has no closed form; only a constant was allowed to "
                             f"be added to one energy. Here the weights are {list(self.weights)}.")  # fmt: skip
        return self._terms()[0][1]

    def _terms(self) -> list[tuple[float, BaseModel]]:
        return list(zip(self.weights, cast(Iterable[BaseModel], self.models), strict=True))


class MixtureModel(BaseModel):
    r"""$e^{-E(x)} = \sum_k w_k e^{-E_k(x)}$: the sum of (unnormalised) densities.

    Component k holds a share of the mass proportional to $w_k Z_k$. For weights that are probabilities, mix normalised
    energies: `mixture([a.normalized(), b.normalized()], [0.3, 0.7])`.

    Args:
        models: The components.
        weights: One positive number each; equal if left out. They are scaled to sum to one.

    Example:
        >>> from torchebm.core import GaussianModel
        >>> narrow, wide = GaussianModel(torch.zeros(1), torch.eye(1)), GaussianModel(torch.ones(1), 4 * torch.eye(1))
        >>> mixture = MixtureModel([narrow.normalized(), wide.normalized()], [0.3, 0.7])
        >>> abs(mixture.log_z.item()) < 1e-6
        True
    """

    log_weights: Tensor
    """Logarithms of the weights, `[component]`."""

    def __init__(self, models: Sequence[BaseModel], weights: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        if not models:
            raise ValueError("a mixture needs at least one model; got none.")
        weights = torch.ones(len(models)) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if weights.shape != (len(models),) or not bool((weights.isfinite() & (weights > 0)).all()):
            raise ValueError(f"expected {len(models)} positive weights, one a model; got {weights.tolist()}.")
        self.models = nn.ModuleList(models)
        self.register_buffer("log_weights", (weights / weights.sum()).log().to(torch.get_default_dtype()))
        self.event_shape = _common_event_shape(models)

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        energies = torch.stack([model(x, **model_kwargs) for model in self._components()])  # [component, batch]
        return -torch.logsumexp(self._log_weights(energies) - energies, 0)

    def energy_and_gradient(
        self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch *event"]]:
        parts = [model.energy_and_gradient(x, **model_kwargs) for model in self._components()]
        energies = torch.stack([energy for energy, _ in parts])  # [component, batch]
        log_shares = self._log_weights(energies) - energies
        shares = torch.softmax(log_shares, 0)  # the probability of each component, given x
        gradient = torch.einsum("kb...,kb->b...", torch.stack([gradient for _, gradient in parts]), shares)
        return -torch.logsumexp(log_shares, 0), gradient

    @property
    def log_z(self) -> Tensor:
        """Known where every component's is."""
        return torch.logsumexp(self._log_masses(), 0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, " n *event"]:
        """Exact, independent draws, where every component has them."""
        which = categorical(self._log_masses().softmax(0), integer("n", n), generator=generator)  # [n]
        # every component draws n: one order
        draws = [model.sample(n, generator=generator) for model in self._components()]
        return torch.stack(draws)[which, torch.arange(n, device=which.device)]

    def _log_masses(self) -> Tensor:
        return torch.stack([w + m.log_z for w, m in zip(self.log_weights, self._components(), strict=True)])

    def _components(self) -> Iterable[BaseModel]:
        return cast(Iterable[BaseModel], self.models)

    def _log_weights(self, energies: Tensor) -> Tensor:
        return self.log_weights.to(energies.dtype).unsqueeze(1)  # [component, 1]


def _common_event_shape(models: Sequence[BaseModel]) -> torch.Size | None:
    shapes = {model.event_shape for model in models if model.event_shape is not None}
    if len(shapes) > 1:
        raise ValueError(f"the energies live on different event shapes: {sorted(map(list, shapes))}.")
    return shapes.pop() if shapes else None
