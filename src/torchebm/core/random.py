r"""The one place that draws random numbers, always from an explicit generator or PyTorch's default one.

With a generator the global stream is neither read nor advanced; without one, PyTorch's default is used. Nothing here,
or anywhere in the library, seeds a stream that is not its own.
"""

import functools
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "categorical",
    "check_generator",
    "generator_for",
    "normal_",
    "normal_at_once",
    "randint",
    "randn",
    "randperm",
    "uniform",
    "uniform_",
]


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    """Refuses, with the fix in the message, a generator that cannot fill tensors on `device`."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None; got {type(generator).__name__}. "
                        "To seed one: torch.Generator().manual_seed(0).")  # fmt: skip
    if generator.device.type != device.type:
        raise ValueError(
            f"the generator lives on {generator.device}, the tensors it should fill on {device}: "
            f"create it with torch.Generator(device={str(device)!r})."
        )


def normal_(out: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fills `out` with standard normal draws, in place, and returns it."""
    return out.normal_(generator=generator)


def normal_at_once(out: Tensor) -> bool:
    """Whether `normal_(out)` gives what `normal_` of `out[0]`, `out[1]` and so on would, which costs more calls."""
    if out.device.type != "cpu" or not out.is_contiguous() or len(out) == 0:
        return False
    return out[0].numel() % _AT_ONCE == 0 and _come_at_once(out.dtype)


_AT_ONCE = 16  # normal numbers that PyTorch makes of as many uniform ones, on a CPU


@functools.cache
def _come_at_once(dtype: torch.dtype) -> bool:
    """Whether rows of so many numbers, or a multiple, may be filled in one call: tried, as it is PyTorch's affair."""
    a, b = generator_for("rows"), generator_for("rows")
    whole, rows = (torch.empty(3, 3 * _AT_ONCE, dtype=dtype, device="cpu") for _ in range(2))
    normal_(whole, a)
    for row in rows:
        normal_(row, b)
    return torch.equal(whole, rows) and torch.equal(a.get_state(), b.get_state())


def uniform_(out: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fills `out` with uniform draws from [0, 1), in place, and returns it."""
    return out.uniform_(generator=generator)


def randn(shape: Sequence[int], *, generator: torch.Generator | None = None,
          dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:  # fmt: skip
    """Standard normal draws of the given shape."""
    return normal_(torch.empty(tuple(shape), dtype=dtype, device=device), generator)


def uniform(shape: Sequence[int], *, generator: torch.Generator | None = None,
            dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:  # fmt: skip
    """Uniform draws from [0, 1) of the given shape."""
    return uniform_(torch.empty(tuple(shape), dtype=dtype, device=device), generator)


def randint(high: int, shape: Sequence[int], *, generator: torch.Generator | None = None,
            device: torch.device | str | None = None) -> Tensor:  # fmt: skip
    """Integers drawn uniformly from 0 to high - 1."""
    return torch.randint(high, tuple(shape), generator=generator, device=device)


def randperm(n: int, *, generator: torch.Generator | None = None, device: torch.device | str | None = None) -> Tensor:
    """A random permutation of 0 to n - 1."""
    return torch.randperm(n, generator=generator, device=device)


def categorical(weights: Tensor, n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """`n` indices drawn with the given weights, one uniform each, by the inverse of the cumulative sum."""
    edges = torch.cumsum(weights.double(), 0)
    u = uniform((n,), generator=generator, dtype=torch.float64, device=weights.device) * edges[-1]
    return torch.searchsorted(edges, u, right=True).clamp_(max=len(weights) - 1)


def generator_for(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for a key such as `(seed, attempt, rank, "chains")`.

    The seed is a hash of the key, so that neighbouring keys give unrelated streams. Two calls with one key give two
    generators that produce the same numbers.

    Example:
        >>> a, b = generator_for(0, "chains"), generator_for(0, "chains")
        >>> torch.equal(randn((3,), generator=a), randn((3,), generator=b))
        True
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
