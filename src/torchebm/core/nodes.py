"""Nodes of the graphs that Inductor compiles."""

from typing import Any

from torch import Tensor, dtype
from torch.fx import Graph, Node, map_arg

__all__ = ["call", "dtype_of", "shape_of"]


def call(graph: Graph, target: Any, *arguments: Any, **options: Any) -> Node:
    """A new node that knows, as the others do, what its value looks like."""
    node = graph.call_function(target, arguments, options)
    values, settings = map_arg((arguments, options), lambda argument: argument.meta["val"])
    node.meta["val"] = target(*values, **settings)
    return node


def shape_of(node: Any) -> tuple[int, ...]:
    """Of a node that is a tensor; `()` of anything else, as of a number."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def dtype_of(node: Any) -> dtype:
    """Of a node that is a tensor."""
    return node.meta["val"].dtype
