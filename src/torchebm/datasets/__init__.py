"""Data to learn from: densities with an exact logarithm, bundled digits, and the user's own files."""

from torchebm.datasets.data import Data, DataError, split
from torchebm.datasets.densities import DENSITIES, density, names
from torchebm.datasets.density import Density
from torchebm.datasets.digits import digits
from torchebm.datasets.files import load

__all__ = ["DENSITIES", "Data", "DataError", "Density", "density", "digits", "load", "names", "split"]
