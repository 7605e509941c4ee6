"""Launches of the kernels: what they can run, the tables that they read, and their grids."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchebm.core.closed_form import check_points
from torchebm.core.model import BaseModel

from . import kernels
from .elementwise import elementwise

__all__ = ["Steps", "fill_normal_", "langevin_steps", "obstacle"]

DTYPES = torch.float32, torch.float64
_BLOCK = 128  # quads of entries a program: one a thread of four warps
_UNLIMITED = math.inf


class Steps(NamedTuple):
    """The numbers of a run of steps, one of each a step."""

    step_size: Sequence[float]
    """What multiplies the slope."""
    spread: Sequence[float]
    """What multiplies the noise."""
    clip: Sequence[float] | None = None
    """Limits on the slope's absolute value."""


def obstacle(model: BaseModel, x: Tensor, interpreter: bool = False) -> str | None:
    """Why the kernel cannot run `model` on `x`; `None` where it can.

    Args:
        model: The energy.
        x: The chains.
        interpreter: Whether Triton's interpreter, if it is on, will do where there is no accelerator.
    """
    if elementwise(model) is None:
        return f"{type(model).__name__} is not registered as elementwise: see register_elementwise"
    if x.dtype not in DTYPES:
        return f"the chains are {x.dtype}, the kernel computes in float32 or float64"
    if not x.is_cuda and not (interpreter and kernels.interpreted()):
        return f"the chains are on {x.device}, not on an accelerator"
    if not kernels.available():
        return 'Triton is not installed: pip install "torchebm[cuda]"'
    return None


def langevin_steps(x: Float[Tensor, " chain *event"], model: BaseModel, keys: Int64[Tensor, "step 2"], steps: Steps, *,
                   box: tuple[float, float] | None = None, temperature: Float[Tensor, " chain"] | None = None,
                   held: Bool[Tensor, " chain"] | None = None, thin: int | None = None
                   ) -> tuple[Float[Tensor, " chain *event"], Float[Tensor, " draw chain *event"] | None]:  # fmt: skip
    """Langevin steps of an elementwise energy in one launch: `x` is read once, and written once.

    Args:
        x: The chains; not modified.
        model: The energy.
        keys: Of the noise, from `step_keys`.
        steps: Step size, spread and clip, `[step]` each.
        box: `(low, high)`, on which states are projected.
        temperature: Of each chain, beside what is in the spread.
        held: True for chains that stay where they are.
        thin: Keep every so many steps; none if left out.

    Returns:
        Where the chains are after the last step, and what was kept.
    """
    reason = obstacle(model, x, interpreter=True)
    if reason is not None:
        raise ValueError(f"the fused kernel cannot run this: {reason}.")
    known = elementwise(model)
    assert known is not None
    check_points(x, model.event_shape)
    x, n_steps = x.contiguous(), len(keys)
    out = torch.empty_like(x)
    draws = None if thin is None else x.new_empty(n_steps // thin, *x.shape)
    if x.numel() == 0:
        return out, draws
    clip = [_UNLIMITED] * n_steps if steps.clip is None else steps.clip
    table = torch.tensor([steps.step_size, steps.spread, clip], dtype=x.dtype).T.contiguous().to(x.device)
    roots = None if temperature is None else temperature.to(x).sqrt().expand(len(x)).contiguous()
    slope = getattr(kernels, known.slope) if isinstance(known.slope, str) else known.slope
    _launch(kernels.langevin, x, out, draws if draws is not None else out, keys.to(x.device), table,
            _constants(known.values(model), box, x), x if roots is None else roots,
            x if held is None else held.to(torch.int8), x.numel(), x[0].numel(), n_steps, thin or 1, SLOPE=slope,
            CLIP=steps.clip is not None, BOX=box is not None, ROOTS=roots is not None, HELD=held is not None,
            KEEP=thin is not None)  # fmt: skip
    return out, draws


def fill_normal_(out: Float[Tensor, " *shape"], keys: Int64[Tensor, "1 2"]) -> Float[Tensor, " *shape"]:
    """`philox_normal_` in one launch."""
    if out.numel():
        whole = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
        _launch(kernels.normals, whole, keys.to(out.device), _constants((0.0, 0.0, 0.0), None, out), out.numel())
        if whole is not out:
            out.copy_(whole)
    return out


def _constants(parameters: tuple[float, ...], box: tuple[float, float] | None, like: Tensor) -> Tensor:
    """In the dtype of the chains, since numbers that are arguments of a kernel have 32 bits."""
    low, high = (0.0, 0.0) if box is None else box
    return torch.tensor([*parameters, low, high, 2 * math.pi], dtype=like.dtype).to(like.device)


def _launch(kernel: Any, x: Tensor, *arguments: Any, **options: Any) -> None:
    n_programs = math.ceil(x.numel() / (4 * _BLOCK))
    # products and sums are rounded one by one, as they are in PyTorch
    options |= {"WIDE": x.dtype == torch.float64, "BLOCK": _BLOCK, "enable_fp_fusion": False}
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        kernel[(n_programs,)](x, *arguments, **options)
