"""What a run was made of: its settings, its data, the versions it ran on."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch

from torchebm.training import Recipe, TrainedRun

from .markup import Markup, tag, tally

__all__ = ["data_facts", "settings_tables"]


def settings_tables(recipe: Recipe) -> Iterator[Markup]:
    """Every setting, by group, with its meaning."""
    tables = []
    for group in dataclasses.fields(recipe):
        settings = getattr(recipe, group.name)
        meanings = field_docs(type(settings))
        rows = [
            [tag("span", field.name, tag("small", meanings.get(field.name, ""))), plain(getattr(settings, field.name))]
            for field in dataclasses.fields(settings)
        ]
        tables.append(tally(group.name.capitalize(), ["Setting", "Value"], rows))
    yield tag("h2", "Settings")
    yield tag("div", *tables, class_="settings")


def field_docs(cls: type) -> Mapping[str, str]:
    """The line below each field in the source of a dataclass and its bases; none if there is no source to read.

    Example:
        >>> from torchebm.training.recipes import TrainingSettings
        >>> field_docs(TrainingSettings)["batch_size"]
        'Points per update.'
    """
    inherited = {name: doc for base in reversed(cls.__mro__[1:-1]) for name, doc in field_docs(base).items()}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return inherited
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    return inherited | {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def data_facts(run: TrainedRun, metrics: Sequence[Mapping[str, float]]) -> Iterator[Markup]:
    """The data, the machine and the versions."""
    data = run.config["data"]
    shape = " × ".join(map(str, data["event_shape"]))
    seconds = f" in {metrics[-1]['seconds']:,.0f} s" if metrics and "seconds" in metrics[-1] else ""
    facts = {
        "Source": data["source"],
        "Kind": f"{data['kind']}, {shape} values each",
        "Rows": f"{data['n_train']:,} trained on, {data['n_held_out']:,} held out",
        "Range": span(data["low"], data["high"]),
        "Added noise": deviations(run),
        "Columns": ", ".join(data["columns"] or ()),
        "Parameters": f"{sum(parameter.numel() for parameter in run.model.parameters()):,}",
        "Updates": f"{run.step:,}{seconds}",
        "Seed": run.config["seed"],
        "Device": run.config["device"],
        "Versions": f"torchebm {run.config['torchebm']}, PyTorch {run.config['torch']}",
    }
    rows = [[name, tag("span", fact, class_="long")] for name, fact in facts.items() if fact != ""]
    yield tag("h2", "Data and machine")
    yield tally("What the run was made of.", ["Fact", "Value"], rows)


def span(low: object, high: object) -> str:
    """The lowest and the highest value of all components."""
    ends = float(torch.tensor(low).min()), float(torch.tensor(high).max())
    return f"{ends[0]:.4g} to {ends[1]:.4g}" + (" over all columns" if torch.tensor(low).numel() > 1 else "")


def deviations(run: TrainedRun) -> str:
    """The noise that was added to the data in training."""
    noise = run.data_noise
    low, high = float(noise.min()), float(noise.max())
    if low == high:
        return f"standard deviation {low:.4g}"
    share = run.recipe.loss.data_noise
    return f"standard deviations {low:.4g} to {high:.4g}" + (f", each {share:g} of its column's own" if share else "")


def plain(value: object) -> str:
    """A setting as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
