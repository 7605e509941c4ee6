"""Philox in plain PyTorch: the published numbers, what is made of them, and the keys of a run."""

import math

import pytest
import torch

from torchebm.cuda.philox import _from_offset, philox, philox_normal_, positions_per_step, step_keys

stats = pytest.importorskip("scipy.stats")

F64, CPU = torch.float64, torch.device("cpu")
# Random123 1.14, tests/kat_vectors, philox4x32-10: counter, key, words
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def seeded(key=0):
    return torch.Generator().manual_seed(key)


def normals(n, key=12345, position=0, dtype=torch.float32):
    return philox_normal_(torch.empty(n, dtype=dtype), key, position)


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED, ids=["zeros", "ones", "pi"])
def test_published_numbers(counter, key, words):
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    assert [int(word) for word in philox([torch.tensor([c]) for c in counter], key)] == words
    many = philox([torch.tensor(counter[:1]), torch.tensor(counter[1:2]).expand(5), *counter[2:]], key)
    assert [word.tolist() for word in many] == [[word] * 5 for word in words]


def by_hand(index, key, position, dtype):
    """The normal number of one entry, in Python's own arithmetic."""

    def words(position):
        c = [position & 0xFFFFFFFF, position >> 32, index // 4 & 0xFFFFFFFF, index // 4 >> 32]
        k = [key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF]
        for _ in range(10):
            a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return c

    pair, which = divmod(index % 4, 2)
    if dtype == F64:
        w = words(position + pair)
        u, v = ((high * 2**21 + (low >> 11) + 0.5) / 2**53 for high, low in (w[:2], w[2:]))
    else:
        u, v = ((word + 0.5) / 2**32 for word in words(position)[2 * pair : 2 * pair + 2])
    return math.sqrt(-2 * math.log(u)) * (math.cos, math.sin)[which](2 * math.pi * v)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (F64, 1e-13)], ids=str)
@pytest.mark.parametrize(("key", "position"), [(0, 0), (2**63 - 2, 7), (-5, 2**32 - 1), (3, 2**40 + 9)])
def test_normals_by_hand(dtype, tolerance, key, position):
    expected = [by_hand(i, key % 2**64, position, dtype) for i in range(11)]
    drawn = normals(11, key, position, dtype)
    torch.testing.assert_close(drawn.double(), torch.tensor(expected, dtype=F64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_they_are_normal(dtype):
    """400,000 numbers; Kolmogorov-Smirnov, moments within 5 standard errors, and the tail as far as it should go."""
    x = normals(400_000, dtype=dtype).double()
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-6
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(x.pow(power).mean()) - moment) < 5 * math.sqrt(variance / len(x))
    assert 4 < float(x.abs().max()) < 6.8


def test_words_are_uniform():
    words = philox([torch.arange(100_000), 0, 0, 0], [1, 2])
    for word in words:
        assert stats.kstest((word.double() / 2**32).numpy(), "uniform").pvalue > 1e-6
        for bit in range(32):
            ones = int((word >> bit & 1).sum())
            assert abs(ones - 50_000) < 5.5 * math.sqrt(25_000)  # 128 of them: once in 200,000 keys


def test_entries_steps_and_keys_are_independent():
    """Correlations of 100,000 pairs, and of their squares, within 5 standard errors; 22 of them: once in 80,000."""
    n = 100_000
    rows = {"steps": [normals(n, 5, p) for p in range(4)], "keys": [normals(n, k) for k in (5, 6, 2**32 + 5)]}
    rows["entries"] = [normals(n, 5)[i::4] for i in range(4)]
    for group in rows.values():
        for i, a in enumerate(group):
            for b in group[:i]:
                for f in (lambda t: t, torch.square):
                    pair = torch.stack([f(a), f(b)]).double()
                    assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / math.sqrt(len(a))


def test_noise_of_an_entry_does_not_depend_on_how_many_follow():
    whole = normals(103)
    for n in (1, 2, 3, 4, 5, 102):
        assert torch.equal(normals(n), whole[:n])
    assert torch.equal(philox_normal_(torch.empty(2, 5, 3), 12345, 0).view(-1), whole[:30])
    assert len(whole.unique()) == 103


def test_memory_layouts_and_dtypes():
    whole = normals(12)
    assert torch.equal(philox_normal_(torch.empty(4, 3).T, 12345, 0), whole.view(3, 4))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(normals(12, dtype=dtype), whole.to(dtype))
    assert normals(0).shape == (0,)
    assert (positions_per_step(torch.float32), positions_per_step(F64)) == (1, 2)


def test_keys_of_steps_follow_one_another():
    whole = step_keys(100, seeded(), F64, CPU)
    generator = seeded()
    parts = [step_keys(n, generator, F64, CPU) for n in (1, 49, 0, 50)]
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole[:, 0].unique()) == 100
    assert not whole[:, 1].any()
    assert int(whole[:, 0].max()) > 2**62
    assert not torch.equal(step_keys(3, seeded(1), F64, CPU), whole[:3])


def test_keys_leave_the_global_generator_alone_or_use_it():
    before = torch.get_rng_state()
    step_keys(3, seeded(), F64, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(step_keys(3, None, F64, CPU), step_keys(3, seeded(), F64, CPU))


def test_a_generator_of_another_device_is_refused():
    with pytest.raises(ValueError, match="the generator lives on cpu"):
        step_keys(3, seeded(), F64, torch.device("cuda"))


class Philox:
    """What is used of a CUDA generator."""

    def __init__(self, seed, offset):
        self.seed, self.offset = seed, offset

    def initial_seed(self):
        return self.seed

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        assert offset % 4 == 0  # as CUDA's wants it
        self.offset = offset


@pytest.mark.parametrize("stride", [1, 2])
def test_positions_of_a_cuda_generator(stride):
    generator = Philox(2**64 - 3, 40)
    keys = torch.cat([_from_offset(generator, n, stride) for n in (3, 0, 2)])
    assert keys.tolist() == [[-3, 10 + stride * i] for i in range(5)]
    assert generator.offset == 40 + 4 * 5 * stride
    assert torch.equal(_from_offset(Philox(2**64 - 3, 40), 5, stride), keys)
    assert _from_offset(Philox(7, 41), 1, stride).tolist() == [[7, 11]]  # never a word that was used


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_generator_shares_its_stream():
    generator, device = torch.Generator("cuda").manual_seed(9), torch.device("cuda")
    torch.randn(1000, generator=generator, device=device)
    keys = step_keys(5, generator, F64, device)
    assert keys[:, 0].tolist() == [9] * 5
    assert generator.get_offset() == 4 * (int(keys[-1, 1]) + 2)
