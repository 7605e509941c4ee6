"""Learn energy-based models from data and sample them: p(x) = exp(-E(x)) / Z, in PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchebm.training.run import load_run as load_run

__version__ = "0.1.0"

_ROOMS = (
    "core",
    "cuda",
    "datasets",
    "diagnostics",
    "evaluation",
    "losses",
    "models",
    "report",
    "samplers",
    "training",
    "viz",
)

__all__ = ["__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Rooms are imported when they are first used: `import torchebm` alone costs little more than `import torch`."""
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if name == "load_run":
        return importlib.import_module(".training.run", __name__).load_run
    raise AttributeError(f"module 'torchebm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
