"""Training curves, from the records of a run."""

import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from .canvas import PALETTE, as_many, dress, note, panels

__all__ = ["training_curves"]

LABELS = {"energy_data": "energy of data", "energy_negative": "energy of negatives",
          "energy_gap": "energy gap, negatives − data"}  # fmt: skip
COLORS = {"energy_data": PALETTE["data"], "energy_negative": PALETTE["samples"]}
TOGETHER = ("energy_data", "energy_negative")  # read against each other, so in one panel
FIRST = ("loss", *TOGETHER, "energy_gap", "gradient_norm")  # the others follow in the order of the records
LOGARITHMIC = ("gradient_norm",)  # where it spans more than two decades


def training_curves(
    metrics: Sequence[Mapping[str, Any]] | str | PathLike,
    *,
    keys: Sequence[str] | None = None,
    smoothing: int | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    figure: FigureBase | None = None,
) -> np.ndarray:
    """Draws what a run recorded against the step: energies of data and negatives, their gap, the gradient norm, ...

    Every record is drawn, faintly where there are many, and over them the mean of neighbouring records.

    Args:
        metrics: The records, dicts with a "step", or the path of a metrics.jsonl. A record need not have every key;
            None stands for NaN, which interrupts the curve and is counted in a note.
        keys: What to draw; by default every key that is a number in all the records that have it.
        smoothing: How many records a mean is over; by default a fiftieth of them. 1 draws no mean.
        axes: Axes to draw on, one per panel: a panel per key, except that the two energies share one.
        figure: Figure to make the panels in; with neither `axes` nor `figure` a new pyplot figure is made.
    Returns:
        The axes of the panels.
    Raises:
        ValueError: If there are no records, one has no step, a key asked for does not exist or is not a number, or
            there is not one axis per panel.

    Example:
        >>> from matplotlib.figure import Figure
        >>> records = [{"step": k, "energy_data": -1.0, "energy_negative": 0.5, "energy_gap": -1.5} for k in range(9)]
        >>> [ax.get_ylabel() for ax in training_curves(records, figure=Figure())]
        ['energy', 'energy gap, negatives − data']
    """
    records = metrics if isinstance(metrics, Sequence) and not isinstance(metrics, str) else read_records(metrics)
    if not records:
        raise ValueError('metrics has no records; expected at least one dict such as {"step": 0, "loss": 1.0}.')
    for i, record in enumerate(records):
        if not is_number(record.get("step")):
            raise ValueError(
                f'record {i} has step {record.get("step")!r}; expected a number under "step" in every record. '
                f"Its keys are {sorted(record)}."
            )
    if smoothing is not None and smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}; expected at least 1, the number of records a mean is over.")
    numeric = numeric_keys(records)
    for key in keys or ():
        if key not in numeric:
            raise ValueError(f"keys asks for {key!r}; expected keys that are numbers in these records: {numeric}.")
    groups = grouped(numeric if keys is None else list(keys))
    if not groups:
        raise ValueError(f"the records hold nothing to draw but the step; their keys are {sorted(records[0])}.")

    if axes is None:
        places = panels(len(groups), min(len(groups), 3), figure, (3.9, 2.7))
    elif figure is None:
        places = as_many(axes, groups)
    else:
        raise ValueError("both axes and figure were given; expected one of them.")
    for ax, group in zip(places, groups, strict=True):
        label = "energy" if set(group) == set(TOGETHER) else LABELS.get(group[0], group[0].replace("_", " "))
        dress(ax, "step", label)
        remarks = [draw_curve(ax, records, key, smoothing) for key in group]
        if len(group) > 1:
            ax.legend(frameon=False, fontsize="small")
        note(ax, *remarks)
    return places


def draw_curve(ax: Axes, records: Sequence[Mapping[str, Any]], key: str, smoothing: int | None) -> str:
    """Draws one key against the step and returns the remark about values that are not finite."""
    rows = [record for record in records if key in record]
    steps = np.array([float(row["step"]) for row in rows])
    values = np.array([math.nan if row[key] is None else float(row[key]) for row in rows])
    color = COLORS.get(key, PALETTE["energy"])
    width = max(1, len(values) // 50) if smoothing is None else smoothing
    label = LABELS.get(key, key.replace("_", " "))
    alone = len(values) == 1  # a line through one point shows nothing
    ax.plot(steps, values, color=color, linewidth=1.6 if width == 1 else 0.7, alpha=1.0 if width == 1 else 0.3,
            marker="o" if alone else None, label=label if width == 1 else None)  # fmt: skip
    if width > 1:
        ax.plot(steps, moving_mean(values, width), color=color, linewidth=1.6, label=label)
    finite = values[np.isfinite(values)]
    if key in LOGARITHMIC and finite.size and finite.min() > 0 and finite.max() > 100 * finite.min():
        ax.set_yscale("log")
    n_undefined = len(values) - finite.size
    return f"{n_undefined} of {len(values)} {label} not finite" if n_undefined else ""


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the `width` values around each one, fewer at the ends; NaN wherever one of them is not finite."""
    finite = np.where(np.isfinite(values), values, 0.0)
    totals = np.concatenate([[0.0], np.cumsum(finite)])
    holes = np.concatenate([[0], np.cumsum(~np.isfinite(values))])
    first = np.arange(len(values)) - width // 2
    start, stop = np.maximum(first, 0), np.minimum(first + width, len(values))
    return np.where(holes[stop] > holes[start], np.nan, (totals[stop] - totals[start]) / (stop - start))


def read_records(path: str | PathLike) -> list[dict]:
    """The records of a metrics.jsonl; a last line that was cut while being written is left out."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    records = []
    for i, line in enumerate(lines):
        try:
            record = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            if i == len(lines) - 1 and not line.endswith("\n"):
                break
            raise ValueError(f"line {i + 1} of {path} is not JSON: {line[:80]!r}.") from error
        if record is not None:
            records.append(record)
    return records


def is_number(value: object) -> bool:
    """Whether a recorded value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def numeric_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys, in order of appearance, whose values are numbers or None, and not always None."""
    found: dict[str, list[object]] = {}
    for record in records:
        for key, value in record.items():
            if key != "step":
                found.setdefault(key, []).append(value)
    return [
        key
        for key, values in found.items()
        if all(value is None or is_number(value) for value in values) and any(is_number(value) for value in values)
    ]


def grouped(keys: list[str]) -> list[list[str]]:
    """The keys of each panel, in reading order."""
    ordered = [key for key in FIRST if key in keys] + [key for key in keys if key not in FIRST]
    shared = [key for key in TOGETHER if key in ordered]
    groups = [[key] for key in ordered if key not in shared]
    if shared:
        groups.insert(1 if "loss" in ordered else 0, shared)
    return groups
