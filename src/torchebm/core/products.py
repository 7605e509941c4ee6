"""Matrix products of compiled functions on CPUs: by oneDNN where it is faster, and small ones written out.

PyTorch multiplies float32 matrices on a CPU with MKL, which uses AVX2 on processors that are not Intel's, whatever they
have. oneDNN, which is in PyTorch as well, uses AVX-512 wherever there is any.
"""

import functools
import time
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["inductor_pass"]

_SMALLEST = 32  # of the inner and the last dimension; below it a product is not worth a detour
_WRITTEN_OUT = 4  # of the inner dimension; up to it a product is a sum that fuses with its neighbours
_aten = torch.ops.aten


@torch.library.custom_op("torchebm::mm", mutates_args=())
def _mm(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@torch.library.custom_op("torchebm::addmm", mutates_args=())
def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")


@_mm.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


@_addmm.register_fake
def _(bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def inductor_pass() -> Any | None:
    """A pass over the graph, for Inductor's options; `None` where PyTorch takes none."""
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass
    except ImportError:
        return None

    class Products(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            for node in list(graph.nodes):
                if node.target in (_aten.mm.default, _aten.addmm.default) and not node.kwargs:
                    _replace(graph, node)

        def uuid(self) -> str:  # part of the key under which compiled code is kept
            return f"torchebm products {_SMALLEST} {_WRITTEN_OUT} {_is_faster()}"

    return Products()


def _replace(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    *bias, a, b = node.args
    left, right = a.meta["val"], b.meta["val"]  # pyrefly: ignore[missing-attribute]
    if right.shape[0] <= _WRITTEN_OUT:
        with graph.inserting_before(node):
            total = _written_out(graph, a, b, right.shape[0])
            total = graph.call_function(_aten.add.Tensor, (total, *bias)) if bias else total
        node.replace_all_uses_with(total)
        graph.erase_node(node)
        return
    large = min(right.shape) >= _SMALLEST <= left.shape[0] and left.dtype == torch.float32
    rows = all(c.meta["val"].shape == right.shape[1:] for c in bias)  # pyrefly: ignore[missing-attribute]
    if large and rows and _is_faster():
        node.target = torch.ops.torchebm.addmm.default if bias else torch.ops.torchebm.mm.default


def _written_out(graph: torch.fx.Graph, a: Any, b: Any, n: int) -> Any:
    """A product over few terms as a sum, which fuses with what surrounds it."""
    total = None
    for k in range(n):
        column = graph.call_function(_aten.slice.Tensor, (a, 1, k, k + 1))
        row = graph.call_function(_aten.slice.Tensor, (b, 0, k, k + 1))
        term = graph.call_function(_aten.mul.Tensor, (column, row))
        total = term if total is None else graph.call_function(_aten.add.Tensor, (total, term))
    return total


@functools.cache
def _is_faster() -> bool:
    """Measured once in a process, in some milliseconds."""
    if not torch.backends.mkldnn.is_available():
        return False
    a, b = torch.ones(512, 128), torch.ones(128, 128)
    try:
        ours = _seconds(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    except (AttributeError, RuntimeError):  # an operator that is PyTorch's own affair may go as it came
        return False
    return ours < 0.8 * _seconds(lambda: nn.functional.linear(a, b))


def _seconds(function: Any) -> float:
    function()
    times = []
    for _ in range(10):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)
