"""Matrix products of compiled functions on CPUs: by oneDNN where it is faster, and thin ones written out.

PyTorch multiplies float32 matrices on a CPU with MKL, which uses AVX2 on processors that are not Intel's, whatever they
have. oneDNN, which is in PyTorch as well, uses AVX-512 wherever there is any. Products with a thin factor, such as the
first and last layer of a network on points, are sums: written as such they fuse with their neighbours, where a library
call would have to write its arguments to memory and read them back.
"""

import functools
import hashlib
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from .nodes import call

__all__ = ["rewrite_products", "settings"]

_SMALLEST = 32  # of the inner and the last dimension; below it a product is not worth a detour
_THIN = 4  # of either; up to it a product is a sum
_aten = torch.ops.aten

_PAIRS = 30  # of measurements
_CPUINFO = Path("/proc/cpuinfo")
_LARGE = 1 << 18  # numbers of a matrix, which do not fit into caches with those before and after it

# Rows of the products that are measured, and of MKL's time, what oneDNN must stay below. With units of full width for
# AVX-512 it takes less than half. With half of it, as on Zen 4, the two are about level by themselves, and MKL is up to
# 1.8 x faster within blocks, but for large products, which oneDNN makes in 0.6 to 0.9 of the time.
_SMALL_CASE, _LARGE_CASE = (512, 0.6), (8192, 0.95)

# Without the layer of `torch.library.custom_op`, which takes as long as a product of small matrices.
_library = torch.library.Library("torchebm", "DEF")
_library.define("linear(Tensor x, Tensor weight) -> Tensor")
_library.define("transposed(Tensor x) -> Tensor")


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")


_library.impl("linear", _linear, "CPU")
_library.impl("transposed", lambda x: x.t().clone(memory_format=torch.contiguous_format), "CPU")


@torch.library.register_fake("torchebm::linear", lib=_library)
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@torch.library.register_fake("torchebm::transposed", lib=_library)
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], x.shape[0])


def rewrite_products(graph: Graph) -> None:
    """Puts what is faster in the place of the matrix products of a graph, and of SiLU, which stands between them."""
    packed: dict[Node, Node] = {}
    # before the products, while all that reads x reads one x
    for node in graph.find_nodes(op="call_function", target=_aten.div.Tensor):
        _rewrite_silu(graph, node)
    for target in (_aten.mm.default, _aten.addmm.default):
        for node in graph.find_nodes(op="call_function", target=target):
            if not node.kwargs:
                _rewrite_product(graph, node, packed)


def settings() -> str:
    """What the result of rewriting depends on, beside the graph and this file."""
    return str((_is_faster(*_SMALL_CASE), _is_faster(*_LARGE_CASE)))


def _rewrite_product(graph: Graph, node: Node, packed: dict[Node, Node]) -> None:
    *bias, a, b = node.args
    left, right = a.meta["val"], b.meta["val"]  # pyrefly: ignore[missing-attribute]
    (n_rows, n_terms), n_columns = left.shape, right.shape[1]
    if not left.is_floating_point() or 0 in (n_rows, n_terms, n_columns):
        return
    with graph.inserting_before(node):
        if n_terms <= _THIN:
            b = _packed(graph, b, packed, n_rows)
            _replace(graph, node, lambda: _plus(graph, _sum_of_terms(graph, a, b, n_terms), bias))
            return
        if n_columns <= _THIN:
            b = _packed(graph, call(graph, _aten.permute.default, b, [1, 0]), packed, n_rows)
            new = _columns(graph, a, b, n_columns)
        elif n_rows == 1:
            new = _row(graph, a, b)
        elif left.dtype == torch.float32 and _is_for_onednn(n_rows, n_terms, n_columns):
            weight = call(graph, _aten.permute.default, b, [1, 0])
            new = call(graph, torch.ops.torchebm.linear.default, a, weight)
        elif bias:
            new = call(graph, _aten.mm.default, a, b)
        else:
            return
        _replace(graph, node, lambda: _plus(graph, new, bias))


def _replace(graph: Graph, node: Node, make: Callable[[], Node]) -> None:
    """Puts what `make` makes in the place of a node, anew for each of those who read it.

    A sum of a few terms that forward and backward pass share would be written to memory by the one and read back by the
    other, which takes longer than computing it twice.
    """
    for user in list(node.users):
        with graph.inserting_before(user):
            user.replace_input_with(node, make())
    graph.erase_node(node)


def _plus(graph: Graph, product: Node, bias: list[Any]) -> Node:
    return call(graph, _aten.add.Tensor, product, *bias) if bias else product


def _sum_of_terms(graph: Graph, a: Any, b: Any, n: int) -> Node:
    """A product over few terms: column k times row k."""
    total = None
    for k in range(n):
        term = call(graph, _aten.mul.Tensor, _slice(graph, a, 1, k), _slice(graph, b, 0, k))
        total = term if total is None else call(graph, _aten.add.Tensor, total, term)
    assert total is not None
    return total


def _columns(graph: Graph, a: Any, b: Any, n: int) -> Node:
    """A product with few columns, the rows of b: each a sum over a row's terms."""
    columns = []
    for k in range(n):
        terms = call(graph, _aten.mul.Tensor, a, _slice(graph, b, 0, k))
        columns.append(call(graph, _aten.sum.dim_IntList, terms, [1], True))
    return columns[0] if n == 1 else call(graph, _aten.cat.default, columns, 1)


def _packed(graph: Graph, b: Any, packed: dict[Node, Node], n_rows: int) -> Any:
    """A thin matrix whose rows are read once for each of many chains, written down row by row, once in the graph."""
    source, is_transposed = b, False
    while source.target == _aten.permute.default:
        source, is_transposed = source.args[0], not is_transposed
    if not is_transposed or n_rows < _SMALLEST or b.meta["val"].shape[0] == 1:
        return b
    if source not in packed:
        with graph.inserting_after(source):
            packed[source] = call(graph, torch.ops.torchebm.transposed.default, source)
    return packed[source]


def _row(graph: Graph, a: Any, b: Any) -> Node:
    """A product with one row."""
    terms = call(graph, _aten.mul.Tensor, call(graph, _aten.permute.default, a, [1, 0]), b)
    return call(graph, _aten.sum.dim_IntList, terms, [0], True)


def _slice(graph: Graph, a: Any, dim: int, k: int) -> Node:
    return call(graph, _aten.slice.Tensor, a, dim, k, k + 1)


def _rewrite_silu(graph: Graph, node: Node) -> None:
    """x / (1 + exp(-x)) is x sigmoid(x), whose derivative is made of the same sigmoid."""
    x, below = node.args
    exp = _argument(below, _aten.add.Tensor, 1)
    if _argument(_argument(exp, _aten.exp.default), _aten.neg.default) is not x:
        return
    with graph.inserting_before(node):
        new = call(graph, _aten.mul.Tensor, x, call(graph, _aten.sigmoid.default, x))
    node.replace_all_uses_with(new)
    chain: tuple[Any, ...] = (node, below, exp, exp.args[0])
    for dead in chain:  # else each of these, which read x, would get a product of its own
        if dead.users:
            break
        graph.erase_node(dead)


def _argument(node: Any, target: Any, *others: Any) -> Any:
    """The first argument of a call to `target` with those others; `None` of anything else."""
    matches = isinstance(node, Node) and node.target == target and node.args[1:] == others and not node.kwargs
    return node.args[0] if matches else None


def _is_for_onednn(n_rows: int, n_terms: int, n_columns: int) -> bool:
    if min(n_rows, n_terms, n_columns) < _SMALLEST:
        return False
    return _is_faster(*_LARGE_CASE if n_rows * max(n_terms, n_columns) >= _LARGE else _SMALL_CASE)


@functools.cache
def _is_faster(n_rows: int, share: float) -> bool:
    """Whether oneDNN takes less than that share of MKL's time, for products of so many rows.

    Measured once on a machine and kept in the folder of compiled code, whose key the choice is part of. Where the two
    are nearly level, each process would have an answer of its own: it would not find the code of the others, and round
    differently.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    from filelock import FileLock  # as PyTorch does there
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    file = Path(cache_dir()) / "torchebm" / f"onednn-{n_rows}-{_machine()}"
    file.parent.mkdir(exist_ok=True)
    with FileLock(file.with_name(f"{file.name}.lock")):  # what begins at the same time waits, and reads
        try:
            ratio = float(file.read_text())
        except (FileNotFoundError, ValueError):  # the latter for a file that a crash left empty
            ratio = _ratio(n_rows)
            if math.isfinite(ratio):
                file.write_text(str(ratio))
    return ratio < share


def _machine() -> str:
    """What the two depend on, since machines may keep their compiled code in one folder."""
    processor = [platform.machine(), platform.processor()]
    if _CPUINFO.exists():
        telling = ("vendor_id", "cpu family", "model", "flags", "CPU ")  # the last on Arm
        first = _CPUINFO.read_text().partition("\n\n")[0]
        processor += [line for line in first.splitlines() if line.startswith(telling)]
    return hashlib.sha256("\n".join([torch.__version__, *processor]).encode()).hexdigest()[:16]


def _ratio(n_rows: int) -> float:
    """oneDNN's time over MKL's: by turns and on one thread, so that what else is running slows down the two alike.

    Several threads would wait for each other while another process has their processors; then oneDNN took half of MKL's
    time where the two are level. Other threads of this process that call PyTorch for the first time meanwhile, in a
    quarter of a second, stay at one thread each.

    Returns:
        Infinity if this PyTorch has no such operator.
    """
    a, b = (torch.ones(n, 128, dtype=torch.float32, device="cpu") for n in (n_rows, 128))
    ratios, n_threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.autocast("cpu", enabled=False):
            for _ in range(_PAIRS):
                ours = _seconds(lambda: _linear(a, b))
                ratios.append(ours / _seconds(lambda: nn.functional.linear(a, b)))
    except (AttributeError, RuntimeError):  # an operator that is PyTorch's own affair may go as it came
        return math.inf
    finally:
        torch.set_num_threads(n_threads)
    return statistics.median(ratios)


def _seconds(function: Any) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
