"""What every constructor checks about the numbers it is given, once, with one wording; and warnings to its caller."""

import math
import sys
import warnings
from numbers import Integral, Real
from pathlib import Path

from torch import Tensor

__all__ = ["integer", "number", "warn_caller"]

_PACKAGE = str(Path(__file__).parents[1])


def number(name: str, value: object, *, above: float = -math.inf, at_least: float = -math.inf,
           at_most: float = math.inf) -> float:  # fmt: skip
    """`value` as a float if it is a finite real number in the range; an error that names it otherwise."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {value!r} of type {type(value).__name__}.")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite; got {value}.")
    if value <= above:
        raise ValueError(f"{name} must be greater than {above:g}; got {value:g}.")
    if not at_least <= value <= at_most:
        limits = f"at least {at_least:g}" if value < at_least else f"at most {at_most:g}"
        raise ValueError(f"{name} must be {limits}; got {value:g}.")
    return value


def integer(name: str, value: object, *, at_least: int = 0) -> int:
    """`value` as an int if it is a whole number in the range; an error that names it otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number; got {value!r} of type {type(value).__name__}.")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}; got {value}.")
    return int(value)


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warns at the line, outside this package and PyTorch's decorators, from which the library was called."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_ours(filename: str) -> bool:
    return filename.startswith(_PACKAGE) or filename.endswith("torch/utils/_contextlib.py")
