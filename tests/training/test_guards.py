"""Guards: each trips where it should, and only there, as a function of lines of metrics."""

import math

import pytest

from torchebm.training import Guard, Remedy, Trainer, default_guards
from torchebm.training.guards import (
    acceptance_below,
    checked_guards,
    energies_beyond,
    figure,
    fluctuation_beyond,
    gap_beyond,
    noise_below,
    non_finite,
    over,
    saturation_above,
    standstill,
)
from torchebm.training.rollback import QUIET_UPDATES, Recovery


def lines(every=50, **figures):
    """Lines at equal steps, from lists of figures."""
    n = len(next(iter(figures.values())))
    return [{"step": every * (k + 1)} | {name: values[k] for name, values in figures.items()} for k in range(n)]


@pytest.mark.parametrize(
    ("guard", "quiet", "trips", "says"),
    [
        (energies_beyond(100), [100.0], [100.1], "energy_negative is 100.1, beyond the limit of 100"),
        (energies_beyond(100), [-100.0], [-101.0], "energy_negative is -101"),
        (energies_beyond(100), [1.0], [None], "energy_negative is nan"),
    ],
)
def test_energies(guard, quiet, trips, says):
    assert guard.reason(lines(energy_negative=quiet)) is None
    assert says in guard.reason(lines(energy_negative=trips))
    assert guard.reason(lines(energy_negative=[*trips, *quiet])) is None  # the last line counts


def test_acceptance():
    guard = acceptance_below(0.01, 100)
    assert guard.reason(lines(acceptance_rate=[0.009])) is None  # too early
    assert guard.reason(lines(acceptance_rate=[0.009, 0.01])) is None
    assert guard.reason(lines(loss=[0.0, 0.0])) is None  # a sampler without an accept test
    assert "accepts 0.9% of its proposals" in guard.reason(lines(acceptance_rate=[0.001, 0.009]))


def test_gap():
    """The median of the lines of the last 150 updates."""
    guard = gap_beyond(8.0, 150)
    assert guard.reason(lines(gap_ratio=[9.0, 9.0], energy_gap=[1.0, 1.0])) is None  # too early
    assert "9 times its noise for 150 updates (it is +1)" in guard.reason(
        lines(gap_ratio=[9.0, 9.0, 9.0], energy_gap=[1.0, 1.0, 1.0])
    )
    assert guard.reason(lines(gap_ratio=[9.0, 7.9, 7.9])) is None
    assert guard.reason(lines(gap_ratio=[1.0, 1.0, 500.0])) is None  # one line says nothing
    assert guard.reason(lines(gap_ratio=[9.0, 9.0, 9.0, 9.0, 1.0, 1.0])) is None
    assert guard.reason(lines(gap_ratio=[1.0, 1.0, 1.0, 9.0, 9.0, 9.0])) is not None
    assert guard.reason(lines(gap_ratio=[None, None, None])) is None
    assert guard.reason(lines(loss=[1.0] * 5)) is None
    assert guard.reason(lines(10, gap_ratio=[9.0] * 14)) is None  # 140 updates
    assert guard.reason(lines(10, gap_ratio=[9.0] * 15)) is not None
    assert guard.reason(lines(1000, gap_ratio=[9.0])) is not None


def test_fluctuation():
    guard = fluctuation_beyond(2.5, 150)
    assert guard.reason(lines(gap_fluctuation=[9.0, 9.0])) is None  # too early
    assert "swung by 2.6 times its noise for 150 updates" in guard.reason(lines(gap_fluctuation=[1.0, 2.6, 9.0]))
    assert guard.reason(lines(gap_fluctuation=[2.6, 2.5, 2.5])) is None
    assert guard.reason(lines(gap_fluctuation=[None, None, None])) is None
    assert guard.reason(lines(gap_ratio=[9.0, 9.0, 9.0])) is None


def test_standstill():
    guard = standstill(0.01, 150)
    assert guard.reason(lines(displacement=[2.0, 1.0, 0.021, 0.019, 0.019])) is None
    assert "move by 0.019 in an update, and moved by 2 at first" in guard.reason(
        lines(displacement=[2.0, 1.0, 0.019, 0.019, 0.019])
    )
    assert guard.reason(lines(displacement=[0.0, 0.0, 0.0])) is None  # a sampler that is meant to stand still
    assert guard.reason(lines(loss=[0.0] * 5)) is None


def test_saturation():
    guard = saturation_above(0.5, 100)
    assert guard.action == "warn"
    assert guard.reason(lines(saturation=[0.9, 0.9], saturation_data=[0.5, 0.5])) is None  # black is black
    assert "90% of the negatives' components" in guard.reason(lines(saturation=[0.9, 0.9], saturation_data=[0.1, 0.1]))
    assert guard.reason(lines(saturation=[0.1, 0.9], saturation_data=[0.1, 0.1])) is None
    assert guard.reason(lines(loss=[0.0, 0.0])) is None


def test_noise():
    guard = noise_below(100)
    assert guard.action == "warn"
    assert guard.reason(lines(energy_noise=[1.0, 1.0], energy_data=[2.0, 0.9])) is None
    assert "noise has a mean energy of 1, and data one of 2" in guard.reason(
        lines(energy_noise=[1.0, 1.0], energy_data=[2.0, 2.0])
    )
    assert guard.reason(lines(energy_noise=[None, 1.0], energy_data=[2.0, 2.0])) is None
    assert guard.reason(lines(energy_data=[2.0, 2.0])) is None


def test_failures():
    guard = non_finite()
    assert guard.failures
    assert guard.reason([{"step": 3, "failure": "energies are NaN"}]) == "energies are NaN"


def test_a_calm_run_is_left_alone():
    calm = lines(
        energy_data=[0.1] * 40, energy_negative=[0.2] * 40, energy_gap=[0.1] * 40, gap_ratio=[4.0] * 40,
        gap_fluctuation=[1.6] * 40,
        acceptance_rate=[0.7] * 40, displacement=[1.0] * 40, saturation=[0.3] * 40,
        energy_noise=[0.3] * 40, saturation_data=[0.2] * 40,
    )  # fmt: skip
    for k in range(1, 41):
        assert all(guard.failures or guard.reason(calm[:k]) is None for guard in default_guards())


@pytest.mark.parametrize(
    ("n_updates", "expected"), [(50, [4.0]), (100, [3.0, 4.0]), (200, [1.0, 2.0, 3.0, 4.0]), (201, None)]
)
def test_what_the_last_updates_are(n_updates, expected):
    assert over(lines(a=[1.0, 2.0, 3.0, 4.0]), "a", n_updates) == expected


def test_figures_that_are_not_finite_or_not_there():
    assert math.isnan(figure({"a": None}, "a", 1.0))
    assert figure({}, "a", 1.0) == 1.0
    assert over([{"step": 50}, {"step": 100, "a": 1.0}], "a", 100) is None


@pytest.mark.parametrize(
    ("build", "error", "says"),
    [
        (
            lambda: Guard("a", lambda lines: None, "panic"),
            ValueError,
            "action must be one of 'warn', 'stop', 'rollback'",
        ),
        (lambda: Guard("a", "energy > 3"), TypeError, "condition must be a function of the lines; got str"),
        (
            lambda: Guard("a", lambda lines: None, remedy={"learning_rate": 0.5}),
            TypeError,
            "must be a Remedy; got dict",
        ),
        (lambda: Remedy(learning_rate=0.0), ValueError, "learning_rate must be greater than 0"),
        (lambda: Remedy(sampler_steps=-1), ValueError, "sampler_steps must be greater than 0"),
        (lambda: energies_beyond(0.0), ValueError, "limit must be greater than 0"),
        (lambda: acceptance_below(1.5), ValueError, "rate must be at most 1"),
        (lambda: gap_beyond(-1.0), ValueError, "ratio must be greater than 0"),
        (lambda: gap_beyond(n_updates=0), ValueError, "n_updates must be at least 1"),
        (lambda: checked_guards([non_finite]), TypeError, r"as from default_guards\(\); got function"),
        (
            lambda: checked_guards([non_finite(), non_finite()]),
            ValueError,
            "names of their own; got non-finite, non-fin",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(build, error, says):
    with pytest.raises(error, match=says):
        build()


def test_none_are_the_default_ones_and_empty_is_none():
    names = [
        "non-finite",
        "energies",
        "acceptance",
        "gap",
        "lasting gap",
        "fluctuation",
        "standstill",
        "saturation",
        "noise",
    ]
    assert [guard.name for guard in checked_guards(None)] == names
    assert checked_guards(()) == ()
    assert "guards" in Trainer.__init__.__kwdefaults__


# where to go back to -------------------------------------------------------------------------------------------------


def looked(recovery, *steps, quiet=True):
    for step in steps:
        recovery.looked(step, quiet)


def test_a_state_is_good_once_guards_have_been_quiet_for_long_enough():
    recovery, later = Recovery(), QUIET_UPDATES + 100
    recovery.saved(0)
    looked(recovery, 50, QUIET_UPDATES - 1)
    assert not recovery.states[0].good
    assert recovery.target().step == 0  # there is no other
    looked(recovery, QUIET_UPDATES)
    assert recovery.states[0].good
    recovery.saved(later)
    assert recovery.target().step == 0
    looked(recovery, later + 50, quiet=False)
    looked(recovery, later + QUIET_UPDATES)
    assert recovery.target().step == 0
    looked(recovery, later + 50 + QUIET_UPDATES)
    assert recovery.target().step == later


def test_a_second_failure_leads_further_back():
    recovery = Recovery()
    for step in range(0, 5000, 1000):
        recovery.saved(step)
        looked(recovery, step + QUIET_UPDATES)
    assert [recovery.go_back(Remedy()).step for _ in range(4)] == [4000, 3000, 2000, 2000]  # older ones are gone
    assert recovery.attempt == 4
    assert recovery.remedy.learning_rate == pytest.approx(3.0**-4)


def test_what_is_kept():
    """The last two, the last two good ones, and the next that may become good."""
    recovery, later = Recovery(), 2 * QUIET_UPDATES
    for step in range(0, 100, 10):
        recovery.saved(step)
    assert recovery.steps == [0, 80, 90]
    looked(recovery, 80 + QUIET_UPDATES)
    recovery.saved(later)
    recovery.saved(later + 10)
    assert recovery.steps == [0, 80, 90, later, later + 10]
    looked(recovery, later + QUIET_UPDATES)
    recovery.saved(2 * later)
    assert recovery.steps == [90, later, later + 10, 2 * later]


def test_the_state_comes_back():
    recovery, other = Recovery(), Recovery()
    recovery.saved(0)
    looked(recovery, QUIET_UPDATES)
    recovery.saved(400)
    recovery.go_back(Remedy(0.5, 2.0, 0.25))
    recovery.saved(500)
    other.load_state_dict(recovery.state_dict())
    assert other.states == recovery.states
    assert (other.attempt, other.remedy) == (1, Remedy(0.5, 2.0, 0.25))
