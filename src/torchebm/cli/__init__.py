"""The command line: `torchebm train | sample | evaluate | report | recipes`."""

from .main import main

__all__ = ["main"]
