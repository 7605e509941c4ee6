"""The page of a run: what was learned, how good it is, and how to make it again."""

from .page import write_report

__all__ = ["write_report"]
