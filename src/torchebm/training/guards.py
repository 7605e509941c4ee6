"""Guards: what is watched while a model trains, and what is done when it goes wrong."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from torchebm.core.checks import integer, number

__all__ = [
    "Action",
    "Condition",
    "Guard",
    "Line",
    "Remedy",
    "TrainingDivergedError",
    "TrainingWarning",
    "Tripped",
    "acceptance_below",
    "checked_guards",
    "default_guards",
    "energies_beyond",
    "fluctuation_beyond",
    "gap_beyond",
    "noise_below",
    "non_finite",
    "saturation_above",
    "standstill",
]

Action = Literal["warn", "stop", "rollback"]
Line = Mapping[str, Any]
"""One line of metrics: means over a logging interval, by name, with the step at its end."""
Condition = Callable[[Sequence[Line]], str | None]
"""Of the lines so far, oldest first: what is wrong with the last of them, in words, or `None`."""


class TrainingDivergedError(ArithmeticError):
    """Training stopped because its numbers did.

    The message says at which step, why, where the last good state is, and where to see what happened.
    """


class TrainingWarning(UserWarning):
    """A guard has something to say, or went back to an earlier state, while a model trains."""


@dataclass(frozen=True)
class Remedy:
    """What changes when a run goes back to an earlier state; the seed of its random streams always does.

    Factors multiply those of earlier rollbacks.

    Args:
        learning_rate: Factor on every learning rate.
        sampler_steps: Factor on the loss's `k_steps`, if it has any.
        step_size: Factor on the sampler's step size, if it has one.
    """

    learning_rate: float = 1 / 3
    sampler_steps: float = 1.0
    step_size: float = 1.0

    def __post_init__(self) -> None:
        for name, factor in asdict(self).items():
            number(name, factor, above=0.0)


@dataclass(frozen=True)
class Guard:
    """Watches the lines of metrics, and says what is done when its condition holds.

    A condition is a function of the lines so far, and remembers nothing else, so that a resumed run decides as it would
    have. The lines are those that led to the present state: a rollback takes away what came after it. Every rank sees
    the same lines, so all decide alike.

    Args:
        name: What messages and `metrics.jsonl` call it.
        condition: `lines -> reason`, or `None` if nothing is wrong.
        action: `"warn"` says so once and goes on; `"stop"` ends the run; `"rollback"` returns to the last good state
            and tries again with the remedy, as often as the trainer allows, and stops then.
        remedy: What a rollback changes.
        failures: Whether the condition is asked about updates that had no finite loss or gradient: the last line then
            holds nothing but `step` and `failure`, the message. Others see whole lines only. Without a guard of this
            kind such an update ends the run.
        until_rollback: Whether nobody asks it any more once the run has gone back: for signals so slight that they
            remain after a remedy that is enough.

    Example:
        >>> guard = Guard("sign", lambda lines: "it is negative" if lines[-1]["energy_gap"] < 0 else None, "warn")
        >>> guard.reason([{"step": 50, "energy_gap": -1.0}])
        'it is negative'
    """

    name: str
    condition: Condition
    action: Action = "rollback"
    remedy: Remedy = field(default_factory=Remedy)
    failures: bool = False
    until_rollback: bool = False

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"action must be one of {', '.join(map(repr, get_args(Action)))}; got {self.action!r}.")
        if not callable(self.condition):
            raise TypeError(f"condition must be a function of the lines; got {type(self.condition).__name__}.")
        if not isinstance(self.remedy, Remedy):
            raise TypeError(f"remedy must be a Remedy; got {type(self.remedy).__name__}.")

    def reason(self, lines: Sequence[Line]) -> str | None:
        """What is wrong with the last line, in words."""
        return self.condition(lines)


class Tripped(Exception):
    """A guard that does more than warn has found something.

    Args:
        guard: Which.
        reason: What it said.
    """

    def __init__(self, guard: Guard, reason: str) -> None:
        super().__init__(reason)
        self.guard, self.reason = guard, reason.rstrip(".")


def default_guards() -> tuple[Guard, ...]:
    """What every run is watched by, unless it says otherwise."""
    return (
        non_finite(),
        energies_beyond(1e6),
        acceptance_below(0.01),
        gap_beyond(8.0, 150),
        gap_beyond(5.0, 500, name="lasting gap"),
        fluctuation_beyond(),
        standstill(),
        saturation_above(0.5),
        noise_below(),
    )


def checked_guards(guards: Sequence[Guard] | None) -> tuple[Guard, ...]:
    """The guards given, or the default ones for `None`."""
    if guards is None:
        return default_guards()
    for guard in guards:
        if not isinstance(guard, Guard):
            raise TypeError(f"guards must be Guard objects, as from default_guards(); got {type(guard).__name__}.")
    names = [guard.name for guard in guards]
    if len(set(names)) < len(names):
        raise ValueError(f"guards must have names of their own; got {', '.join(names)}.")
    return tuple(guards)


def non_finite(action: Action = "rollback", remedy: Remedy | None = None) -> Guard:
    """A loss, an energy or a gradient that is infinite or NaN. Without this guard such a run stops."""
    return Guard("non-finite", lambda lines: lines[-1]["failure"], action, remedy or Remedy(), failures=True)


def energies_beyond(limit: float, action: Action = "rollback", remedy: Remedy | None = None) -> Guard:
    """A mean energy that is larger than `limit` in size: the energies have exploded."""
    limit = number("limit", limit, above=0.0)

    def condition(lines: Sequence[Line]) -> str | None:
        for name in ("energy_data", "energy_negative", "energy_gap"):
            value = figure(lines[-1], name, 0.0)
            if not abs(value) <= limit:
                return f"{name} is {value:.4g}, beyond the limit of {limit:g}"
        return None

    return Guard("energies", condition, action, remedy or Remedy())


def acceptance_below(rate: float, n_updates: int = 150, action: Action = "rollback",
                     remedy: Remedy | None = None) -> Guard:  # fmt: skip
    """A sampler that has accepted less than `rate` of its proposals for `n_updates`: its chains stand still."""
    rate = number("rate", rate, at_least=0.0, at_most=1.0)
    n_updates = integer("n_updates", n_updates, at_least=1)

    def condition(lines: Sequence[Line]) -> str | None:
        rates = over(lines, "acceptance_rate", n_updates)
        if rates is None or not all(accepted < rate for accepted in rates):
            return None
        return (
            f"the sampler accepts {rates[-1]:.1%} of its proposals, so the chains stand still and the energies drift "
            "apart (take a smaller sampler step size or learning rate)"
        )

    return Guard("acceptance", condition, action, remedy or Remedy())


def gap_beyond(ratio: float = 8.0, n_updates: int = 150, action: Action = "rollback", remedy: Remedy | None = None,
               name: str = "gap") -> Guard:  # fmt: skip
    r"""An energy gap that is more than `ratio` times its noise: the chains do not follow the model.

    What is compared is `gap_ratio`, the root mean square gap of the updates between two lines in units of the standard
    error that it has where negatives and data are draws of one density; of the lines of the last `n_updates`, the
    median, so that one line alone says nothing. Where training goes well it is 1 to 4, whatever the scale of the
    energies. It rises where the model moves faster than its chains (a learning rate that is too high, chains that stand
    still), and where negatives find energies far below the data's.
    """
    ratio, n_updates = number("ratio", ratio, above=0.0), integer("n_updates", n_updates, at_least=1)

    def condition(lines: Sequence[Line]) -> str | None:
        ratios = over(lines, "gap_ratio", n_updates)
        if ratios is None or not statistics.median(ratios) > ratio:
            return None
        gap = figure(lines[-1], "energy_gap", math.nan)
        return (
            f"the energy gap has been {statistics.median(ratios):.3g} times its noise for {n_updates} updates (it is "
            f"{gap:+.4g}), more than {ratio:g}: the chains do not follow the model (take a smaller learning rate, or "
            "more sampler steps)"
        )

    return Guard(name, condition, action, remedy or Remedy())


def fluctuation_beyond(ratio: float = 2.0, n_updates: int = 300, action: Action = "rollback",
                       remedy: Remedy | None = None, name: str = "fluctuation") -> Guard:  # fmt: skip
    """An energy gap that swings from update to update by more than `ratio` times its noise: updates overshoot.

    What is compared is `gap_fluctuation`, the standard deviation of the gap over the updates between two lines in units
    of its standard error; of the lines of the last `n_updates`, the median. Where training goes well it is 1 to 1.5,
    also where the gap itself is large because chains are on their way. With a learning rate that is too high it is 2
    and more: such a run looks calm once a schedule has lowered the rate, and is worse than it need be.
    """
    ratio, n_updates = number("ratio", ratio, above=0.0), integer("n_updates", n_updates, at_least=1)

    def condition(lines: Sequence[Line]) -> str | None:
        ratios = over(lines, "gap_fluctuation", n_updates)
        if ratios is None or not statistics.median(ratios) > ratio:
            return None
        return (
            f"from update to update the energy gap has swung by {statistics.median(ratios):.3g} times its noise for "
            f"{n_updates} updates, more than {ratio:g}: updates overshoot (take a smaller learning rate)"
        )

    return Guard(name, condition, action, remedy or Remedy())


def standstill(share: float = 1e-3, n_updates: int = 250, action: Action = "rollback",
               remedy: Remedy | None = None) -> Guard:  # fmt: skip
    """Chains that for `n_updates` have moved by less than `share` of what they did at first."""
    share, n_updates = number("share", share, above=0.0), integer("n_updates", n_updates, at_least=1)

    def condition(lines: Sequence[Line]) -> str | None:
        moves, first = over(lines, "displacement", n_updates), figure(lines[0], "displacement", math.nan)
        if moves is None or not all(move < share * first for move in moves):
            return None
        return f"the chains move by {moves[-1]:.3g} in an update, and moved by {first:.3g} at first"

    return Guard("standstill", condition, action, remedy or Remedy())


def saturation_above(share: float, n_updates: int = 250, action: Action = "warn",
                     remedy: Remedy | None = None) -> Guard:  # fmt: skip
    """Negatives of which this share more than of the data has lain at the edge of the sampler's box for `n_updates`."""
    share, n_updates = number("share", share, above=0.0, at_most=1.0), integer("n_updates", n_updates, at_least=1)

    def condition(lines: Sequence[Line]) -> str | None:
        negatives, data = over(lines, "saturation", n_updates), over(lines, "saturation_data", n_updates)
        if negatives is None or data is None or not all(a - b > share for a, b in zip(negatives, data, strict=True)):
            return None
        return (
            f"{negatives[-1]:.0%} of the negatives' components lie at the edge of the sampler's box, and "
            f"{data[-1]:.0%} of the data's"
        )

    return Guard("saturation", condition, action, remedy or Remedy())


def noise_below(n_updates: int = 500, action: Action = "warn", remedy: Remedy | None = None) -> Guard:
    """Uniform noise in the data's box that has had lower energies than data for `n_updates`.

    The model finds noise more probable than what it learns from, and no chain has been there to tell it otherwise.
    """
    n_updates = integer("n_updates", n_updates, at_least=1)

    def condition(lines: Sequence[Line]) -> str | None:
        noise, data = over(lines, "energy_noise", n_updates), over(lines, "energy_data", n_updates)
        if noise is None or data is None or not all(map(float.__lt__, noise, data)):
            return None
        return (
            f"uniform noise has a mean energy of {noise[-1]:.4g}, and data one of {data[-1]:.4g}: the chains do not "
            "reach where the model is too probable (begin them wider, or let them walk further)"
        )

    return Guard("noise", condition, action, remedy or Remedy())


def over(lines: Sequence[Line], name: str, n_updates: int) -> list[float] | None:
    """A figure in the lines of the last `n_updates`; `None` if there were fewer, or a line is without it."""
    last = lines[-1]["step"]
    if last < n_updates:
        return None
    values = []
    for line in reversed(lines):
        if line["step"] <= last - n_updates:
            break
        if name not in line:
            return None
        values.append(figure(line, name, math.nan))
    return values[::-1]


def figure(line: Line, name: str, default: float) -> float:
    """A figure of a line: NaN where it was not finite, and the default where there is none."""
    value = line.get(name, default)
    return math.nan if value is None else float(value)
