"""What guards did while a model trained."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .markup import Markup, tag, tally

__all__ = ["guard_actions"]

ACTIONS = {"warning": "warned", "rollback": "went back", "stop": "stopped the run"}
FACTORS = {"learning_rate": "learning rate", "sampler_steps": "sampler steps", "step_size": "step size of the sampler"}


def guard_actions(events: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    """A table with a row for each action, or a sentence if there was none.

    Args:
        events: Of a run, as `training.read_events` reads them from its `metrics.jsonl`.

    Example:
        >>> [str(piece)[:30] for piece in guard_actions([])]
        ['<h3>Guards</h3>', '<p class="soft">Nothing looked']
    """
    yield tag("h3", "Guards")
    if not events:
        yield tag("p", "Nothing looked wrong while the model trained.", class_="soft")
        return
    n = sum(event["event"] == "rollback" for event in events)
    if n:
        times = "once" if n == 1 else f"{n} times"
        text = f"Training went back {times}. The curves show the course that led to this model."
        yield tag("p", text, class_="soft")
    rows = [[f"{event['step']:,}", event["guard"], event["reason"], done(event)] for event in events]
    yield tally("What guards saw, and what they did.", ["Step", "Guard", "What it saw", "What it did"], rows)


def done(event: Mapping[str, Any]) -> str:
    """An action, in words.

    Example:
        >>> done({"event": "rollback", "to_step": 1000, "remedy": {"learning_rate": 0.25, "sampler_steps": 1.0}})
        'went back to step 1,000; new seed; learning rate × 0.25'
    """
    said = ACTIONS[event["event"]]
    if event["event"] != "rollback":
        return said
    changes = [f"{FACTORS[name]} × {factor:.3g}" for name, factor in event["remedy"].items() if factor != 1]
    return "; ".join([f"{said} to step {event['to_step']:,}", "new seed", *changes])
