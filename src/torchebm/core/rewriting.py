"""What is done to a graph before Inductor makes code of it."""

from typing import Any

from torch.fx import Graph

from . import coordinates, nodes, products
from .coordinates import take_apart

__all__ = ["inductor_pass"]


def inductor_pass() -> Any | None:
    """A pass over the graph, for Inductor's options; `None` where PyTorch takes none."""
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    except ImportError:
        return None

    class Rewriting(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            if not take_apart(graph):
                products.rewrite_products(graph)

        def uuid(self) -> bytes:  # part of the key under which compiled code is kept
            files = (__file__, *(str(module.__file__) for module in (coordinates, nodes, products)))
            return get_hash_for_files(files, extra=products.settings())

    return Rewriting()
