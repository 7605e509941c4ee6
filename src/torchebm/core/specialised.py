"""A function of a target and of tensors, compiled for each combination of their shapes."""

import contextlib
import time
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from . import headstart, products
from .inductor import cpu_settings
from .model import BaseModel
from .target import Target

__all__ = ["CompilationError", "Specialised", "is_differentiated", "owned", "unguarded"]

# Numbers of all chains, and chains times numbers of the model, up to which a block has one thread. Others would wait
# busily while noise is drawn, which slows it down wherever two processors are threads of one core.
_FEW_FOR_THREADS, _LITTLE_FOR_THREADS = 1 << 12, 1 << 16

_GRAPHED = ("reduce-overhead", "max-autotune")  # modes that record CUDA graphs


class CompilationError(RuntimeError):
    """A sampler or a model that cannot be compiled, with the line that stands in the way."""


class Specialised:
    """A function of a target and of nested tuples and dicts of tensors, compiled for each combination of shapes.

    What changes in value alone compiles nothing: schedules, temperatures, conditions, weights.

    Args:
        function: Pure; its first argument is a `Target`.
        options: For `torch.compile`.
        what: What it is, for error messages.
    """

    def __init__(self, function: Any, options: Mapping[str, Any], what: str) -> None:
        self.function, self.options, self.what = function, dict(options), what
        if self.options.get("fullgraph") is False:
            raise ValueError("fullgraph=False would leave parts of a block uncompiled and not say so: leave it out.")
        torch.compile(lambda: None, **self.options)  # which refuses what it does not know
        self.seconds = 0.0
        """What compiling took so far."""
        self._compiled: dict[Any, Callable] = {}
        self._last: Callable | None = None

    def __call__(self, target: Target, *arguments: Any) -> Any:
        differentiated = is_differentiated(target.model)
        key = (differentiated, *(type(argument) for argument in arguments), *map(_signature, _leaves(arguments)))
        compiled = self._compiled.get(key)
        try:
            if compiled is not None:
                self._last = compiled
                with contextlib.suppress(torch._dynamo.exc.FailOnRecompileLimitHit):
                    return compiled(target, *arguments)
            x = next(leaf for leaf in _leaves(arguments) if isinstance(leaf, Tensor))
            compiled = self._compile(x.device, differentiated, _is_small(target, x))
            began = time.perf_counter()
            result = compiled(target, *arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise self._explained(error, target) from error
        self.seconds += time.perf_counter() - began
        self._compiled[key] = self._last = compiled
        return result

    @property
    def last(self) -> Callable:
        """What the last call ran, for arguments of the same shapes: finding it takes longer than many a step."""
        assert self._last is not None
        return self._last

    def _compile(self, device: torch.device, differentiated: bool, small: bool) -> Any:
        """A function with a cache of its own: Dynamo gives up on one that has met eight sets of shapes, or of settings
        of the model or the sampler that are Python's numbers."""
        own = FunctionType(self.function.__code__.replace(), self.function.__globals__, self.function.__name__, None,
                           self.function.__closure__)  # fmt: skip
        options: dict[str, Any] = {"fullgraph": True, "dynamic": False, **self.options}
        if device.type == "cpu" and "mode" not in options and options.get("backend", "inductor") == "inductor":
            options["options"] = cpu_settings(differentiated, small) | options.get("options", {})
            products.settings()  # measured now, while nothing else is running
            headstart.begin(options["options"])
        compiled = torch.compile(own, **options)
        graphs = options.get("mode") in _GRAPHED or options.get("options", {}).get("triton.cudagraphs")
        return _owning(compiled) if graphs else compiled

    def _explained(self, error: Exception, target: Target) -> CompilationError:
        """The error of a trace, with the line where it stopped."""
        where = ""
        with contextlib.suppress(IndexError, TypeError):
            line = list(getattr(error, "real_stack", []))[-1]
            where = f" at {line.filename}:{line.lineno}, `{line.line}`"
        reason = str(error).strip().splitlines()[0]
        return CompilationError(
            f"{self.what} on {type(target.model).__name__} cannot be compiled: {reason}{where}. Rewrite that line with "
            "tensor operations, or sample without compile()."
        )


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


def is_differentiated(model: BaseModel) -> bool:
    """Whether a model has no gradient in closed form, as networks have none."""
    return type(model).gradient is BaseModel.gradient


def _is_small(target: Target, x: Tensor) -> bool:
    """Whether a step takes one thread less time than several would take to agree."""
    given = [leaf for leaf in _leaves(target.model_kwargs) if isinstance(leaf, Tensor)]
    held = sum(tensor.numel() for tensor in (*target.model.parameters(), *target.model.buffers(), *given))
    return x.numel() <= _FEW_FOR_THREADS and len(x) * held <= _LITTLE_FOR_THREADS


def _owning(function: Callable) -> Callable:
    """A function recorded as a graph, with results that are its caller's.

    A graph writes its results where it wrote those of the last call, which are the next one's input.
    """

    def call(*arguments: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return owned(function(*arguments), {})

    return call


def owned(tree: Any, seen: dict[int, Tensor]) -> Any:
    """Nested tuples and lists with a copy of every tensor; one that is there twice is copied once."""
    if isinstance(tree, Tensor):
        if id(tree) not in seen:
            seen[id(tree)] = tree.clone()
        return seen[id(tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(owned(branch, seen) for branch in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(owned(branch, seen) for branch in tree)
    return tree


def _leaves(tree: Any) -> list[Any]:
    """Everything in nested tuples, lists and dicts, with the names of the dicts."""
    if isinstance(tree, (tuple, list)):
        return [leaf for branch in tree for leaf in _leaves(branch)]
    if isinstance(tree, dict):
        return [leaf for item in tree.items() for leaf in _leaves(item)]
    return [tree]


def _signature(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
