"""What `torchebm recipes` prints."""

import dataclasses
import textwrap
from collections.abc import Iterator

from torchebm.report.reproduction import option
from torchebm.report.settings import field_docs
from torchebm.training import RECIPES, Recipe
from torchebm.training.recipes import Kind

__all__ = ["described", "overview"]


def overview() -> Iterator[str]:
    """Every recipe with its facts."""
    for name, each in RECIPES.items():
        yield f"{name:20s}{each.purpose}, for {' and '.join(map(plural, each.kinds))}"
        facts = {"": summary(type(each)), "reaches": each.figures, "source": each.source}
        for what, fact in facts.items():
            yield from wrapped(f"{what}: {fact}" if what else fact)
    yield "`torchebm recipes NAME` shows the settings of one."


def described(each: Recipe) -> Iterator[str]:
    """One recipe: its facts, and every setting with its default and its meaning."""
    yield f"{each.name}: {summary(type(each))}"
    yield from wrapped(f"purpose: {each.purpose}; data: {' and '.join(map(plural, each.kinds))}")
    yield from wrapped(f"source: {each.source}")
    yield from wrapped(f"reaches: {each.figures}")
    for group in dataclasses.fields(each):
        settings = getattr(each, group.name)
        meanings = field_docs(type(settings))
        yield f"\n{group.name}: {summary(type(settings))}"
        for field in dataclasses.fields(settings):
            words = " ".join(option(group.name, field.name, getattr(settings, field.name)))
            yield f"  {words}"
            yield from wrapped(meanings.get(field.name, ""), indent=8)


def summary(cls: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def plural(kind: Kind) -> str:
    """The data of a kind, in words."""
    return {"image": "images", "table": "tables", "planar": "points in the plane"}[kind]


def wrapped(text: str, indent: int = 20) -> list[str]:
    """Lines of a text that fit a terminal."""
    return textwrap.wrap(text, 100, initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False)
