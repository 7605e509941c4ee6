"""How well chains have done: ArviZ's figures, one line of advice for what is off, and pictures.

Reads tensors, and imports ArviZ, pandas and matplotlib only where a function needs them.
"""

from .convergence import Summary, summary
from .conversion import to_arviz
from .plots import autocorrelation, energy, pair, rank, trace

__all__ = ["Summary", "autocorrelation", "energy", "pair", "rank", "summary", "to_arviz", "trace"]
