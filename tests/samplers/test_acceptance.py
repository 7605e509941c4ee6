"""The accept test: exact on finite numbers, and never fooled by the others."""

import pytest
import torch

from torchebm.samplers.acceptance import accepts, unsound

INF, NAN = float("inf"), float("nan")


def decide(log_ratio, u, old=0.0, new=0.0):
    accepted, rate = accepts(*(torch.tensor([value]) for value in (log_ratio, u, old, new)))
    return bool(accepted), float(rate)


def test_accepts_where_the_logarithm_of_one_minus_u_is_below_the_ratio(generator):
    log_ratio, u = torch.randn(1000, generator=generator), torch.rand(1000, generator=generator)
    accepted, rate = accepts(log_ratio, u, torch.zeros(1000), torch.zeros(1000))
    assert torch.equal(accepted, torch.log1p(-u) < log_ratio)
    torch.testing.assert_close(rate, log_ratio.exp().clamp(max=1))
    assert 0 < accepted.sum() < 1000


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24])  # all that a float32 uniform can be
def test_certainties(u):
    assert decide(1e-6, u) == (True, 1.0)
    assert decide(1e30, u) == (True, 1.0)
    assert decide(-1e30, u) == (False, 0.0)


NOT_FINITE = [
    (NAN, 0.0, NAN, False),
    (-INF, 0.0, INF, False),
    (INF, 0.0, -INF, False),
    (NAN, INF, INF, False),
    (NAN, NAN, NAN, False),
    (NAN, INF, NAN, False),
    (NAN, 0.0, 0.0, False),  # a momentum that is not finite
    (INF, INF, 0.0, True),
    (NAN, NAN, 0.0, True),
    (-INF, -INF, 0.0, True),
]


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize(("log_ratio", "old", "new", "expected"), NOT_FINITE)
def test_what_is_not_finite_is_left_and_not_entered(log_ratio, old, new, expected, u):
    assert decide(log_ratio, u, old, new) == (expected, float(expected))


UNSOUND = [
    (0.3, 0.0, 1.0, False),
    (-1e30, 0.0, 1e30, False),
    (-INF, 0.0, INF, False),  # outside the support
    (NAN, 0.0, INF, False),  # there, and without a slope
    (NAN, 0.0, NAN, True),
    (INF, 0.0, -INF, True),
    (NAN, 0.0, 0.0, True),  # a slope that is not finite
    (NAN, INF, INF, True),  # a chain that stands where it has no density
    (INF, INF, 0.0, True),
    (NAN, NAN, 0.0, True),
]


@pytest.mark.parametrize(("log_ratio", "old", "new", "expected"), UNSOUND)
def test_a_proposal_outside_the_support_is_sound_and_all_else_that_is_not_finite_is_not(log_ratio, old, new, expected):
    assert bool(unsound(*(torch.tensor([value]) for value in (log_ratio, old, new)))) is expected
