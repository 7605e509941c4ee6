"""What Inductor is told: settings for CPUs, and what is done to a graph before code is made of it."""

import platform
import sys
from typing import Any

import torch
from torch.fx import Graph

from . import coordinates, nodes, products
from .coordinates import take_apart
from .headstart import wait_for_instructions

__all__ = ["cpu_settings", "inductor_pass"]

# Ten leapfrog steps of a polynomial energy are one expression to Inductor, which would recompute its inputs again and
# again; these make it write intermediate results down. Measured on CPUs, as are those for closed forms and for what is
# differentiated, such as networks.
_CPU_OPTIONS: dict[str, Any] = {"realize_opcount_threshold": 8, "realize_reads_threshold": 2}
_CLOSED_FORM = {"realize_acc_reads_threshold": 4, "max_fusion_size": 128}
_DIFFERENTIATED = {"realize_acc_reads_threshold": 2}

# Before it first compiles, Inductor compiles and loads a trial for each set of instructions that the processor has, in
# 6 to 12 s. Compilers that PyTorch's headers admit have them all on these machines; one that had not would say so.
_HAS_VECTORS = sys.platform == "linux" and platform.machine() == "x86_64"


def cpu_settings(differentiated: bool, small: bool) -> dict[str, Any]:
    """Settings that this version of Inductor knows.

    Args:
        differentiated: Whether the model has no gradient in closed form.
        small: Whether one thread takes less time than several.
    """
    ours = _CPU_OPTIONS | (_DIFFERENTIATED if differentiated else _CLOSED_FORM)
    ours["post_grad_custom_pre_pass"] = inductor_pass()
    if small:
        ours["cpp.threads"] = 1
    known = torch._inductor.list_options()
    if _HAS_VECTORS and torch._inductor.config.cpp.vec_isa_ok is None:
        ours["cpp.vec_isa_ok"] = True
    return {name: value for name, value in ours.items() if name in known}


def inductor_pass() -> Any | None:
    """A pass over the graph, for Inductor's options; `None` where PyTorch takes none."""
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    except ImportError:
        return None

    class Rewriting(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            wait_for_instructions()
            if not take_apart(graph):
                products.rewrite_products(graph)

        def uuid(self) -> bytes:  # part of the key under which compiled code is kept
            files = (__file__, *(str(module.__file__) for module in (coordinates, nodes, products)))
            return get_hash_for_files(files, extra=products.settings())

    return Rewriting()
