"""What Inductor is told: settings for CPUs, and what is done to a graph before code is made of it."""

import contextlib
import functools
import platform
import sys
import threading
from typing import Any

import torch
from torch.fx import Graph

from . import coordinates, nodes, products
from .coordinates import take_apart

__all__ = ["cpu_settings", "headstart", "inductor_pass"]

# Ten leapfrog steps of a polynomial energy are one expression to Inductor, which would recompute its inputs again and
# again; these make it write intermediate results down. Measured on CPUs, as are those for closed forms and for what is
# differentiated, such as networks.
_CPU_OPTIONS: dict[str, Any] = {"realize_opcount_threshold": 8, "realize_reads_threshold": 2}
_CLOSED_FORM = {"realize_acc_reads_threshold": 4, "max_fusion_size": 128}
_DIFFERENTIATED = {"realize_acc_reads_threshold": 2}

# Before it first compiles, Inductor compiles and loads a trial for each set of instructions that the processor has, in
# 6 to 12 s. Compilers that PyTorch's headers admit have them all on these machines; one that had not would say so.
_HAS_VECTORS = sys.platform == "linux" and platform.machine() == "x86_64"

# From this version on, what a thread changes of Inductor's settings is seen by no other.
_OWN_SETTINGS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


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
    products.settings()  # measured before anything else is running
    headstart()
    return {name: value for name, value in (ours | _instructions()).items() if name in known}


def _instructions() -> dict[str, Any]:
    """What takes it on trust that the compiler has the processor's instructions, unless someone has decided."""
    trusted = _HAS_VECTORS and torch._inductor.config.cpp.vec_isa_ok is None
    return {"cpp.vec_isa_ok": True} if trusted else {}


def inductor_pass() -> Any | None:
    """A pass over the graph, for Inductor's options; `None` where PyTorch takes none."""
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    except ImportError:
        return None

    class Rewriting(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            headstart().wait()
            if not take_apart(graph):
                products.rewrite_products(graph)

        def uuid(self) -> bytes:  # part of the key under which compiled code is kept
            files = (__file__, *(str(module.__file__) for module in (coordinates, nodes, products)))
            return get_hash_for_files(files, extra=products.settings())

    return Rewriting()


@functools.cache
def headstart() -> threading.Event:
    """Begins with what the first kernel of a process waits for, in a thread, while its graph is traced.

    That is whether the compiler has some instructions that the processor has, which is tried in 1 to 2 s, and PyTorch's
    headers as the compiler likes them, which takes 6 s; both are kept on disk, for a folder of compiled code and for a
    machine.

    Returns:
        Set once the instructions are known.
    """
    known = threading.Event()
    try:  # PyTorch's own affairs; all that the thread would import, which would disturb imports elsewhere
        import torch.utils.cpp_extension
        from torch._inductor.codecache import CppPythonBindingsCodeCache
        from torch._inductor.cpu_vec_isa import pick_vec_isa
    except ImportError:
        known.set()
        return known

    def begin() -> None:
        # What fails here fails again where it is needed, and says so there.
        with contextlib.suppress(Exception), torch._inductor.config.patch(_instructions()):
            pick_vec_isa()
            known.set()
            CppPythonBindingsCodeCache.load_pybinding_async((), "")
        known.set()

    if _OWN_SETTINGS:
        threading.Thread(target=begin, name="torchebm compiles headers", daemon=True).start()
    else:
        known.set()
    return known
