"""Compiled blocks of steps as CUDA graphs: one launch for all the kernels of a block."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchebm.core.compiled import CompiledBlocks, Specialised

__all__ = ["GraphedBlocks"]


class GraphedBlocks(CompiledBlocks):
    """Compiled blocks that Inductor records as CUDA graphs on an accelerator; elsewhere, compiled blocks.

    A graph writes its results where it wrote those of the last block, which are this block's input. So results are
    copied before anybody sees them.
    """

    def __init__(self, sampler: Any, block: int | None, options: dict[str, Any]) -> None:
        super().__init__(sampler, block, options)
        self.function = _Graphed(self.function.function, options, self.function.what)


class _Graphed(Specialised):
    """A function whose results are its caller's."""

    def __call__(self, target: Any, *arguments: Any) -> Any:
        return _recorded(super().__call__)(target, *arguments)

    @property
    def last(self) -> Callable:
        return _recorded(super().last)

    def _compile(self, device: torch.device) -> Any:
        ours = device.type == "cuda" and "mode" not in self.options
        if ours and self.options.get("backend", "inductor") == "inductor":
            self.options["options"] = {"triton.cudagraphs": True, **self.options.get("options", {})}
        return super()._compile(device)


def _recorded(function: Callable) -> Callable:
    """A function that begins a new step of the graphs, and whose results are its caller's."""

    def call(target: Any, *arguments: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return owned(function(target, *arguments), {})

    return call


def owned(tree: Any, seen: dict[int, Tensor]) -> Any:
    """Nested tuples and lists with a copy of every tensor; one that is there twice is copied once."""
    if isinstance(tree, Tensor):
        if id(tree) not in seen:
            seen[id(tree)] = tree.clone()
        return seen[id(tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(owned(branch, seen) for branch in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(owned(branch, seen) for branch in tree)
    return tree
