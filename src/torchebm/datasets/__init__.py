"""Data to learn from: densities with an exact logarithm, bundled digits, and the user's own files."""

from .data import Data, DataError, split
from .densities import DENSITIES, density, names
from .density import Density
from .digits import digits
from .files import load

__all__ = ["DENSITIES", "Data", "DataError", "Density", "density", "digits", "load", "names", "split"]
