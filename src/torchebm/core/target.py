"""What a transition sees of the model."""

import torch
from jaxtyping import Float
from torch import Tensor

from .model import BaseModel, check_energy
from .shapes import per_chain

__all__ = ["Target"]

_AUTOCAST = {None: None, "fp32": None, "bf16": torch.bfloat16}


class Target:
    """`target(x) -> (energy, gradient)`: the model, bound to its condition and its precision.

    Args:
        model: The energy.
        model_kwargs: Keyword arguments for every evaluation, tensors as a rule.
        precision: `"bf16"` evaluates the model under autocast; states stay in their own dtype. `None` or `"fp32"` does
            not.
    """

    def __init__(self, model: BaseModel, model_kwargs: dict | None = None, precision: str | None = None) -> None:
        if model_kwargs is not None and not isinstance(model_kwargs, dict):
            raise TypeError(
                "model_kwargs must be a dict of keyword arguments, as {'label': y}; "
                f"got {type(model_kwargs).__name__}."
            )
        self.model = model
        self.model_kwargs = dict(model_kwargs or {})
        self.precision = check_precision(precision)
        self.autocast_dtype = _AUTOCAST[precision]
        self._has_closed_form = type(model).gradient is not BaseModel.gradient and self.autocast_dtype is None
        self._known: tuple[Tensor, Tensor, Tensor | None] | None = None

    def __call__(
        self, x: Float[Tensor, " chain *event"]
    ) -> tuple[Float[Tensor, " chain"], Float[Tensor, " chain *event"]]:
        """Energy, in at least the dtype of `x`, and gradient, in the dtype of `x`."""
        energy, gradient = self._take_known(x)
        if energy is not None and gradient is not None:
            return energy, gradient
        return self.evaluate(x)

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energy and gradient, computed now."""
        if self.autocast_dtype is None:
            energy, gradient = self.model.energy_and_gradient(x, **self.model_kwargs)
        else:
            with torch.autocast(x.device.type, dtype=self.autocast_dtype):
                energy, gradient = self.model.energy_and_gradient(x, **self.model_kwargs)
        return _at_least(x.dtype, energy), gradient.to(x.dtype)

    def gradient(self, x: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        """The gradient alone, for kernels that need no energy; cheaper where the model has a closed form.

        Elsewhere it is NaN where the energy, which comes with it, is not finite: there is no slope at such a point.
        """
        if self._has_closed_form and self._known is None:
            return self.model.gradient(x, **self.model_kwargs).to(x.dtype)
        energy, gradient = self(x)
        return gradient + per_chain((energy - energy).to(x.dtype), gradient)

    def energy(self, x: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain"]:
        """The energy alone: no gradient is computed, so the energy need not have one."""
        known = self._take_known(x)[0]
        if known is not None:
            return known
        with torch.autocast(x.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            energy = self.model(x, **self.model_kwargs)
        check_energy(energy, x)
        return _at_least(x.dtype, energy)

    def open(self, x: Float[Tensor, " chain *event"], with_gradient: bool) -> Tensor:
        """Evaluates at the starting points, keeps the result for the first one who asks, and tells which are finite.

        Returns:
            `[chain]`: true where the energy, and the gradient if asked for, is finite.
        """
        self._known = None
        energy, gradient = self(x) if with_gradient else (self.energy(x), None)
        self._known = (x, energy, gradient)
        finite = energy.isfinite()
        return finite if gradient is None else finite & gradient.isfinite().reshape(len(x), -1).all(1)

    def under(self, model_kwargs: dict) -> "Target":
        """The same model under another condition."""
        return Target(self.model, model_kwargs, self.precision)

    def _take_known(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self._known is None:
            return None, None
        (known_x, energy, gradient), self._known = self._known, None
        return (energy, gradient) if known_x is x else (None, None)


def _at_least(dtype: torch.dtype, energy: Tensor) -> Tensor:
    """Energies keep what precision they have: an accept test is about their differences."""
    return energy.to(torch.promote_types(energy.dtype, dtype))


def check_precision(precision: str | None) -> str | None:
    """Refuses a precision that nobody implements."""
    if precision not in _AUTOCAST:
        raise ValueError(f'precision must be "bf16", "fp32" or None; got {precision!r}.')
    return precision
