"""The figures of a thorough evaluation as tables, for the page and for the terminal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Chapter", "chapters"]


class Chapter(NamedTuple):
    """A table of figures."""

    caption: str
    """What it shows, and how to read it."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def chapters(figures: Mapping[str, Any]) -> Iterator[Chapter]:
    """One table for each kind of figure that there is, in reading order."""
    for name, (title, tell) in TOLD.items():
        found = figures.get(name)
        if not isinstance(found, Mapping):
            continue
        if "refused" in found:
            yield Chapter(title, ["Figure", "Value"], [["none", str(found["refused"])]])
        else:
            yield tell(title, found)


def shown(value: Any, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def between(interval: Sequence[float] | None, digits: int = 3) -> str:
    """An interval."""
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else "–"


def _tests(title: str, found: Mapping[str, Any]) -> Chapter:
    names = {"mmd": "maximum mean discrepancy", "energy_distance": "energy distance"}
    rows = [[names.get(name, name), f"{test['value']:.4g}", shown(test["p_value"])] for name, test in found.items()]
    return Chapter(title, ["Statistic", "Value", "p-value"], rows)


def _classification(title: str, found: Mapping[str, Any]) -> Chapter:
    rows = [
        ["held-out data that the model classifies rightly", f"{found['accuracy']:.1%}"],
        ["samples of a class that another classifier takes for it", f"{found['conditional_accuracy']:.1%}"],
        ["held-out data that this other classifier gets right", f"{found['accuracy_of_the_other_classifier']:.1%}"],
    ]
    return Chapter(title, ["Share of", "Value"], rows)


def _detection(title: str, found: Mapping[str, Any]) -> Chapter:
    scores, errors = found["auroc"], found["standard_error"]
    kinds = list(next(iter(scores.values())))
    titles = {"energy": "energy", "score_norm": "norm of its gradient", "max_probability": "probability of the class"}
    rows = [
        [titles.get(score, score), *(f"{row[kind]:.3f} ± {errors[score][kind]:.3f}" for kind in kinds)]
        for score, row in scores.items()
    ]
    return Chapter(title, ["Score", *kinds], rows)


def _long_run(title: str, found: Mapping[str, Any]) -> Chapter:
    rows = [
        [f"{step:,}", f"{energy:.2f}", f"{within:.0%}", f"{distance:.4g}", f"{wasserstein:.4g}"]
        for step, energy, within, distance, wasserstein in zip(
            found["steps"], found["energy"], found["energies_within"], found["energy_distance"],
            found["sliced_wasserstein"], strict=True)
    ]  # fmt: skip
    rows.append(["data", f"{found['data_energy']:.2f}", "98%", f"{found['floor']:.4g} by chance", "–"])
    caption = f"{title} Verdict: {found['verdict']}; {'; '.join(found['reasons'])}."
    if "stein" in found:
        test = found["stein"]
        caption += f" Kernel Stein discrepancy at the end {test['value']:.3g}, p = {test['p_value']:.3f}."
    return Chapter(caption, ["Steps", "Energy", "Like data's", "Energy distance", "Sliced Wasserstein"], rows)


def _divergence(title: str, found: Mapping[str, Any]) -> Chapter:
    rows = [
        ["KL(truth, model)", f"{found['kl']:.4f} ± {found['standard_error']:.4f}"],
        ["entropy of the truth, the least that a log-likelihood can cost", shown(found["entropy"], 4)],
        ["log Z of the model", shown(found["log_z"], 4)],
    ]
    return Chapter(title, ["In nats", "Value"], rows)


def _mixture(found: Mapping[str, Any], key: str) -> list[list[str]]:
    """A row, if there is such a figure."""
    mixture = found.get("mixture")
    if mixture is None:
        return []
    return [[f"the same of the best Gaussian mixture, of size {mixture['n_components']}", shown(mixture[key]), "–"]]


def _likelihood(title: str, found: Mapping[str, Any]) -> Chapter:
    normaliser = found["log_z"]
    rows = [
        ["nats a point, of data with the model's noise", f"{found['mean']:.3f}", between(found["interval"])],
        ["the same of a Gaussian with the data's covariance", f"{found['gaussian']:.3f}", "–"],
        *_mixture(found, "log_likelihood"),
    ]
    if "dequantised" in found:
        bits = found["dequantised"]
        rows += [
            ["bits per dimension, dequantised", shown(bits["bits_per_dim"]), between(bits["bits_per_dim_interval"])],
            ["the same of a Gaussian with the covariance of dequantised data", shown(bits["gaussian"]), "–"],
            *_mixture(bits, "bits_per_dim"),
        ]
    rows.append(["log Z", shown(normaliser["estimate"]), between(normaliser["interval"])])
    for key, name in (("lower", "log Z, annealed forward: a lower bound"), ("upper", "in reverse: an upper bound")):
        bound = normaliser.get(key)
        if isinstance(bound, Mapping):
            rows.append([name, shown(bound.get("estimate")), between(bound.get("interval"))])
    notes = "".join(f" {note[:1].upper()}{note[1:].rstrip('.')}." for note in normaliser.get("notes") or [])
    return Chapter(title + notes, ["Log-likelihood", "Mean", "95 %"], rows)


TOLD = {
    "log_likelihood": ("Held-out likelihood, by annealed importance sampling.", _likelihood),
    "divergence": ("Distance to the density that the data are draws of.", _divergence),
    "two_sample_tests": ("Are samples and held-out data of one density? Small p-values say no.", _tests),
    "long_run": ("Chains that go on: a density keeps them where data lie, a short-run generator need not.", _long_run),
    "classification": ("Classes.", _classification),
    "out_of_distribution": (
        "AUROC of telling held-out data from what is none: 1 tells them apart, 0.5 does not.",
        _detection,
    ),
}
