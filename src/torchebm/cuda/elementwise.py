"""Energies that are sums over coordinates of one function, with what a kernel needs to know of each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from torchebm.core.analytic import DoubleWellModel, HarmonicModel, RastriginModel
from torchebm.core.checks import number
from torchebm.core.model import BaseModel

__all__ = ["Elementwise", "elementwise", "register_elementwise"]

N_PARAMETERS = 3


class Elementwise(NamedTuple):
    """The slope of an energy along one coordinate, as a kernel computes it."""

    slope: Any
    """A Triton function `(x, a, b, c)`, or the name of one in `kernels.py`."""
    parameters: Callable[[Any], tuple[float, ...]]
    """Of a model: a, b and c, or the first of them."""

    def values(self, model: BaseModel) -> tuple[float, ...]:
        """The parameters that the model has now, with zeros for those that it has not."""
        given = tuple(number("each parameter of the slope", value) for value in self.parameters(model))
        if len(given) > N_PARAMETERS:
            raise ValueError(
                f"the slope of {type(model).__name__} has {len(given)} parameters; expected at most {N_PARAMETERS}."
            )
        return given + (0.0,) * (N_PARAMETERS - len(given))


_KNOWN: dict[type[BaseModel], Elementwise] = {}


def register_elementwise(cls: type[BaseModel], slope: Any, parameters: Callable[[Any], tuple[float, ...]]) -> None:
    r"""Lets fused kernels run a model whose gradient is elementwise, $(\nabla E(x))_i = f(x_i)$.

    The model keeps its `gradient` in PyTorch, which is what the kernel is to agree with. Subclasses are not covered,
    since they may say otherwise.

    Args:
        cls: The model's class.
        slope: $f$ as a function `(x, a, b, c)` under `triton.jit`; `a`, `b`, `c` have the dtype of `x`.
        parameters: `model -> (a, b, c)`, read at each launch: plain numbers, up to three.
    """
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        raise TypeError(f"cls must be a class of models; got {cls!r}.")
    if cls.gradient is BaseModel.gradient:
        raise ValueError(f"{cls.__name__} has no gradient of its own: derive it from ClosedFormModel and write one.")
    _KNOWN[cls] = Elementwise(slope, parameters)


def elementwise(model: BaseModel) -> Elementwise | None:
    """What is known of a model, if it is elementwise; of this class, since a subclass may change the gradient."""
    return _KNOWN.get(type(model))


register_elementwise(HarmonicModel, "harmonic_slope", lambda model: (model.k,))
register_elementwise(
    DoubleWellModel,
    "double_well_slope",
    lambda model: (-4 * model.barrier_height * model.b * model.b, 4 * model.barrier_height),
)
register_elementwise(RastriginModel, "rastrigin_slope", lambda model: (2 * torch.pi, 2 * torch.pi * model.a))
