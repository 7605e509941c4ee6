# ruff: noqa: ANN001, ANN202, SIM102
"""The kernels, in Triton: Langevin steps of elementwise energies, many in one launch, and the noise alone.

Each program has `BLOCK` quads of four neighbouring entries, whose noise is one call of Philox in float32 and two in
float64; `philox.py` says the same in PyTorch. Entries stay in registers from the first step of a launch to the last.
"""

from types import SimpleNamespace

try:
    import triton  # pyrefly: ignore[missing-import]
    import triton.language as tl  # pyrefly: ignore[missing-import]
except ImportError:  # the file can be imported all the same; `launch.obstacle` says what is missing
    triton, tl = None, SimpleNamespace(constexpr=None)

__all__ = ["available", "interpreted"]


def available() -> bool:
    """Whether Triton is installed."""
    return triton is not None


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, on any device, one operation after the other."""
    return triton is not None and not isinstance(langevin, triton.JITFunction)


_jit = (lambda function: function) if triton is None else triton.jit


@_jit
def _philox(position, key, quad):
    """Words of a position and a key, int64 both, for the quads of a block."""
    zero = (quad * 0).to(tl.uint32)
    c0, c1 = zero + position.to(tl.uint32), zero + (position >> 32).to(tl.uint32)
    c2, c3 = quad.to(tl.uint32), (quad >> 32).to(tl.uint32)
    k0, k1 = zero + key.to(tl.uint32), zero + (key >> 32).to(tl.uint32)
    m0, m1 = tl.full((1,), 0xD2511F53, tl.uint32), tl.full((1,), 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high_0, low_0, high_1, low_1 = tl.umulhi(c0, m0), c0 * m0, tl.umulhi(c2, m1), c2 * m1
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = k0 + tl.full((1,), 0x9E3779B9, tl.uint32), k1 + tl.full((1,), 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@_jit
def _box_muller(u, v, tau):
    radius = tl.sqrt(-2.0 * tl.log(u))
    return radius * tl.cos(tau * v), radius * tl.sin(tau * v)


@_jit
def _unit_32(word):
    return word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32 and 2^-33


@_jit
def _unit_53(high, low):
    bits = high.to(tl.uint64) * 2097152 + (low >> 11).to(tl.uint64)  # 2^21
    return bits.to(tl.float64) * 1.1102230246251565e-16 + 5.551115123125783e-17  # 2^-53 and 2^-54


@_jit
def _normals(keys, step, quad, tau, WIDE: tl.constexpr):
    """Four standard normal numbers for each quad, of a row of keys and positions."""
    key, position = tl.load(keys + 2 * step), tl.load(keys + 2 * step + 1)
    w0, w1, w2, w3 = _philox(position, key, quad)
    if WIDE:
        n0, n1 = _box_muller(_unit_53(w0, w1), _unit_53(w2, w3), tau)
        w0, w1, w2, w3 = _philox(position + 1, key, quad)
        n2, n3 = _box_muller(_unit_53(w0, w1), _unit_53(w2, w3), tau)
    else:
        n0, n1 = _box_muller(_unit_32(w0), _unit_32(w1), tau)
        n2, n3 = _box_muller(_unit_32(w2), _unit_32(w3), tau)
    return n0, n1, n2, n3


# slopes of one coordinate --------------------------------------------------------------------------------------------


@_jit
def harmonic_slope(x, a, b, c):  # a is k
    return a * x


@_jit
def double_well_slope(x, a, b, c):  # a is -4hb², and b is 4h
    return x * a + b * (x * x * x)


@_jit
def rastrigin_slope(x, a, b, c):  # a is 2π, and b is 2π times the depth
    return 2.0 * x + b * tl.sin(a * x)


# kernels -------------------------------------------------------------------------------------------------------------


@_jit
def _bounded(t, low, high):
    """On [low, high]; NaN where it is not finite, since a bound must not hide that."""
    return tl.minimum(tl.maximum(t, low), high) + (t - t)


@_jit
def _moved(x, xi, rate, spread, limit, low, high, a, b, c, held,
           SLOPE: tl.constexpr, CLIP: tl.constexpr, BOX: tl.constexpr, HELD: tl.constexpr):  # fmt: skip
    slope = SLOPE(x, a, b, c)
    if CLIP:
        slope = _bounded(slope, -limit, limit)
    new = x - rate * slope + spread * xi
    if BOX:
        new = _bounded(new, low, high)
    if HELD:
        new = tl.where(held != 0, x, new)
    return new


@_jit
def _chain_values(pointer, at, n_event, inside, GIVEN: tl.constexpr):
    """Of each entry, the value of its chain; or 1 where there is one value for all."""
    if GIVEN:
        return tl.load(pointer + at // n_event, mask=inside)
    else:
        return 1.0


@_jit
def langevin(x, out, draws, keys, steps, constants, roots, held, n, n_event, n_steps, thin,
             SLOPE: tl.constexpr, CLIP: tl.constexpr, BOX: tl.constexpr, ROOTS: tl.constexpr,
             HELD: tl.constexpr, KEEP: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """`n_steps` steps of `n` entries, in chains of `n_event`; `launch.py` says what the tables hold."""
    quad = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    i0, i1, i2, i3 = 4 * quad, 4 * quad + 1, 4 * quad + 2, 4 * quad + 3
    in0, in1, in2, in3 = i0 < n, i1 < n, i2 < n, i3 < n
    x0, x1 = tl.load(x + i0, mask=in0, other=0.0), tl.load(x + i1, mask=in1, other=0.0)
    x2, x3 = tl.load(x + i2, mask=in2, other=0.0), tl.load(x + i3, mask=in3, other=0.0)
    r0, r1 = _chain_values(roots, i0, n_event, in0, ROOTS), _chain_values(roots, i1, n_event, in1, ROOTS)
    r2, r3 = _chain_values(roots, i2, n_event, in2, ROOTS), _chain_values(roots, i3, n_event, in3, ROOTS)
    h0, h1 = _chain_values(held, i0, n_event, in0, HELD), _chain_values(held, i1, n_event, in1, HELD)
    h2, h3 = _chain_values(held, i2, n_event, in2, HELD), _chain_values(held, i3, n_event, in3, HELD)
    a, b, c = tl.load(constants), tl.load(constants + 1), tl.load(constants + 2)
    low, high, tau = tl.load(constants + 3), tl.load(constants + 4), tl.load(constants + 5)
    for k in range(n_steps):
        rate, spread, limit = tl.load(steps + 3 * k), tl.load(steps + 3 * k + 1), tl.load(steps + 3 * k + 2)
        n0, n1, n2, n3 = _normals(keys, k, quad, tau, WIDE)
        x0 = _moved(x0, n0, rate, spread * r0, limit, low, high, a, b, c, h0, SLOPE, CLIP, BOX, HELD)
        x1 = _moved(x1, n1, rate, spread * r1, limit, low, high, a, b, c, h1, SLOPE, CLIP, BOX, HELD)
        x2 = _moved(x2, n2, rate, spread * r2, limit, low, high, a, b, c, h2, SLOPE, CLIP, BOX, HELD)
        x3 = _moved(x3, n3, rate, spread * r3, limit, low, high, a, b, c, h3, SLOPE, CLIP, BOX, HELD)
        if KEEP:  # known when it is compiled, which the next is not
            if (k + 1) % thin == 0:
                kept = draws + ((k + 1) // thin - 1).to(tl.int64) * n
                tl.store(kept + i0, x0, mask=in0)
                tl.store(kept + i1, x1, mask=in1)
                tl.store(kept + i2, x2, mask=in2)
                tl.store(kept + i3, x3, mask=in3)
    tl.store(out + i0, x0, mask=in0)
    tl.store(out + i1, x1, mask=in1)
    tl.store(out + i2, x2, mask=in2)
    tl.store(out + i3, x3, mask=in3)


@_jit
def normals(out, keys, constants, n, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """The noise of one step."""
    quad = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    n0, n1, n2, n3 = _normals(keys, 0, quad, tl.load(constants + 5), WIDE)
    tl.store(out + 4 * quad, n0, mask=4 * quad < n)
    tl.store(out + 4 * quad + 1, n1, mask=4 * quad + 1 < n)
    tl.store(out + 4 * quad + 2, n2, mask=4 * quad + 2 < n)
    tl.store(out + 4 * quad + 3, n3, mask=4 * quad + 3 < n)
