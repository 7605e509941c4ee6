"""What the figures of an evaluation mean, which way is better, and what looks off."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Int
from torch import Tensor

from .markup import Markup, tag, tally

__all__ = ["headline_figures", "share_chart", "suspicions"]

SMALLEST_SHARE, LARGEST_DISTANCE, SMALLEST_NEAREST = 0.05, 1.3, 0.8  # beyond these something looks off
MARGIN = 1.05  # by which the Gaussian must be better before it is said to be: the figures are random, too


class Measure(NamedTuple):
    """A figure of `evaluation.compare`."""

    title: str
    meaning: str
    better: str
    """Which way is better, in words."""
    badness: Callable[[float], float]
    """How far a value is from the best there is."""


MEASURES = {
    "sw2_ratio": Measure(
        "Distance to held-out data",
        "Sliced Wasserstein distance, divided by that of the training data: 1 is as close as real data is.",
        "lower; 1 is real data",
        lambda value: value,
    ),
    "nearest_ratio": Measure(
        "Distance to the nearest training point",
        "Median, divided by that of held-out data. Far below 1: memorised; far above 1: between or beside the data.",
        "near 1",
        lambda value: abs(math.log(value)) if value > 0 else math.inf,
    ),
    "c2st": Measure(
        "Two-sample test",
        "Share of points that a classifier attributes rightly to samples or held-out data: at 0.5 it has to guess.",
        "near 0.5; 1 is worst",
        lambda value: abs(value - 0.5),
    ),
}


def headline_figures(figures: Mapping[str, Any]) -> Markup:
    """The table of figures: of the samples, and of as many draws of the Gaussian fitted to the training data."""
    gaussian = figures.get("gaussian") or {}
    rows = []
    for key, (title, meaning, better, badness) in MEASURES.items():
        if key not in figures:
            continue
        values = [figures[key], *([gaussian[key]] if key in gaussian else [])]
        best = min(values, key=badness) if len(values) > 1 else None
        cells = [tag("strong", f"{value:.3f}") if value == best else f"{value:.3f}" for value in values]
        rows.append([tag("span", title, tag("small", meaning)), *cells, *([] if len(values) > 1 else ["–"]), better])
    n = figures.get("n_samples")
    of = f"{n:,} samples" if isinstance(n, int) else "Samples"
    caption = f"{of} and as many draws of a Gaussian with the data's mean and covariance; ✓ marks the better."
    return tally(caption, ["Figure", "Samples", "Gaussian", "Better"], rows)


def share_chart(shares: Sequence[float], labels: Int[Tensor, " n"], classes: Sequence[str] | None) -> Markup:
    """The share of samples in each class, with that of the data, as bars in a table."""
    real = shares_of(labels, len(shares))
    top = max([*shares, *real, 1e-9])
    rows = []
    for k, (share, wanted) in enumerate(zip(shares, real, strict=True)):
        if share == wanted == 0:
            continue  # labels need not be consecutive
        bar = tag(
            "span",
            tag("i", style=f"width:{100 * share / top:.1f}%"),
            tag("b", style=f"left:{100 * wanted / top:.1f}%"),
            class_="bar",
            aria_hidden="true",
        )
        rows.append([class_name(k, classes), f"{share:.1%}", f"{wanted:.1%}", bar])
    caption = "Share of each class, as a classifier trained on the data sees it; the upright mark is the data's own."
    return tally(caption, ["Class", "Samples", "Data", "Bar: samples; mark: data"], rows)


def suspicions(
    figures: Mapping[str, Any], labels: Int[Tensor, " n"] | None, classes: Sequence[str] | None
) -> list[str]:
    """A sentence for each figure that looks off."""
    found = []
    if figures.get("sw2_ratio", 1.0) > LARGEST_DISTANCE:
        found.append(
            f"The samples are {figures['sw2_ratio']:.2f} times as far from held-out data as training data is; up to "
            f"{LARGEST_DISTANCE} is usual for a model that has learned its data. Train longer, or run longer chains."
        )
    if figures.get("nearest_ratio", 1.0) < SMALLEST_NEAREST:
        found.append(
            f"The samples lie closer to training data than held-out data does (ratio {figures['nearest_ratio']:.2f}, "
            f"below {SMALLEST_NEAREST}): the model may have memorised it."
        )
    if labels is not None and "class_shares" in figures:
        shares = figures["class_shares"]
        real = shares_of(labels, len(shares))
        n_classes = sum(share > 0 for share in real)
        limit = min(SMALLEST_SHARE, 0.5 / max(1, n_classes))  # half an equal share if there are many classes
        missing = [
            f"{class_name(k, classes)} ({share:.1%} of the samples, {wanted:.1%} of the data)"
            for k, (share, wanted) in enumerate(zip(shares, real, strict=True))
            if share < min(limit, wanted)
        ]
        if missing:
            found.append(f"Too few samples (below {limit:.2g} of all) fall into {listed(missing)}.")
    gaussian = figures.get("gaussian") or {}
    worse = [
        MEASURES[key].title.lower()
        for key in ("sw2_ratio", "c2st")
        if key in figures and key in gaussian
        and MEASURES[key].badness(figures[key]) > MARGIN * MEASURES[key].badness(gaussian[key]) + 0.01
    ]  # fmt: skip
    if worse:
        found.append(
            f"A Gaussian with the data's mean and covariance does better in the {listed(worse)}: the network has added "
            "nothing there yet."
        )
    broken = [MEASURES[key].title.lower() for key in MEASURES if not math.isfinite(figures.get(key, 0.0))]
    if broken:
        found.append(f"No finite value came out for the {listed(broken)}.")
    return found


def shares_of(labels: Int[Tensor, " n"], n_classes: int) -> list[float]:
    """The share of each class in the data."""
    return [float((labels == k).float().mean()) for k in range(n_classes)]


def class_name(k: int, classes: Sequence[str] | None) -> str:
    """How the user calls a class."""
    return classes[k] if classes is not None and k < len(classes) else str(k)


def listed(words: Sequence[str]) -> str:
    """Words as English lists them."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
