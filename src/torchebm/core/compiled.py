"""Blocks of transitions, compiled: the same kernels, with randomness, schedules, conditions and weights as inputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import integer
from .sampler import BaseSampler
from .shapes import select
from .specialised import Specialised, is_differentiated, unguarded
from .target import Target

__all__ = ["Compilable", "CompiledBlocks", "CompiledEnergy"]

_MOST_NOISE = 1 << 22  # numbers, for one block: many chains get shorter blocks, which cost them little

# Numbers that one step draws: with few, calling a block is much of a network's time, and blocks are longer; with many
# it is nothing beside the steps, and shorter blocks compile sooner.
_FEW, _MANY = 64, 1 << 16


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
            if i == 0:
                function = self.function.last
            elif i == size:
                function = unguarded(function)
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
        if is_differentiated(self.sampler.model.coordinates()[0]):
            return max(1, n // (2 if n_numbers < _FEW else 4))
        return max(1, n // 2) if n_numbers > _MANY else n

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
    """A target for one run, in which nothing else than `x` changes."""

    def __init__(self, target: Target, function: Specialised) -> None:
        vars(self).update(vars(target))
        self._plain, self._function = target, function
        self._asked: dict[Any, Callable] = {}

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kind = x.shape, x.stride(), x.dtype
        if kind in self._asked:
            return self._asked[kind](self._plain, x, self.model_kwargs)
        result = self._function(self._plain, x, self.model_kwargs)
        self._asked[kind] = unguarded(self._function.last)
        return result


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
