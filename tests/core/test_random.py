"""The one place that draws: from the generator it is given, and from nothing else."""

import math

import pytest
import torch

from torchebm.core import random
from torchebm.core.random import (
    categorical,
    check_generator,
    generator_for,
    normal_,
    normal_at_once,
    randint,
    randn,
    randperm,
    uniform,
    uniform_,
)

DRAWS = {
    "randn": lambda g: randn((3, 2), generator=g),
    "uniform": lambda g: uniform((3, 2), generator=g),
    "randint": lambda g: randint(1000, (3, 2), generator=g),
    "randperm": lambda g: randperm(50, generator=g),
    "normal_": lambda g: normal_(torch.empty(4), g),
    "uniform_": lambda g: uniform_(torch.empty(4), g),
    "categorical": lambda g: categorical(torch.ones(1000), 5, generator=g),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@every_draw
def test_the_generator_decides(draw):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, other = draw(seeded()), draw(seeded()), draw(seeded(1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@every_draw
def test_without_one_the_default_stream_decides(draw):
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(draw(None))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@every_draw
def test_a_generator_goes_on(draw):
    generator = seeded()
    assert not torch.equal(draw(generator), draw(generator))


def test_in_place_draws_return_what_they_fill():
    out = torch.empty(3, dtype=torch.float64)
    assert normal_(out, seeded()) is out
    assert uniform_(out, seeded()) is out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 16), (5, 8, 4), (3, 48), (4, 7), (4, 18), (3, 1, 2), (3, 0), (0, 16)], ids=str)
def test_rows_are_normal_at_once_only_if_one_after_the_other_gives_the_same(shape, dtype):
    whole, rows, one, two = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype), seeded(), seeded()
    normal_(whole, one)
    for row in rows:
        normal_(row, two)
    if normal_at_once(whole):
        assert torch.equal(whole, rows)
        assert torch.equal(one.get_state(), two.get_state())
    else:
        assert shape not in [(5, 16), (5, 8, 4), (3, 48)] or dtype not in (torch.float32, torch.float64)


def test_rows_that_do_not_lie_next_to_each_other_are_not_normal_at_once():
    assert normal_at_once(torch.empty(6, 16))
    assert not normal_at_once(torch.empty(6, 16)[::2])
    assert not normal_at_once(torch.empty(16, 6).T)
    assert not normal_at_once(torch.empty(6, 16, device="meta"))


def test_whether_rows_come_at_once_is_tried(monkeypatch):
    def wasteful(out, generator=None):
        out.normal_(generator=generator)
        torch.rand(1, generator=generator)  # so that two calls are not one
        return out

    with torch.device("meta"):  # a default device is for others
        assert random._come_at_once.__wrapped__(torch.float32) is True
    monkeypatch.setattr(random, "normal_", wasteful)
    assert random._come_at_once.__wrapped__(torch.float32) is False


@pytest.mark.parametrize("shape", [(), (0,), (2,), (3, 0), [2, 3], torch.Size([1, 2, 3])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, None])
def test_shapes_and_dtypes(shape, dtype):
    for draw in (randn, uniform):
        out = draw(shape, generator=seeded(), dtype=dtype)
        assert out.shape == torch.Size(shape)
        assert out.dtype == (dtype or torch.get_default_dtype())


N = 20_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments(dtype):
    """Each within 5 standard errors: failure below 6e-7 each."""
    z, u = randn((N,), generator=seeded(), dtype=dtype), uniform((N,), generator=seeded(), dtype=dtype)
    assert abs(float(z.mean())) < 5 / math.sqrt(N)
    assert abs(float(z.square().mean()) - 1) < 5 * math.sqrt(2 / N)
    assert abs(float(z.pow(3).mean())) < 5 * math.sqrt(15 / N)
    assert abs(float(u.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / N)
    assert abs(float(u.square().mean()) - 1 / 3) < 5 * math.sqrt(4 / 45 / N)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1


def test_integers_and_permutations():
    counts = torch.bincount(randint(7, (N,), generator=seeded()), minlength=7)
    assert len(counts) == 7
    assert ((counts / N - 1 / 7).abs() < 5.5 * math.sqrt(6 / 49 / N)).all()
    assert torch.equal(randperm(100, generator=seeded()).sort().values, torch.arange(100))


def test_categorical_follows_the_weights():
    weights = torch.tensor([0.0, 1.0, 5.0, 0.0, 2.0])
    counts = torch.bincount(categorical(weights, N, generator=seeded()), minlength=5)
    share = weights / weights.sum()
    assert ((counts / N - share).abs() <= 5 * (share * (1 - share) / N).sqrt()).all()  # weight 0 is never drawn


def test_categorical_is_the_inverse_of_the_cumulative_sum():
    weights = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    u = uniform((500,), generator=seeded(), dtype=torch.float64)
    expected = (u >= 0.5).long() + (u >= 0.75).long()
    assert torch.equal(categorical(weights, 500, generator=seeded()), expected)


def test_generators_for_keys():
    keys = [(0,), (1,), (0, "chains"), (0, "batches"), (0, 0, "chains"), ("0", "chains"), (0, 0, 0), (-1,), ()]
    numbers = [randn((4,), generator=generator_for(*key)) for key in keys]
    for i, a in enumerate(numbers):
        assert torch.equal(a, randn((4,), generator=generator_for(*keys[i])))
        assert not any(torch.equal(a, b) for b in numbers[:i])


def test_generators_for_neighbouring_keys_are_unrelated():
    """2,000 keys, one number each: no correlation between neighbours, within 5 standard errors."""
    z = torch.stack([randn((), generator=generator_for(k, "chains")) for k in range(2000)])
    assert abs(float((z[1:] * z[:-1]).mean())) < 5 / math.sqrt(1999)
    assert abs(float(z.mean())) < 5 / math.sqrt(2000)


def test_the_same_numbers_on_every_machine():
    """A key's numbers are part of what a seed means: they may not change from one version to the next."""
    assert 0 <= generator_for(3).initial_seed() < 2**63
    assert generator_for(0, "chains").initial_seed() == 1749124375308370632


def test_what_is_no_generator_is_refused():
    check_generator(None, torch.device("cpu"))
    check_generator(seeded(), torch.device("cpu"))
    with pytest.raises(TypeError, match=r"must be a torch.Generator or None; got int. To seed one"):
        check_generator(0, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"create it with torch.Generator\(device='meta'\)"):
        check_generator(seeded(), torch.device("meta"))
