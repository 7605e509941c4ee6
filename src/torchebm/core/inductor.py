"""What Inductor is told: settings for CPUs, and what is done to a graph before code is made of it."""

import contextlib
import functools
import platform
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph

from . import coordinates, nodes, products
from .coordinates import take_apart

__all__ = ["cpu_settings", "inductor_pass"]

# Ten leapfrog steps of a polynomial energy are one expression to Inductor, which would recompute its inputs again and
# again; these make it write intermediate results down. Measured on CPUs, as are those for closed forms and for what is
# differentiated, such as networks. Closed forms are one kernel or two, for which the headers are not worth compiling.
_CPU_OPTIONS: dict[str, Any] = {"realize_opcount_threshold": 8, "realize_reads_threshold": 2}
_CLOSED_FORM = {
    "realize_acc_reads_threshold": 4,
    "max_fusion_size": 128,
    "cpp_cache_precompile_headers": False,
}
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
    instructions()
    if differentiated:
        headers()
    return {name: value for name, value in (ours | _trusted()).items() if name in known}


def _trusted() -> dict[str, Any]:
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
            instructions().wait()
            if not take_apart(graph):
                products.rewrite_products(graph)

        def uuid(self) -> bytes:  # part of the key under which compiled code is kept
            files = (__file__, *(str(module.__file__) for module in (coordinates, nodes, products)))
            return get_hash_for_files(files, extra=products.settings())

    return Rewriting()


@functools.cache
def instructions() -> threading.Event:
    """Begins to try, while the first graph of a process is traced, which instructions the compiler has.

    Inductor asks for some single ones that the processor has, in 1 to 2 s, and keeps the answers with compiled code.

    Returns:
        Set once they are known.
    """
    try:  # PyTorch's own affair; and all that the thread would import, which would disturb imports elsewhere
        import torch.utils.cpp_extension  # noqa: F401
        from torch._inductor.cpu_vec_isa import pick_vec_isa
    except ImportError:
        return _meanwhile(lambda: None)
    return _meanwhile(pick_vec_isa)


@functools.cache
def headers() -> threading.Event:
    """Begins to compile PyTorch's headers, which every kernel includes: 6 s, kept on disk for all that is compiled.

    Returns:
        Set once they are there.
    """
    known = instructions()
    try:
        from torch._inductor.codecache import CppPythonBindingsCodeCache
    except ImportError:
        return known

    def compile_headers() -> None:
        known.wait()
        CppPythonBindingsCodeCache.load_pybinding_async((), "")

    return _meanwhile(compile_headers)


def _meanwhile(work: Callable[[], Any]) -> threading.Event:
    """Does something in a thread, where that may have settings of its own; else not at all."""
    done = threading.Event()

    def run() -> None:
        # What fails here fails again where it is needed, and says so there.
        with contextlib.suppress(Exception), torch._inductor.config.patch(_trusted()):
            work()
        done.set()

    if _OWN_SETTINGS:
        threading.Thread(target=run, daemon=True).start()
    else:
        done.set()
    return done
