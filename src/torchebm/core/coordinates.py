"""Compiled functions of points with few coordinates: each coordinate by itself.

Points in two dimensions lie in memory as rows of two numbers, where the vectors of a processor hold sixteen; and what
combines the coordinates of a point, an energy or a product with a small matrix, ends a loop over all numbers. Taken
apart, every coordinate of all chains is a vector, a sum over coordinates is an addition of vectors, and one loop over
chains makes many transitions, their accept tests included.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch.fx import Graph, Node

from .nodes import call, dtype_of, shape_of

__all__ = ["take_apart"]

_MOST = 4  # numbers of a chain in one tensor: above, there is less to gain and much to compile
_FEWEST = 64  # chains: four registers of sixteen numbers
_LARGEST = 8192  # operations on single coordinates: more take long to compile
_aten = torch.ops.aten

Parts = np.ndarray[Any, np.dtype[np.object_]]
"""What a tensor [chain, *shape] became: an array of that shape, of nodes [chain]; or the numbers of another tensor."""


class _MixedError(Exception):
    """An operation that the rules do not take apart."""


def take_apart(graph: Graph) -> bool:
    """Rewrites a graph of elementwise operations and of sums over few coordinates; any other stays as it is.

    Returns:
        Whether it was rewritten.
    """
    output = graph.output_node()
    shapes = [shape_of(node) for node in output.all_input_nodes]
    n_chains = next((shape[0] for shape in shapes if len(shape) > 1), 0)
    if not _is_suitable(graph, n_chains):
        return False
    apart = _Apart(graph, n_chains)
    try:
        for node in list(graph.nodes):
            apart.visit(node)
        taken = apart.combines
    except _MixedError:
        taken = False
    if taken:
        with graph.inserting_before(output):
            output.args = torch.fx.map_arg(output.args, apart.joined)
    graph.eliminate_dead_code()
    return taken


def _is_suitable(graph: Graph, n_chains: Any) -> bool:
    """Whether it is worth trying: sizes are numbers, and there are rules for all that is made of few coordinates."""
    sizes = [size for node in graph.nodes for size in shape_of(node)]
    if not all(isinstance(size, int) for size in sizes) or n_chains < _FEWEST:
        return False
    few: set[Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and _has_few(node, n_chains):
            if node.target not in _RULES and not _is_elementwise(node.target):
                return False
            few.add(node)
        elif (
            node.op != "output"
            and node.target != _aten.unbind.int  # whose items are taken apart
            and not few.isdisjoint(node.all_input_nodes)
        ):
            return False
    return sum(math.prod(shape_of(node)[1:]) for node in few) <= _LARGEST


def _has_few(node: Node, n_chains: int) -> bool:
    """Whether it has a few numbers for each chain."""
    shape = shape_of(node)
    return shape[:1] == (n_chains,) and 0 < math.prod(shape[1:]) <= _MOST


def _is_elementwise(operation: Any) -> bool:
    return torch.Tag.pointwise in getattr(operation, "tags", ()) and not operation._schema.is_mutable


class _Apart:
    """What the nodes of a graph became.

    Args:
        graph: To which new nodes are added; the old ones are left.
        n_chains: The first dimension of what is taken apart.
    """

    def __init__(self, graph: Graph, n_chains: int) -> None:
        self.graph, self.n_chains = graph, n_chains
        self.call = partial(call, graph)
        self.parts: dict[Node, Parts] = {}
        self.combines = False
        """Whether something combines coordinates: without it a graph is one loop over all numbers already."""
        self._stored: dict[Node, Node] = {}  # arguments of the function, written down coordinate by coordinate
        self._numbers: dict[Node, Parts] = {}  # of what all chains share
        self._joined: dict[Node, Node] = {}
        self._body = next(node for node in graph.nodes if node.op != "placeholder")

    def visit(self, node: Node) -> None:
        """Takes a node apart, if it has few numbers for each chain; arguments of the function when they are read.

        Raises:
            _MixedError: If a rule does not hold for it.
        """
        if node.op != "call_function" or not _has_few(node, self.n_chains):
            return
        rule = _RULES.get(node.target, _elementwise)
        if node.kwargs and rule not in (_elementwise, _full, _same):
            raise _MixedError
        with self.graph.inserting_before(node):
            new = rule(self, node, *node.args, **node.kwargs)
        shape = shape_of(node)
        kinds = {(shape_of(part), dtype_of(part)) for part in new.flat}
        if new.shape != shape[1:] or kinds != {(shape[:1], dtype_of(node))}:
            raise _MixedError
        self.parts[node] = new

    def has(self, node: Any) -> bool:
        """Whether it is taken apart, which an argument of the function is now."""
        if not isinstance(node, Node):
            return False
        if node not in self.parts and node.op == "placeholder" and _has_few(node, self.n_chains):
            with self.graph.inserting_before(self._body):
                self.parts[node] = self.from_memory(node)
        return node in self.parts

    def own(self, node: Node) -> Parts:
        """The parts of what must have some."""
        if not self.has(node):
            raise _MixedError
        return self.parts[node]

    def joined(self, node: Node) -> Node:
        """A node as it was, made of its parts."""
        if node.op == "placeholder" or node not in self.parts:
            return node
        if node not in self._joined:
            rows = [self.call(_aten.unsqueeze.default, part, 0) for part in self.parts[node].flat]
            columns = self.call(_aten.permute.default, self.call(_aten.cat.default, rows), [1, 0])
            whole = self.call(_aten.clone.default, columns, memory_format=torch.contiguous_format)
            self._joined[node] = self.call(_aten.view.default, whole, list(shape_of(node)))
        return self._joined[node]

    def of(self, argument: Any, shape: tuple[int, ...]) -> Parts:
        """What an operation reads of an argument, for a result `[chain, *shape]`."""
        if self.has(argument):
            parts = self.parts[argument]
        elif shape_of(argument):
            parts = self.numbers(argument)
            if parts.ndim > len(shape):  # one for all chains
                parts = parts[0, ...]
        else:
            parts = _array(argument)
        return np.broadcast_to(parts, shape)

    def numbers(self, node: Node) -> Parts:
        """Those of a small tensor that all chains share; each of shape [1], so that dtypes are promoted as before."""
        if node not in self._numbers:
            shape = shape_of(node)
            if math.prod(shape) > _MOST**2:
                raise _MixedError
            new = np.empty(shape, dtype=object)
            with self.graph.inserting_before(self._after(node)):
                for index in np.ndindex(shape):
                    last = index[-1]
                    new[index] = self.call(_aten.slice.Tensor, self._at(node, *index[:-1]), 0, last, last + 1)
            self._numbers[node] = new
        return self._numbers[node]

    def from_memory(self, source: Node, *index: int) -> Parts:
        """Of an argument of the function; with an index of its first dimension if chains come second, as in noise.

        It is written down coordinate by coordinate, once: a vector is read from numbers that lie side by side.
        """
        shape = shape_of(source)
        chains, coordinates = len(index), range(len(index) + 1, len(shape))
        if source not in self._stored:
            with self.graph.inserting_before(self._after(source)):
                turned = self.call(_aten.permute.default, source, [*range(chains), *coordinates, chains])
                copy = self.call(_aten.clone.default, turned, memory_format=torch.contiguous_format)
                sizes, strides = list(copy.meta["val"].size()), list(copy.meta["val"].stride())
                # what is read with strides of its own has to be in memory, so that Inductor does not read the source
                self._stored[source] = self.call(_aten.as_strided.default, copy, sizes, strides)
        new = np.empty(shape[chains + 1 :], dtype=object)
        for each in np.ndindex(new.shape):
            new[each] = self._at(self._stored[source], *index, *each)
        return new

    def _at(self, node: Node, *index: int) -> Node:
        return reduce(lambda rest, i: self.call(_aten.select.int, rest, 0, i), index, node)

    def _after(self, node: Node) -> Node:
        return self._body if node.op == "placeholder" else node.next


# rules: what a node [chain, *shape] becomes ---------------------------------------------------------------------------


def _elementwise(apart: _Apart, node: Node, *arguments: Any, **options: Any) -> Parts:
    shape = shape_of(node)[1:]
    operands = [apart.of(argument, shape) for argument in arguments]
    new = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        new[index] = apart.call(node.target, *(operand[index] for operand in operands), **options)
    return new


def _same(apart: _Apart, node: Node, source: Node, **options: Any) -> Parts:
    return apart.own(source)


def _reshape(apart: _Apart, node: Node, source: Node, *arguments: Any) -> Parts:
    return apart.own(source).reshape(shape_of(node)[1:])


def _expand(apart: _Apart, node: Node, source: Node, sizes: Sequence[int]) -> Parts:
    shape = shape_of(node)[1:]
    if apart.has(source):
        return np.broadcast_to(apart.own(source), shape)
    new = np.empty(shape, dtype=object)
    for index, part in np.ndenumerate(apart.of(source, shape)):
        new[index] = apart.call(_aten.expand.default, part, [apart.n_chains])
    return new


def _full(apart: _Apart, node: Node, sizes: Sequence[int], value: Any, **options: Any) -> Parts:
    with node.meta["val"].fake_mode:
        part = apart.call(_aten.full.default, [apart.n_chains], value, **options)
    return np.broadcast_to(_array(part), sizes[1:])


def _select(apart: _Apart, node: Node, source: Node, dim: int, index: int) -> Parts:
    if apart.has(source):
        apart.combines = True
        return apart.own(source)[_along(source, dim, index)]
    if dim != 0 or source.op != "placeholder":
        raise _MixedError
    # noise, or something else for each of several transitions
    return _array(node) if len(shape_of(node)) == 1 else apart.from_memory(source, index)


def _slice(apart: _Apart, node: Node, source: Node, dim: int = 0, start: int | None = None, end: int | None = None,
           step: int = 1) -> Parts:  # fmt: skip
    apart.combines = True
    return apart.own(source)[_along(source, dim, slice(start, end, step))]


def _item(apart: _Apart, node: Node, source: Node, index: int) -> Parts:
    """What `unbind` gave."""
    if source.target != _aten.unbind.int:
        raise _MixedError
    arguments: tuple[Any, ...] = (*source.args, 0)
    whole, dim = arguments[:2]
    return _select(apart, node, whole, dim, index)


def _put(apart: _Apart, node: Node, source: Node, new: Node, dim: int, index: int) -> Parts:
    """`source` with `new` at an index."""
    changed = apart.own(source).copy()
    changed[_along(source, dim, index)] = apart.own(new)
    return changed


def _put_slice(apart: _Apart, node: Node, source: Node, new: Node, dim: int = 0, start: int | None = None,
               end: int | None = None, step: int = 1) -> Parts:  # fmt: skip
    changed = apart.own(source).copy()
    changed[_along(source, dim, slice(start, end, step))] = apart.own(new)
    return changed


def _copied(apart: _Apart, node: Node, into: Node, source: Node, non_blocking: bool = False) -> Parts:
    return np.broadcast_to(apart.own(source), shape_of(node)[1:])


def _concatenated(apart: _Apart, node: Node, sources: Sequence[Node], dim: int = 0) -> Parts:
    apart.combines = True
    return np.concatenate([apart.own(source) for source in sources], _axis(node, dim))


def _product(apart: _Apart, node: Node, a: Node, b: Node) -> Parts:
    """A product of `[chain, k]` with a small matrix."""
    apart.combines = True
    rows, matrix = apart.own(a), apart.numbers(b)
    new = np.empty(matrix.shape[1], dtype=object)
    for j in range(len(new)):
        terms = [apart.call(_aten.mul.Tensor, x, c) for x, c in zip(rows, matrix[:, j], strict=True)]
        new[j] = reduce(partial(apart.call, _aten.add.Tensor), terms)
    return new


def _reduction(pair: Any, share: bool = False) -> Callable[..., Parts]:
    """A rule for what combines coordinates, by what combines two of them; for a mean, of their shares in it."""

    def rule(apart: _Apart, node: Node, source: Node, dims: int | Sequence[int], keepdim: bool = False) -> Parts:
        parts = apart.own(source)
        apart.combines = apart.combines or parts.size > 1
        axes = [_axis(source, dim) for dim in ([dims] if isinstance(dims, int) else dims)]
        last = np.moveaxis(parts, axes, range(-len(axes), 0))
        kept = last.shape[: -len(axes)]
        new = np.empty(kept, dtype=object)
        for index in np.ndindex(kept):
            terms = list(last[index].flat)
            if share:
                terms = [apart.call(_aten.div.Tensor, term, len(terms)) for term in terms]
            new[index] = reduce(partial(apart.call, pair), terms)
        return new.reshape(shape_of(node)[1:])

    return rule


def _axis(source: Node, dim: int) -> int:
    """Of the parts of a tensor: one of its dimensions other than that of chains."""
    axis = dim % len(shape_of(source)) - 1
    if axis < 0:
        raise _MixedError
    return axis


def _along(source: Node, dim: int, index: int | slice) -> tuple[Any, ...]:
    """An index of parts, along one of the dimensions of their tensor."""
    return (*[slice(None)] * _axis(source, dim), index, ...)


def _array(item: Any) -> Parts:
    array = np.empty((), dtype=object)
    array[()] = item
    return array


_RULES: dict[Any, Callable[..., Parts]] = {
    _aten.clone.default: _same,
    _aten.alias.default: _same,
    _aten.reshape.default: _reshape,
    _aten.view.default: _reshape,
    _aten.unsqueeze.default: _reshape,
    _aten.squeeze.dim: _reshape,
    _aten.squeeze.dims: _reshape,
    _aten.expand.default: _expand,
    _aten.full.default: _full,
    _aten.select.int: _select,
    _aten.slice.Tensor: _slice,
    operator.getitem: _item,
    _aten.select_scatter.default: _put,
    _aten.slice_scatter.default: _put_slice,
    _aten.copy.default: _copied,
    _aten.cat.default: _concatenated,
    _aten.mm.default: _product,
    _aten.sum.dim_IntList: _reduction(_aten.add.Tensor),
    _aten.mean.dim: _reduction(_aten.add.Tensor, share=True),
    _aten.amax.default: _reduction(_aten.maximum.default),
    _aten.amin.default: _reduction(_aten.minimum.default),
    _aten.any.dim: _reduction(_aten.logical_or.default),
}
