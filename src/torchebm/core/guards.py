"""Compiled functions without what Dynamo asks before each call, for loops in which the answers stay the same."""

from collections.abc import Callable
from types import FunctionType

__all__ = ["unguarded"]


def unguarded(compiled: Callable) -> Callable:
    """What a function of `torch.compile` runs once its guards hold.

    Itself, where that is not one piece of code, or where `torch.compiler.set_stance` tells otherwise.

    Guards ask whether all is as it was when the function was compiled: every weight and attribute that was read, the
    shapes of arguments, global settings. That takes some 30 microseconds, and several times as long where large
    products have driven Python's objects out of the caches, which is a tenth of a block of steps of a network.

    Args:
        compiled: Called in this loop with arguments like those to come; whatever its guards ask for must stay as it is
            while the result is in use.
    """
    try:  # PyTorch's own affairs, which may go as they came
        from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list as entries_of
        from torch._dynamo.eval_frame import _stance
    except ImportError:
        return compiled
    plain = getattr(compiled, "_torchdynamo_orig_callable", None)
    if not isinstance(plain, FunctionType) or _stance.stance != "default":
        return compiled
    if len(entries := entries_of(plain.__code__)) != 1:
        return compiled
    return FunctionType(entries[0].code, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__)
