"""How to make a run again: shell commands, and lines of Python."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from torchebm.training import RECIPES, Recipe, TrainedRun

__all__ = ["commands", "python_lines"]


def commands(run: TrainedRun, n_samples: int) -> str:
    """Trains the same model into another directory, and draws the same samples from this one."""
    seed, device = run.config["seed"], run.config["device"]
    name, changes = run.recipe.name, differences(run.recipe, RECIPES[run.recipe.name])
    where = [] if device == "cpu" else ["--device", device]
    options = [*named_source(run), "--recipe", name, "--seed", seed, "--n-steps", run.recipe.training.n_steps]
    train = ["torchebm", "train", *options, *where, *changes, "--out", f"{run.folder}-again"]
    sample = ["torchebm", "sample", run.folder, "-n", n_samples, "--seed", seed, *where, "--out", "samples.npy"]
    return "\n".join(shlex.join(map(str, command)) for command in (train, sample))


def python_lines(run: TrainedRun) -> str:
    """Loads the run, samples it and asks for energies."""
    shape = ", ".join(map(str, run.event_shape))
    return (
        "import torchebm\n"
        f"run = torchebm.load_run({str(run.folder)!r})\n"
        f"x = run.sample(16)  # [16, {shape}], in the units of the data\n"
        "energy = run.model(x)  # [16], the lower the more probable"
    )


def named_source(run: TrainedRun) -> list[str]:
    """The option that names the data."""
    return ["--data", run.config["data"]["source"]]


def differences(recipe: Recipe, base: Recipe) -> Iterator[str]:
    """The options for every setting in which a recipe differs from another, but for the number of updates."""
    for group in dataclasses.fields(recipe):
        ours, theirs = getattr(recipe, group.name), getattr(base, group.name)
        for field in dataclasses.fields(ours):
            value = getattr(ours, field.name)
            if value != getattr(theirs, field.name) and (group.name, field.name) != ("training", "n_steps"):
                yield from option(group.name, field.name, value)


def option(group: str, name: str, value: Any) -> Iterator[str]:
    """A setting as the command line spells it."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{group}.{name}" if value else f"--{group}.no-{name}"
        return
    yield f"--{group}.{name}"
    yield from map(str, flat(value))


def flat(value: Any) -> Iterator[Any]:
    """The entries of a tuple, and of the tuples in it; any other value alone."""
    if isinstance(value, tuple):
        for part in value:
            yield from flat(part)
    else:
        yield value
