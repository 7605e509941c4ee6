"""Blocks of transitions, compiled: the same kernels, with randomness, schedules, conditions and weights as inputs."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import integer
from .inductor import cpu_settings
from .model import BaseModel
from .sampler import BaseSampler
from .shapes import select
from .target import Target

__all__ = ["Compilable", "CompilationError", "CompiledBlocks", "CompiledEnergy"]

_MOST_NOISE = 1 << 22  # numbers, for one block: many chains get shorter blocks, which cost them little

# Numbers that one step draws: with few, calling a block is much of its time, and blocks are longer; with many it is
# nothing beside them, and shorter blocks compile sooner.
_FEW, _FEW_FOR_NETWORKS, _MANY = 2048, 64, 1 << 16

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
        differentiated = _is_differentiated(target.model)
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


class CompiledBlocks:
    """Runs `n_steps` transitions of a sampler as one function.

    Args:
        sampler: Whose `step`; a pure function of tensors.
        block: Transitions in one call; `None` for what compiles well.
        options: For `torch.compile`.
    """

    def __init__(self, sampler: Any, block: int | None, options: Mapping[str, Any]) -> None:
        def run(target: Target, n: int, state: Any, noise: tuple[Tensor, ...], values: dict[str, Tensor],
                  condition: dict, temperature: float | Tensor, held: Tensor | None,
                  every: bool) -> tuple[Any, list[tuple[Any, Any]]]:  # fmt: skip
            target = target.under(condition)
            seen = []
            for i in range(n):
                now = {name: column[i] for name, column in values.items()}
                z = tuple(buffer[i] for buffer in noise)
                new, info = sampler.step(state, z, target, temperature=temperature, **now)
                state = new if held is None else select(~held, new, state)
                if every:
                    seen.append((state, info))
            return state, seen

        self.sampler, self.block = sampler, block
        self.function = Specialised(run, options, type(sampler).__name__)
        self._sizes: dict[Any, set[int]] = {}  # of blocks that were compiled, for chains of one kind

    @property
    def asked(self) -> dict[str, Any]:
        """What `compile()` was given."""
        return {"block": self.block, **self.function.options}

    def advance(self, state: Any, n_steps: int, *, target: Target, generator: torch.Generator | None,
                temperature: float | Tensor, parameters: Mapping[str, Sequence[float | Tensor]],
                observe: Callable[[int, Any, Any], None] | None, notice: Callable[[int, Any], None] | None,
                held: Tensor | None) -> tuple[Any, int]:  # fmt: skip
        """As many whole blocks as `n_steps` has; arguments are those of `MarkovSampler.advance`.

        Returns:
            The state, and how many transitions led to it.
        """
        if n_steps < 2 or any(isinstance(values[0], int) for values in parameters.values()):
            return state, 0  # whole numbers, as of leapfrog steps, shape the computation
        size = self._size(state.x, n_steps)
        noise = self.sampler.noise(state.x, size)
        fill = self.sampler.filling(noise)
        x, wide = state.x, torch.promote_types(state.x.dtype, torch.float32)
        columns = {name: _column(values, x.device, wide) for name, values in parameters.items()}
        if not isinstance(temperature, Tensor) and temperature != 1.0:
            temperature = torch.tensor(temperature, dtype=wide, device=x.device)
        blocks, function = range(0, n_steps - n_steps % size, size), self.function
        for i in blocks:
            fill(generator)
            values = {name: column[i : i + size] for name, column in columns.items()}
            every = observe is not None
            arguments = state, noise, values, target.model_kwargs, temperature, held, every
            state, seen = function(target, size, *arguments)
            function = self.function.last
            if observe is not None:
                for k, (each, info) in enumerate(seen, i):
                    observe(k, each, info)
            if notice is not None:
                notice(size, state)
        return state, blocks.stop

    def _size(self, x: Tensor, n_steps: int) -> int:
        """Transitions in a block of this run: as in an earlier one, rather than compile another size."""
        one = sum(buffer.numel() for buffer in self.sampler.noise(x, 1))
        size = min(self.block or self._suggested(one), max(1, _MOST_NOISE // max(1, one)))
        known = self._sizes.setdefault((x.shape, x.dtype, x.device), set())
        if self.block is not None and n_steps >= size:
            return size
        useful = [k for k in known if k <= n_steps and 2 * k >= min(size, n_steps)]
        if useful:
            return max(useful, key=lambda k: (n_steps % k == 0, k))
        known.add(chosen := fitting(size, n_steps) if self.block is None else n_steps)
        return chosen

    def _suggested(self, n_numbers: int) -> int:
        """Transitions that compile well as one function, for steps that draw so many numbers.

        Networks are compiled in shorter blocks: that takes long, and calls cost little beside them.
        """
        n: int = self.sampler.steps_per_block
        if _is_differentiated(self.sampler.model.coordinates()[0]):
            return max(1, n // (2 if n_numbers < _FEW_FOR_NETWORKS else 4))
        if n_numbers > _MANY:
            return max(1, n // 2)
        return 2 * n if n_numbers < _FEW else n

    def wrap(self, target: Target) -> Target:
        """The target as it is: it is compiled with the step."""
        return target


class CompiledEnergy:
    """Evaluates energies and gradients as one function: for samplers that decide on the host, within a step.

    Args:
        sampler: Whose model it is.
        options: For `torch.compile`.
    """

    def __init__(self, sampler: Any, options: Mapping[str, Any]) -> None:
        def evaluate(target: Target, x: Tensor, condition: dict) -> tuple[Tensor, Tensor]:
            return target.under(condition).evaluate(x)

        self.function = Specialised(evaluate, options, type(sampler).__name__)

    @property
    def asked(self) -> dict[str, Any]:
        """What `compile()` was given."""
        return self.function.options

    def advance(self, state: Any, n_steps: int, **options: Any) -> tuple[Any, int]:
        """No transitions: the loop makes them."""
        return state, 0

    def wrap(self, target: Target) -> Target:
        """The target, evaluated by the compiled function."""
        return _CompiledTarget(target, self.function)


class Compilable(BaseSampler):
    """What `MarkovSampler` knows of compilation."""

    compiled: CompiledBlocks | CompiledEnergy | None = None
    """What `compile()` made."""
    steps_per_block: int | None = 1
    """Transitions of many chains on a closed-form energy that compile well as one function; `None` where the host
    decides, within one, how it goes on."""

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which compile anew: a compiled function is of the very sampler it was made for."""
        state = dict(vars(self))
        if self.compiled is not None:
            state["compiled"] = self.compiled.asked
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        asked = state.pop("compiled", None)
        vars(self).update(state)
        if asked is not None:
            self.compile(**asked)

    def compile(self, block: int | None = None, **options: Any) -> Self:
        """Compiles blocks of transitions, from the next run on, and returns the sampler.

        Of samplers whose host decides, within a transition, how it goes on (`steps_per_block` is `None`), the energy
        and its gradient are compiled instead. The first run of each shape, dtype and device takes some seconds longer.
        Runs give the same draws as before up to rounding, which chaotic dynamics amplify. Steps that do not fill a
        block, single ones, and those of a warm-up that tunes are not compiled.

        Args:
            block: Transitions in one function, chosen by the kind of sampler and model and the number of chains if left
                out. The first run, if it is short, takes what divides it, from half as many to half as many again.
            **options: For `torch.compile`.

        Raises:
            CompilationError: In the first run, if the model cannot be traced; it names the line.
            ValueError: If a block is asked of a sampler that has none, or for `fullgraph=False`.

        Example:
            >>> from torchebm.core import HarmonicModel
            >>> from torchebm.samplers import LangevinDynamics
            >>> sampler = LangevinDynamics(HarmonicModel(), step_size=0.1).compile(backend="eager")
            >>> sampler.sample(dim=2, n_samples=5, n_steps=100).shape
            torch.Size([5, 2])
        """
        if self.steps_per_block is not None:
            size = None if block is None else integer("block", block, at_least=1)
            self.compiled = CompiledBlocks(self, size, options)
        elif block is None:
            self.compiled = CompiledEnergy(self, options)
        else:
            raise ValueError(
                f"{type(self).__name__} decides on the host how a transition goes on, so there are no blocks of them: "
                "leave block out, and its energy and gradient are compiled."
            )
        return self

    def _progress(self, tick: Callable[..., None]) -> Callable[[int, Any], None]:
        """Moves the progress bar, which shows what compiling took once it is known."""
        if self.compiled is None:
            return lambda n, state: tick(n)
        function = self.compiled.function
        before = function.seconds

        def notice(n: int, state: Any) -> None:
            took = function.seconds - before
            tick(n, **({"compiled in": f"{took:.1f} s"} if took else {}))

        return notice

    def check_compiled(self) -> None:
        """Compiles anew, as was asked, where a setting has changed what can be: blocks, or energies."""
        if self.compiled is not None and isinstance(self.compiled, CompiledBlocks) is (self.steps_per_block is None):
            self.compile(**self.compiled.asked)

    def prepare(self, x: Float[Tensor, " chain *event"]) -> None:
        """Fills what `step` caches beside the state, since a compiled step only reads it."""


class _CompiledTarget(Target):
    def __init__(self, target: Target, function: Specialised) -> None:
        vars(self).update(vars(target))
        self._plain, self._function = target, function

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._function(self._plain, x, self.model_kwargs)


def _is_differentiated(model: BaseModel) -> bool:
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


def fitting(size: int, n_steps: int) -> int:
    """Transitions in a block: `size`, or for short runs what divides them best, so that none is left over.

    Training runs the same few transitions at each update, and those that fill no block are not compiled.
    """
    if n_steps >= 8 * size:
        return size
    near = [k for k in range(max(2, size // 2), size + size // 2 + 1) if n_steps % k == 0]
    return min(near, key=lambda k: abs(k - size)) if near else min(size, n_steps)


def _column(values: Sequence[float | Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    """`[n]`: what `step` takes for each of n transitions."""
    if any(isinstance(value, Tensor) for value in values):
        return torch.stack([torch.as_tensor(value, device=device, dtype=dtype) for value in values])
    return torch.tensor(values, device=device, dtype=dtype)


def _leaves(tree: Any) -> list[Any]:
    """Everything in nested tuples, lists and dicts, with the names of the dicts."""
    if isinstance(tree, (tuple, list)):
        return [leaf for branch in tree for leaf in _leaves(branch)]
    if isinstance(tree, dict):
        return [leaf for item in tree.items() for leaf in _leaves(item)]
    return [tree]


def _signature(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
