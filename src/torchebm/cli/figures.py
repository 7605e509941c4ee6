"""Figures: computed, kept in `evaluation.json`, read again, and printed."""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from torchebm.report.chapters import chapters
from torchebm.training import TrainedRun

from .judging import distances, thorough

__all__ = ["judge", "print_figures", "read_figures"]


def judge(run: TrainedRun, samples: Tensor, multiples: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The figures of a run, kept in `evaluation.json`.

    Args:
        run: What was trained.
        samples: Of it.
        multiples: Lengths of the long run; `None` for no more than the distances between samples and data.
    """
    figures = distances(run, samples)
    if multiples is not None:
        figures |= thorough(run, samples, multiples)
    (run.folder / "evaluation.json").write_text(json.dumps(_nulls(figures), indent=1))
    return figures


def read_figures(path: Path) -> dict[str, Any]:
    """What `judge` kept; a figure that could not be computed is NaN."""

    def with_nan(figures: dict[str, Any]) -> dict[str, Any]:
        return {key: float("nan") if value is None else value for key, value in figures.items()}

    return json.loads(path.read_text(), object_hook=with_nan)


def _nulls(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _nulls(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nulls(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def print_figures(figures: dict[str, Any]) -> None:
    """Small tables: the samples beside the Gaussian, and what else there is."""
    gaussian = figures["gaussian"]
    print(f"\n{figures['n_samples']} samples{'':24s}{'samples':>10s}{'Gaussian':>10s}")
    rows = {
        "sw2_ratio": "sliced Wasserstein ratio (best 1)",
        "nearest_ratio": "nearest-neighbour ratio (near 1)",
        "c2st": "two-sample accuracy (best 0.5)",
    }
    for key, title in rows.items():
        print(f"  {title:33s}{figures[key]:10.3f}{gaussian[key]:10.3f}")
    if "class_shares" in figures:
        print("  class shares, %: " + " ".join(f"{100 * share:.1f}" for share in figures["class_shares"]))
    for caption, header, body in chapters(figures):
        print(f"\n{caption}")
        widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
        for first, *rest in (header, *body):
            cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
            print("  " + "  ".join([first.ljust(widths[0]), *cells]).rstrip())
