"""What the first kernel of a process waits for on a CPU, begun in threads while its graph is traced.

Once a graph is traced, Inductor tries some single instructions that the processor has, in 1 to 2 s, and compiles
PyTorch's headers, which kernels include, in 6 s. Both need a compiler and no Python, and are kept on disk.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["begin", "wait_for_instructions"]

# From this version on, what a thread changes of Inductor's settings is seen by no other.
_OWN_SETTINGS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)

_log = logging.getLogger(__name__)
_begun: dict[str, threading.Thread] = {}
_one_at_a_time = threading.Lock()


def begin(settings: Mapping[str, Any]) -> None:
    """Begins with what these settings ask for and what has not been begun; returns at once.

    Args:
        settings: Of Inductor, beside those that are in force. Without `cpp.vec_isa_ok`, there would be a trial of all
            sets of instructions, and nothing is begun.
    """
    if not (_OWN_SETTINGS and settings.get("cpp.vec_isa_ok")):
        return
    try:  # all that the threads would import, which would disturb imports elsewhere; PyTorch's own affairs
        import torch._inductor.codecache
        import torch.utils.cpp_extension
    except ImportError:
        return
    known = torch._inductor.config.get_config_copy()
    relevant = {name: settings.get(name, value) for name, value in known.items() if name.startswith("cpp")}
    with _one_at_a_time:
        _start("instructions", _try_instructions, relevant)
        if relevant.get("cpp_cache_precompile_headers"):
            _start("headers", _compile_headers, relevant)


def wait_for_instructions() -> None:
    """Until they are known, if that has begun.

    Trying them changes Inductor's objects for a while, which what writes code would read. Code that is found on disk is
    loaded without waiting: the trials were kept with it, and take no time then.
    """
    if thread := _begun.get("instructions"):
        thread.join()


def _start(what: str, work: Callable[[], Any], settings: dict[str, Any]) -> None:
    if what in _begun:
        return

    def run() -> None:
        try:
            with torch._inductor.config.patch(settings):
                work()
        except Exception:  # which the kernel will meet in turn, and raise
            _log.debug("The start on %s came to nothing.", what, exc_info=True)

    # The interpreter waits for it at its end, rather than leave half a file for the next process.
    thread = threading.Thread(target=run, name=f"torchebm: {what}")
    try:
        thread.start()
    except RuntimeError:
        _log.debug("There is no thread for a start on %s.", what, exc_info=True)
    else:
        _begun[what] = thread


def _try_instructions() -> None:
    torch._inductor.cpu_vec_isa.pick_vec_isa()


def _compile_headers() -> None:
    wait_for_instructions()
    torch._inductor.codecache.CppPythonBindingsCodeCache.load_pybinding_async((), "")  # of no kernel
