r"""Random numbers that are a function of where they are used: Philox in plain PyTorch, and the keys of a run's steps.

Philox4x32-10 turns a key of 64 bits and a counter of 128 bits into four words of 32 bits. A step of a sampler has a key
and a position, an entry of `x` has its index, and counter and key are laid out as PyTorch's own CUDA generators lay
them out:

| word | of the counter | of the key |
|---|---|---|
| 0, 1 | the position, low and high | the key, low and high |
| 2, 3 | the index of the entry over 4, low and high | |

So no order of execution, number of threads or cut of a run changes a number, and the noise of a chain does not depend
on how many chains follow it. Normal numbers come in pairs by the method of Box and Muller.

References: Salmon, Moraes, Dror & Shaw (2011), https://doi.org/10.1145/2063384.2063405
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchebm.core.random import check_generator, randint

__all__ = ["philox", "philox_normal_", "positions_per_step", "step_keys"]

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85  # the golden ratio and the square root of three, as fractions of 2^32
_N_ROUNDS = 10
_WORD = 0xFFFFFFFF


def philox(counter: Sequence[Tensor | int], key: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10.

    Args:
        counter: Four words, each a number or a tensor of int64 with entries in [0, 2^32), one of them a tensor.
        key: Two words.

    Returns:
        Four words, int64 in [0, 2^32).

    Example:
        >>> words = philox([torch.zeros(1, dtype=torch.int64), 0, 0, 0], [0, 0])
        >>> [f"{word.item():08x}" for word in words]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*map(torch.as_tensor, counter))
    k0, k1 = key
    for _ in range(_N_ROUNDS):
        high_0, low_0 = _product(c0, _MULTIPLIERS[0])
        high_1, low_1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def philox_normal_(out: Float[Tensor, " *shape"], key: int, position: int) -> Float[Tensor, " *shape"]:
    r"""Fills `out` with the standard normal numbers of a key and a position, in place, and returns it.

    $\xi = \sqrt{-2 \log u}\,(\cos 2\pi v, \sin 2\pi v)$ for uniform numbers u in (0, 1] and v, each of 32 bits; in
    float64 of 53 bits, from the words of this position and of the next.

    Example:
        >>> a, b = philox_normal_(torch.empty(10), 3, 0), philox_normal_(torch.empty(3), 3, 0)
        >>> torch.equal(a[:3], b)
        True
    """
    n = out.numel()
    quads = torch.arange((n + 3) // 4, device=out.device)
    wide = out.dtype == torch.float64
    pairs = []
    for k in range(positions_per_step(out.dtype)):
        w0, w1, w2, w3 = philox([*_halves(position + k), quads & _WORD, quads >> 32], _halves(key))
        if wide:
            pairs.append(_box_muller(_unit(w0 << 21 | w1 >> 11, 53, out), _unit(w2 << 21 | w3 >> 11, 53, out)))
        else:
            pairs += [_box_muller(_unit(w0, 32, out), _unit(w1, 32, out)),
                      _box_muller(_unit(w2, 32, out), _unit(w3, 32, out))]  # fmt: skip
    normals = torch.stack([normal for pair in pairs for normal in pair], 1)  # [quad, 4]
    return out.copy_(normals.view(-1)[:n].view(out.shape))


def positions_per_step(dtype: torch.dtype) -> int:
    """How many positions a step's noise takes."""
    return 2 if dtype == torch.float64 else 1


def step_keys(n: int, generator: torch.Generator | None, dtype: torch.dtype,
              device: torch.device) -> Int64[Tensor, "n 2"]:  # fmt: skip
    """Key and position of each of `n` steps, drawn from the generator: n + m in two calls are those of one.

    On the CPU each step draws its key, of 63 bits, and its position is 0. A CUDA generator is a Philox itself: its seed
    is the key, and its offset, which is moved on as a kernel of PyTorch would move it, the position. So these are
    numbers of its own stream, shared with no other draw, and no kernel runs to make keys.

    Args:
        n: Steps.
        generator: On the device; PyTorch's default one if left out.
        dtype: Of the noise.
        device: Of the noise.

    Returns:
        On the CPU, int64.
    """
    check_generator(generator, device)
    if device.type == "cpu":
        return torch.stack([randint(2**63 - 1, (n,), generator=generator), torch.zeros(n, dtype=torch.int64)], 1)
    if generator is None:
        index = torch.cuda.current_device() if device.index is None else device.index
        generator = torch.cuda.default_generators[index]
    return _from_offset(generator, n, positions_per_step(dtype))


def _from_offset(generator: torch.Generator, n: int, stride: int) -> Int64[Tensor, "n 2"]:
    """The seed, and positions from the generator's offset on, which counts words, four a position."""
    offset, seed = generator.get_offset(), generator.initial_seed()
    first = (offset + 3) // 4
    generator.set_offset(4 * (first + stride * n))
    positions = torch.arange(first, first + stride * n, stride)
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    return torch.stack([torch.full_like(positions, signed), positions], 1)


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of a product of two words, by halves of b, so that no int64 overflows."""
    low = a * (b & 0xFFFF)
    middle = a * (b >> 16) + (low >> 16)
    return middle >> 16, (middle & 0xFFFF) << 16 | low & 0xFFFF


def _halves(number: int) -> tuple[int, int]:
    return number & _WORD, number >> 32 & _WORD


def _unit(integer: Tensor, bits: int, like: Tensor) -> Tensor:
    """In (0, 1], from integers of so many bits: the middle of each interval, rounded."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return integer.to(dtype) * 2.0**-bits + 2.0 ** -(bits + 1)


def _box_muller(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    radius, angle = torch.sqrt(-2 * torch.log(u)), 2 * math.pi * v
    return radius * torch.cos(angle), radius * torch.sin(angle)
