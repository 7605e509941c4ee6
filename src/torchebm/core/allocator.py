"""What becomes of memory that tensors no longer need."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory(threshold: int = 1 << 30) -> bool:
    """Lets the process keep memory that tensors on the CPU have given back, rather than return it to the system.

    Loops that make tensors of some megabytes again and again, as a network's activations, otherwise spend much of their
    time in page faults: glibc returns blocks above 128 kB at once. In exchange the process holds on to what it needed
    at its peak. The command line does this; a program of your own decides for itself.

    Args:
        threshold: In bytes; larger blocks, and more than that at the end of the heap, are returned as before.

    Returns:
        Whether the C library has such a setting; only glibc has.

    Example:
        >>> kept = keep_freed_memory()
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, threshold)) and bool(mallopt(_M_TRIM_THRESHOLD, threshold))
