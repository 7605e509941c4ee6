"""Where the first generation of the API kept its base class."""

from torchebm.core.first_generation_classes import Sampler

__all__ = ["Sampler"]
