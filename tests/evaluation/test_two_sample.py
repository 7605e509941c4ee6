"""Permutation tests: the statistics, their calibration and their power."""

import math

import pytest
import torch

from torchebm.evaluation import energy_distance, kernels, mmd, projections, sliced_wasserstein, two_sample_test
from torchebm.evaluation.two_sample import STATISTICS, as_large, divisions, neighbours

F64 = torch.float64
NAMES = sorted(STATISTICS)
every = pytest.mark.parametrize("statistic", NAMES)


def p_values(draw, statistic, g, n=400, k=49, **options):
    """Of n pairs of sets, spread evenly over the steps between the values that there are."""
    found = torch.tensor([two_sample_test(*draw(), statistic, k, generator=g, **options).p_value for _ in range(n)])
    return found.double() - torch.rand(n, generator=g, dtype=F64) / (k + 1)


# values ---------------------------------------------------------------------------------------------------------------


def votes(x, first):
    """Leave-one-out votes of the nearest neighbours, point by point."""
    k = math.isqrt(len(x)) | 1
    share, right = first.double().mean(), {True: [], False: []}
    for i in range(len(x)):
        apart = (x - x[i]).norm(dim=1)
        apart[i] = math.inf
        vote = first[apart.argsort()[:k]].double().mean()
        side = 0.5 if vote == share else float((vote > share) == first[i])
        right[bool(first[i])].append(side)
    return sum(sum(r) / len(r) for r in right.values()) / 2


@every
@pytest.mark.parametrize("d", [1, 3])
def test_each_division_has_the_distance_of_its_parts(statistic, d, generator, monkeypatch):
    """Against the functions that take two sets, division by division, whatever the size of the blocks."""
    a, b = torch.randn(7, d, generator=generator, dtype=F64), torch.randn(12, d, generator=generator, dtype=F64) + 1
    x, labels = divisions(a, b, 9, 1, generator)
    bandwidth = kernels.median_distance(x)
    directions = projections(d, 1 if d == 1 else 100, generator=torch.Generator().manual_seed(5))
    reference = {
        "mmd": lambda one, other: mmd(one, other, bandwidth=bandwidth),
        "energy_distance": energy_distance,
        "sliced_wasserstein": lambda one, other: sliced_wasserstein(one, other, directions),
    }
    if statistic == "classifier":
        expected = [votes(x, first) for first in labels.T]
    else:
        expected = [reference[statistic](x[first], x[~first]) for first in labels.T]
    for entries in (2**22, 30):
        monkeypatch.setattr(kernels, "ENTRIES", entries)
        found = STATISTICS[statistic](x, labels, 1, torch.Generator().manual_seed(5))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=F64), rtol=1e-10, atol=1e-12)


def test_divisions_are_of_the_union(generator):
    """The observed one first; then random ones of the same sizes, each as likely: pairs of 2 + 2 points."""
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    x, labels = divisions(a, b, 6000, 1, generator)
    assert sorted(x[labels[:, 0]].flatten().tolist()) == [0.0, 1.0]
    assert (labels.sum(0) == 2).all()
    code = (labels[:, 1:].long() * torch.tensor([[8], [4], [2], [1]])).sum(0)
    counts = torch.stack([(code == c).sum() for c in (3, 5, 6, 9, 10, 12)])
    assert ((counts - 1000).abs() < 5 * math.sqrt(1000 * 5 / 6)).all()  # five standard errors


def test_blocks_stay_together_and_in_order(generator):
    a, b = torch.arange(12.0).reshape(6, 2), 100 + torch.arange(20.0).reshape(10, 2)
    x, labels = divisions(a, b, 50, 2, generator)
    assert not torch.equal(x, torch.cat([a, b]))  # which would be one order of 40,320; ties are broken by order
    pairs = x.reshape(8, 2, 2)
    assert (pairs[:, 1] - pairs[:, 0] == 2).all()
    assert (labels[0::2] == labels[1::2]).all()
    assert (labels.sum(0) == 6).all()
    assert (x[labels[:, 0]] < 100).all()


def test_neighbours_are_of_other_blocks(generator):
    """In chains whose draws are all alike the nearest points are the chain's own, which say nothing."""
    x = (torch.arange(5.0).repeat_interleave(4) + 0.01 * torch.rand(20, generator=generator)).unsqueeze(1).double()
    found = neighbours(x, 3, 4)
    assert (found // 4 != torch.arange(20).unsqueeze(1) // 4).all()
    assert (neighbours(x, 3) // 4 == torch.arange(20).unsqueeze(1) // 4).all()


def test_the_p_value_counts_the_observed_value():
    """Three and three points far apart: of 20 divisions two are as extreme, and the observed one is always counted."""
    a, b = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[50.0], [51.5], [53.0]])
    found = two_sample_test(a, b, "energy_distance", 4000, generator=torch.Generator().manual_seed(0))
    as_extreme = int((found.null >= found.value - 1e-9).sum())
    assert found.p_value == (1 + as_extreme) / 4001
    assert abs(as_extreme / 4000 - 0.1) < 5 * math.sqrt(0.09 / 4000)  # five standard errors
    assert found.value == pytest.approx(energy_distance(a, b), rel=1e-12)
    assert found.sizes == (3, 3)
    assert "null" not in repr(found)


def test_values_that_differ_by_rounding_are_as_large():
    assert as_large(torch.tensor([1.0 - 1e-13, 0.9], dtype=F64), torch.tensor(1.0, dtype=F64)).tolist() == [True, False]


def test_constant_sets_are_the_same():
    same = torch.ones(6, 2)
    assert {two_sample_test(same, same, name, 9).p_value for name in NAMES if name != "classifier"} == {1.0}


# calibration and power ------------------------------------------------------------------------------------------------


@every
def test_p_values_are_uniform_if_nothing_differs(statistic, generator, off_uniform, bound):
    """400 pairs of 8 and 12 points of a heavy-tailed density. Fails by chance twice in a million; the accuracy of
    votes has many ties, so that its p-values may be too large."""

    def draw():
        t = torch.randn(20, 2, generator=generator)
        return (t / torch.rand(20, 1, generator=generator).sqrt()).split([8, 12])

    below, above = off_uniform(p_values(draw, statistic, generator))
    assert below < bound(400)
    assert statistic == "classifier" or above < bound(400)


@every
def test_ties_do_not_tell_the_sets_apart(statistic, generator):
    """Points on a grid of 4: which of those equally near come first must not depend on the order of the sets.

    A share of rejections at 10 %, of 300, five standard errors above.
    """
    found = p_values(lambda: torch.randint(2, (40, 2), generator=generator).split(20), statistic, generator, 300)
    assert (found <= 0.1).double().mean() < 0.1 + 5 * math.sqrt(0.09 / 300)


@pytest.mark.parametrize(
    ("statistic", "scale", "shift"),
    [("mmd", 1.0, 1.0), ("mmd", 2.0, 0.0), ("energy_distance", 1.0, 1.0), ("energy_distance", 2.5, 0.0),
     ("sliced_wasserstein", 1.0, 1.0), ("sliced_wasserstein", 2.0, 0.0), ("classifier", 1.0, 2.0)],
)  # fmt: skip
def test_differences_are_found(statistic, scale, shift, generator):
    """60 and 80 points of normals in the plane, one shifted by standard deviations or wider: nothing is as extreme.

    Normal theory puts the smallest of these, one standard deviation, eight standard errors away.
    """
    a, b = torch.randn(60, 2, generator=generator), torch.randn(80, 2, generator=generator)
    b = scale * b + torch.tensor([shift, shift])
    assert two_sample_test(a, b, statistic, 199, generator=generator).p_value == 1 / 200


@every
def test_draws_of_chains_want_blocks(statistic, chains, generator, off_uniform, bound):
    """Chains of ten draws taken for 200 independent points are found to differ; as blocks they are not. Bounds as
    above; without blocks, half of 300 tests at 5 % reject, or more."""

    def draw():
        return chains(20, 10).flatten(), chains(20, 10).flatten()

    blocks = p_values(draw, statistic, generator, 300, 29, block_size=10)
    assert off_uniform(blocks)[0] < bound(300)
    if statistic != "classifier":
        single = p_values(draw, statistic, generator, 100, 29)
        assert (single <= 0.05).double().mean() > 0.3


# use ------------------------------------------------------------------------------------------------------------------


@every
def test_same_generator_same_bits_and_nothing_else_moves(statistic, seeded):
    a, b = torch.randn(10, 1, 2, 2, generator=seeded(1)), torch.randn(12, 1, 2, 2, generator=seeded(2))
    before, copies = torch.get_rng_state(), (a.clone(), b.clone())
    one, other = (two_sample_test(a, b, statistic, 20, generator=seeded(3)) for _ in range(2))
    assert torch.equal(one.null, other.null)
    assert (one.value, one.p_value, one.statistic) == (other.value, other.p_value, statistic)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])


def test_a_statistic_of_ones_own(generator):
    def difference_of_means(x, labels, block_size, generator):
        mean = [(x * these).sum(0) / these.sum(0) for these in (labels.double(), (~labels).double())]
        return (mean[0] - mean[1]).abs()

    a, b = torch.randn(30, generator=generator), 3 + torch.randn(30, generator=generator)
    found = two_sample_test(a, b, difference_of_means, 99, generator=generator)
    assert found.statistic == "difference_of_means"
    assert found.p_value == 0.01
    assert found.value == pytest.approx(float((a.mean() - b.mean()).abs()), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statistic": "fid"}, r"there is no statistic 'fid'; there are \['classifier', 'energy_distance'"),
        ({"statistic": lambda x, labels, size, g: x}, r"returned shape \[24, 2\]; expected \[1000\]"),
        ({"n_permutations": 0}, "n_permutations must be at least 1"),
        ({"block_size": 5}, "b holds 14 points, which is no multiple of block_size=5: leave out the first 4"),
        ({"b": torch.zeros(14, 3)}, r"a holds points of shape \[2\], b points of shape \[3\]"),
        ({"b": torch.zeros(1, 2)}, "b holds 1 points; at least 2"),
        ({"b": torch.full((4, 2), math.nan)}, "b has entries that are not finite, in 4 of 4"),
    ],
    ids=["name", "function", "permutations", "blocks", "shapes", "few", "nan"],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        two_sample_test(**{"a": torch.zeros(10, 2), "b": torch.ones(14, 2), **change})


def test_a_statistic_must_be_a_name_or_a_function():
    with pytest.raises(TypeError, match="must be a name or a function"):
        two_sample_test(torch.zeros(5, 1), torch.ones(5, 1), 3)
