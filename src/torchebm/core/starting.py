"""Where chains start: everything about it is checked here, once, before a run begins."""

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .bijections import pull_back
from .checks import integer
from .random import check_generator, randn
from .sampler import BaseSampler
from .target import Target

__all__ = ["redrawn", "starting_points", "stuck"]


def starting_points(sampler: BaseSampler, x: Tensor | None, dim: int | tuple[int, ...] | None, n_samples: int,
                    z: Float[Tensor, " chain *walked"] | None,
                    generator: torch.Generator | None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Tensors of their own, `[chain, *event]`: in the user's coordinates, and in those of the sampler.

    Arguments are those of `sample`, but for `z`: the chains of its `state`, in the coordinates of the sampler.
    """
    n_samples = integer("n_samples", n_samples)
    shape = sampler.model.event_shape if dim is None else _event_shape(dim)
    inner, transform = sampler.model.coordinates()
    if z is not None:
        _check_place(sampler, z)
        own = z.clone() if transform is None else cast(Tensor, transform(z)).to(z.dtype)
        if n_samples not in (1, len(own)):
            raise ValueError(f"n_samples={n_samples}, but the state holds {len(own)} chains; leave n_samples out.")
        if x is not None and not torch.equal(x, own):
            raise ValueError("x differs from the chains in state: leave x out to continue from the state.")
        x = own
    elif x is None:
        if shape is None:
            raise ValueError(
                f"{type(sampler.model).__name__} does not know its event shape: give starting points, x=, or the "
                "shape, dim=2 for vectors of length 2."
            )
        check_generator(generator, sampler.device)
        _check_device(sampler, torch.empty(0, device=sampler.device))
        walked = shape if transform is None else inner.event_shape or transform.inverse_shape(shape)
        z = randn((n_samples, *walked), generator=generator, dtype=sampler.dtype, device=sampler.device)
        x = z if transform is None else cast(Tensor, transform(z)).to(z.dtype)
    else:
        x = _own_points(sampler, x)
        if n_samples not in (1, len(x)):
            raise ValueError(f"n_samples={n_samples}, but x has {len(x)} chains; leave n_samples out when x is given.")
    if shape is not None and x.shape[1:] != shape:
        raise ValueError(
            f"x has shape {list(x.shape)} = [chain, *event], so its event shape is {list(x.shape[1:])}; "
            f"expected {list(shape)}, {'as given by dim' if dim is not None else 'that of the model'}."
        )
    check_generator(generator, x.device)
    if z is None:
        z = x if transform is None else pull_back(transform, x)
    return x, z


def _own_points(sampler: BaseSampler, x: Tensor) -> Tensor:
    """The caller's points, checked and copied, where and as the sampler shall work."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [chain, *event]; got {type(x).__name__}. Use torch.as_tensor(x).")
    if x.is_complex() or x.ndim == 0:
        raise ValueError(f"x must be a real tensor [chain, *event]; got {x.dtype} of shape {list(x.shape)}.")
    if 0 in x.shape[1:]:
        raise ValueError(f"x has shape {list(x.shape)} = [chain, *event]: a point without entries cannot move.")
    dtype = sampler._dtype or (x.dtype if x.is_floating_point() else torch.get_default_dtype())
    own = torch.empty_like(x, dtype=dtype, device=sampler._device).copy_(x.detach())
    _check_device(sampler, own)
    if not bool(own.isfinite().all()):
        bad = int((~own.isfinite()).reshape(len(x), -1).any(1).sum())
        raise ValueError(
            f"x has entries that are not finite, in {bad} of {len(x)} chains; chains must start at points."
        )
    return own


def stuck(x: Float[Tensor, " chain *event"], target: Target, with_gradient: bool,
          all_may_be: bool = False) -> Bool[Tensor, " chain"] | None:  # fmt: skip
    """Which chains start at a non-finite energy, or gradient if asked for; `None` for none of them.

    Raises:
        ValueError: If all do, unless `all_may_be`.
    """
    try:
        finite = target.open(x, with_gradient)
    except RuntimeError as error:
        wrong = {p.dtype for p in target.model.parameters() if p.is_floating_point()} - {x.dtype}
        if not wrong:
            raise
        raise TypeError(
            f"the model failed on x of {x.dtype}, and has parameters of {', '.join(map(str, wrong))}: convert one "
            "of them, as by model.to(x.dtype) or x.to(torch.float32)."
        ) from error
    n_finite = int(finite.sum())
    if n_finite == len(x):
        return None
    if n_finite == 0 and not all_may_be:
        raise ValueError(
            f"all {len(x)} chains start where the energy or its gradient is not finite, so none can move: start "
            "them where the density is positive, and check the model for logarithms, roots and divisions at those "
            "points."
        )
    return ~finite


def _check_device(sampler: BaseSampler, x: Tensor) -> None:
    tensor = sampler._tensor_of_model()
    if tensor is not None and tensor.device.type != x.device.type:
        raise ValueError(
            f"x is on {x.device}, the model on {tensor.device}: move one of them, as by model.to(x.device)."
        )


def _check_place(sampler: BaseSampler, z: Tensor) -> None:
    """Chains that go on stay in their dtype and on their device, so the sampler must not ask for others."""
    asked = sampler._dtype or z.dtype, sampler._device or z.device
    if asked[0] != z.dtype or asked[1].type != z.device.type:
        raise ValueError(
            f"the chains in state are {z.dtype} on {z.device}, the sampler was asked for {asked[0]} on {asked[1]}: "
            "continue with a sampler like the one that made the state, or start from x=state.x."
        )
    _check_device(sampler, z)


def redrawn(z: Float[Tensor, " chain *event"], lost: Bool[Tensor, " chain"],
            generator: torch.Generator | None) -> Float[Tensor, " chain *event"]:  # fmt: skip
    """Standard normal points in place of those that are lost."""
    return torch.where(lost.view(-1, *[1] * (z.ndim - 1)), randn(z.shape, generator=generator, dtype=z.dtype,
                                                                device=z.device), z)  # fmt: skip


def _event_shape(dim: int | tuple[int, ...]) -> torch.Size:
    sizes = dim if isinstance(dim, (tuple, list)) else [dim]
    return torch.Size(integer("dim" if sizes is not dim else "each size in dim", size, at_least=1) for size in sizes)
