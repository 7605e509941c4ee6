"""Langevin dynamics on an accelerator: many steps in one launch where the energy allows it, CUDA graphs elsewhere."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.compiled import CompiledBlocks
from torchebm.core.markov import Notice, Observer
from torchebm.core.model import BaseModel
from torchebm.core.recording import Recorder
from torchebm.core.sampler import SamplerOptions
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.target import Target
from torchebm.samplers.langevin import Info, LangevinDynamics, Position

from . import launch
from .elementwise import elementwise
from .graphs import GraphedBlocks
from .philox import philox_normal_, step_keys

__all__ = ["CUDALangevinDynamics", "langevin_step_cuda"]

_BACKENDS = "auto", "triton", "twin"
_MOST_STEPS = 1024  # in one launch: between two of them a progress bar moves, and Ctrl-C is heard
_MOST_KEPT = 1 << 22  # numbers, of the draws that one launch keeps


class CUDALangevinDynamics(LangevinDynamics):
    r"""`LangevinDynamics` that runs elementwise energies in a fused kernel; for many chains on an accelerator.

    $x' = x - h \nabla E(x) + s \sqrt{2h}\,\xi$ as there, with the same parameters, schedules and results. The kernel
    reads the chains once, makes up to 1,024 steps with them in registers, noise included, and writes them once.

    | where | what runs, with `backend="auto"` |
    |---|---|
    | `float32` or `float64` on an accelerator, a model that `register_elementwise` knows | the fused kernel |
    | the same, with `model_kwargs`, `precision="bf16"` or parameters that are tensors | single steps, the same noise |
    | everywhere else | `LangevinDynamics`, with its noise; blocks of steps after `compile()` |

    Of the library, `HarmonicModel`, `DoubleWellModel` and `RastriginModel` are known. Schedules, `clamp`,
    `gradient_clip`, chains that are held and temperatures, also one a chain, run in the kernel.

    Args:
        model: The energy.
        step_size: $h$.
        noise_scale: $s = \sqrt T$.
        clamp: A box `(low, high)` that states are projected on.
        gradient_clip: Limit on the absolute value of each component of the gradient.
        backend: `"auto"` is the table above; `"triton"` insists on the kernel, and raises where it cannot run; `"twin"`
            makes the kernel's noise and steps in plain PyTorch, anywhere, and slowly.
        **options: `dtype`, `device`, `precision`.

    Note:
        The noise of an entry is a function of the generator's state, the step and the entry's index; it is not that of
        `LangevinDynamics`, so runs agree with its in distribution. Bias and cost in gradients are the same.

    Example:
        >>> from torchebm.core import DoubleWellModel
        >>> sampler = CUDALangevinDynamics(DoubleWellModel(), step_size=0.01)
        >>> sampler.why_not_fused(torch.zeros(5, 2))
        'the chains are on cpu, not on an accelerator'
        >>> sampler.sample(dim=2, n_samples=5, n_steps=20).shape
        torch.Size([5, 2])
    """

    step = LangevinDynamics.step  # named here, so that `sample_step` takes this class's noise with it

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.01,
                 noise_scale: float | BaseScheduler | Callable[[int], float] = 1.0,
                 clamp: tuple[float, float] | None = None,
                 gradient_clip: float | BaseScheduler | Callable[[int], float] | None = None, *,
                 backend: Literal["auto", "triton", "twin"] = "auto",
                 **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, step_size, noise_scale, clamp, gradient_clip, **options)
        if backend not in _BACKENDS:
            raise ValueError(f'backend must be "auto", "triton" or "twin"; got {backend!r}.')
        self.backend = backend

    def why_not_fused(self, x: Float[Tensor, " chain *event"]) -> str | None:
        """Why chains like `x` do not run in the fused kernel; `None` if they do."""
        if self.backend == "twin":
            return 'backend="twin" asks for plain PyTorch'
        cls = type(self)
        if cls.step is not LangevinDynamics.step or cls.draw is not CUDALangevinDynamics.draw:
            return f"{cls.__name__} has a step or a draw of its own"
        return launch.obstacle(self.model, x, interpreter=self.backend == "triton")

    def draw(self, out: tuple[Tensor], generator: torch.Generator | None) -> None:
        (noise,) = out
        if self.backend == "twin":
            ((key, position),) = step_keys(1, generator, noise.dtype, noise.device).tolist()
            philox_normal_(noise, key, position)
        elif self.why_not_fused(noise) is None:
            launch.fill_normal_(noise, step_keys(1, generator, noise.dtype, noise.device))
        else:
            super().draw(out, generator)

    def advance(self, state: Position, start: int, n_steps: int, *, target: Target,
                generator: torch.Generator | None = None, temperature: float | Tensor = 1.0,
                parameters: Mapping[str, list[float]] | None = None, observe: Observer | None = None,
                notice: Notice | None = None, held: Tensor | None = None) -> Position:  # fmt: skip
        """The loop, or in its place launches of the kernel; arguments are those of `MarkovSampler.advance`."""
        parameters = self.parameter_table(start, n_steps) if parameters is None else parameters
        reason = self.why_not_fused(state.x) or _not_this_run(target, parameters)
        if reason is not None:
            if self.backend == "triton":
                raise ValueError(f'backend="triton", but the kernel cannot run this: {reason}.')
            return super().advance(state, start, n_steps, target=target, generator=generator, temperature=temperature,
                                   parameters=parameters, observe=observe, notice=notice, held=held)  # fmt: skip
        per_chain = temperature if isinstance(temperature, Tensor) else None
        common = 1.0 if isinstance(temperature, Tensor) else temperature
        thin = None if observe is None else _thinning(observe)
        size = _MOST_STEPS
        if thin is not None:
            size = thin * max(1, min(_MOST_STEPS // thin, _MOST_KEPT // max(1, state.x.numel())))
        x = state.x
        for i in range(0, n_steps, size):
            n = min(size, n_steps - i)
            x, draws = launch.langevin_steps(
                x, target.model, step_keys(n, generator, x.dtype, x.device), _steps(parameters, i, n, common),
                box=self.clamp, temperature=per_chain, held=held, thin=thin,
            )  # fmt: skip
            if observe is not None and draws is not None and thin is not None:
                for k, each in enumerate(draws, 1):
                    observe(i + k * thin - 1, Position(each), Info(each))
            if notice is not None:
                notice(n, Position(x))
        return Position(x)

    def compile(self, block: int | None = None, **options: Any) -> Self:
        """Compiles blocks of the steps that the fused kernel does not run; on an accelerator they are CUDA graphs.

        Arguments are those of `MarkovSampler.compile`. A `mode` of `torch.compile` decides about graphs itself.

        Example:
            >>> sampler = CUDALangevinDynamics(lambda x: x.square().sum(-1), step_size=0.1).compile(backend="eager")
            >>> sampler.sample(dim=2, n_samples=5, n_steps=100).shape
            torch.Size([5, 2])
        """
        super().compile(block, **options)
        assert isinstance(self.compiled, CompiledBlocks)
        self.compiled = GraphedBlocks(self, self.compiled.block, options)
        return self


def langevin_step_cuda(x: Float[Tensor, " chain *event"], energy_function: BaseModel, step_size: float = 0.01,
                       noise_scale: float = 1.0, *,
                       generator: torch.Generator | None = None) -> Float[Tensor, " chain *event"]:  # fmt: skip
    r"""One Langevin step, $x - h \nabla E(x) + s \sqrt{2h}\,\xi$: fused on an accelerator, plain PyTorch elsewhere.

    Many steps are one launch in `CUDALangevinDynamics`, which also says what is fused.

    Args:
        x: Where the chains are.
        energy_function: The model.
        step_size: $h$.
        noise_scale: $s$, the square root of the temperature.
        generator: Source of the noise.

    Returns:
        Where the chains are next.
    """
    sampler = CUDALangevinDynamics(energy_function, step_size, noise_scale)
    if sampler.why_not_fused(x) is not None:
        return sampler.sample(x=x, n_steps=1, generator=generator)
    with torch.no_grad():
        return sampler.advance(Position(x.detach()), 0, 1, target=Target(sampler.model), generator=generator).x


def _not_this_run(target: Target, parameters: Mapping[str, list[float]]) -> str | None:
    """What else the kernel does not know, beside what `why_not_fused` tells."""
    if elementwise(target.model) is None:
        return f"{type(target.model).__name__} is not registered as elementwise"
    if target.model_kwargs:
        return "model_kwargs were given"
    if target.autocast_dtype is not None:
        return f"the model is to be evaluated in {target.autocast_dtype}"
    if any(isinstance(value, Tensor) for values in parameters.values() for value in values):
        return "its parameters are tensors"
    return None


def _steps(parameters: Mapping[str, list[float]], start: int, n: int, temperature: float) -> launch.Steps:
    """What the kernel multiplies by, for `n` steps from `start` on."""
    now = {name: values[start : start + n] for name, values in parameters.items()}
    scales = zip(now["step_size"], now["noise_scale"], strict=True)
    spread = [noise_scale * (2 * h * temperature) ** 0.5 for h, noise_scale in scales]
    return launch.Steps(now["step_size"], spread, now.get("gradient_clip"))


def _thinning(observe: Observer) -> int:
    """How many steps apart an observer wants to see them: all, but where only draws are recorded."""
    return observe.thin if isinstance(observe, Recorder) and observe.diagnostics is None else 1
