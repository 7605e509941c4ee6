"""Matrix products of compiled functions on CPUs: by oneDNN, where it is faster than what PyTorch takes by default.

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
    """A pass over the graph, for Inductor's options; `None` where there is nothing to gain, or no way to do it."""
    if not _is_faster():
        return None
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass
    except ImportError:
        return None

    class Products(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            _replace(graph)

        def uuid(self) -> str:
            return f"torchebm products {_SMALLEST}"  # part of the key under which compiled code is kept

    return Products()


def _replace(graph: torch.fx.Graph) -> None:
    theirs = {torch.ops.aten.mm.default: torch.ops.torchebm.mm.default,
              torch.ops.aten.addmm.default: torch.ops.torchebm.addmm.default}  # fmt: skip
    for node in graph.nodes:
        if node.target not in theirs or node.kwargs:
            continue
        *bias, a, b = (argument.meta["val"] for argument in node.args)
        large = min(b.shape) >= _SMALLEST <= a.shape[0]
        if large and a.dtype == torch.float32 and all(c.shape == b.shape[1:] for c in bias):
            node.target = theirs[node.target]


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
