"""What each command does; its fields are its options."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor

from torchebm.core.checks import integer
from torchebm.core.random import generator_for
from torchebm.datasets import density, load, names
from torchebm.report import write_report
from torchebm.training import Recipe, TrainedRun, load_run, recipe, train_run

from .figures import judge, print_figures, read_figures
from .listing import described, overview

__all__ = ["Evaluate", "Recipes", "Report", "Sample", "Train"]

RunFolder = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Train:
    """Learn an energy from data, sample it, judge the samples and write a report."""

    data: str
    """`digits`, the name of a 2-D density, a .csv, .parquet, .npy or .npz file, or a folder of images."""
    out: Path
    """Directory of the run."""
    settings: Annotated[Recipe, tyro.conf.arg(name="")]
    """Every setting of the recipe."""
    recipe: str = ""
    """Name of the recipe; chosen by the kind of data if left out. `torchebm recipes` lists them."""
    seed: int = 0
    """Key of all randomness: weights, split, batches, chains."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps."""
    n_steps: int | None = None
    """Updates in total, those before a --resume included; the recipe's number if left out."""
    n_samples: int = 1000
    """Samples to draw and judge after training; 0 for none, and no report."""
    resume: bool = False
    """Continue from the newest complete checkpoint, or begin if there is none."""
    overwrite: bool = False
    """Replace the run that is there."""

    @classmethod
    def with_recipe_of(cls, arguments: Sequence[str]) -> "Train":
        """The defaults of the command: those of the recipe that the arguments ask for."""
        name = _value_of("--recipe", arguments)
        if name is None:
            name = _recipe_for(_value_of("--data", arguments) or "digits")
        return cls(data=tyro.MISSING, out=tyro.MISSING, settings=recipe(name), recipe=name)

    def run(self) -> None:
        """Trains, and writes what `sample`, `evaluate` and `report` would."""
        settings = self.settings
        if self.n_steps is not None:
            n_steps = integer("--n-steps", self.n_steps, at_least=1)
            if settings.training.n_steps not in (n_steps, type(settings)().training.n_steps):
                raise ValueError(
                    f"--n-steps {n_steps} and --training.n-steps {settings.training.n_steps} are one setting: give one."
                )
            settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, n_steps=n_steps))
        integer("--n-samples", self.n_samples)
        run = train_run(self.data, self.out, settings, seed=self.seed, device=checked_device(self.device),
                        resume=self.resume, overwrite=self.overwrite)  # fmt: skip
        if self.n_samples == 0:
            print(f"\n{run.folder}")
            return
        samples = draw(run, self.n_samples, self.seed)
        np.save(run.folder / "samples.npy", samples.numpy())
        figures = judge(run, samples)
        print_figures(figures)
        print(f"\n{write_report(run, samples, figures)}")


@dataclass(frozen=True)
class Sample:
    """Draw samples from a trained run, with chains that start from noise."""

    run_folder: RunFolder
    """Directory of the run."""
    out: Path
    """Where to: .npy, or .csv for tables."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1000
    """Samples."""
    n_steps: int | None = None
    """Transitions of each chain; the recipe's number if left out."""
    label: int | None = None
    """Class of the samples, for recipes that learn classes; of all classes if left out."""
    seed: int = 0
    """Of the chains."""
    device: str = "cpu"
    """Where to compute."""

    def run(self) -> None:
        """Writes the samples, in the data's own units."""
        if self.out.suffix not in (".npy", ".csv"):
            raise ValueError(f"--out must end in .npy or .csv; got {self.out.name!r}.")
        if not self.out.resolve().parent.is_dir():
            raise ValueError(f"--out {self.out} lies in a directory that does not exist: make it first.")
        run = load_run(self.run_folder, checked_device(self.device))
        columns = run.config["data"]["columns"]
        if self.out.suffix == ".csv" and columns is None:
            raise ValueError("--out must end in .npy: images make no table.")
        n_steps = None if self.n_steps is None else integer("--n-steps", self.n_steps)
        samples = draw(run, integer("-n", self.n), self.seed, n_steps, self.label)
        if self.out.suffix == ".npy":
            np.save(self.out, samples.numpy())
        else:
            header = ",".join(f'"{name}"' if set(name) & set(',"\n') else name for name in columns)
            np.savetxt(self.out, samples.numpy(), delimiter=",", header=header, comments="", fmt="%.7g")
        print(self.out)


@dataclass(frozen=True)
class Evaluate:
    """Judge a run: its samples against held-out data, and all else that fits the data and the recipe."""

    run_folder: RunFolder
    """Directory of the run."""
    quick: bool = False
    """Only the distances between samples and data, as after training."""
    multiples: tuple[int, ...] = (1, 10, 100)
    """Lengths of the long run, in units of the chains that make samples."""
    device: str = "cpu"
    """Where to compute."""

    def run(self) -> None:
        """Prints the figures and writes `evaluation.json` and the report."""
        run = load_run(self.run_folder, checked_device(self.device))
        samples = samples_of(run)
        figures = judge(run, samples, None if self.quick else self.multiples)
        print_figures(figures)
        print(f"\n{write_report(run, samples, figures)}")


@dataclass(frozen=True)
class Report:
    """Write a run's report, one self-contained page."""

    run_folder: RunFolder
    """Directory of the run."""
    out: Path | None = None
    """Where to; report.html in the run's directory if left out."""
    device: str = "cpu"
    """Where to compute."""

    def run(self) -> None:
        """Writes the page and prints its path."""
        run = load_run(self.run_folder, checked_device(self.device))
        samples = samples_of(run)
        kept = run.folder / "evaluation.json"
        is_of_these = kept.exists() and kept.stat().st_mtime_ns >= (run.folder / "samples.npy").stat().st_mtime_ns
        figures = read_figures(kept) if is_of_these else judge(run, samples)
        print(write_report(run, samples, figures, self.out))


@dataclass(frozen=True)
class Recipes:
    """List the recipes, or all settings of one."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """Of the recipe whose settings are wanted."""

    def run(self) -> None:
        """Prints them."""
        for line in described(recipe(self.name)) if self.name else overview():
            print(line)


def draw(run: TrainedRun, n: int, seed: int, n_steps: int | None = None, label: int | None = None) -> Tensor:
    """`n` samples on the CPU, with a progress bar."""
    generator = generator_for(seed, "samples", device=run.device)
    return run.sample(n, n_steps, label=label, generator=generator, progress=True).cpu()


def samples_of(run: TrainedRun) -> Tensor:
    """The samples that lie in the run's directory; drawn if there are none, or if it was trained on since."""
    path = run.folder / "samples.npy"
    if not is_current(run, path):
        np.save(path, draw(run, 1000, run.config["seed"]).numpy())
    return torch.from_numpy(np.load(path, allow_pickle=False))


def is_current(run: TrainedRun, path: Path) -> bool:
    """Whether a file of the run was written after its last update."""
    newest = run.folder / "checkpoints" / f"step-{run.step:08d}" / "checkpoint.json"
    return path.exists() and path.stat().st_mtime_ns >= newest.stat().st_mtime_ns


def checked_device(name: str) -> str:
    """The device, if this machine has it."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name!r} is not to be had here: {str(error).splitlines()[0]}") from error
    return name


def _recipe_for(source: str) -> str:
    """The recipe of a kind of data; arrays may hold any, so those are read to see."""
    if source == "digits":
        return "digits"
    if Path(source).is_dir():
        return "images"
    if source in names():
        return "toy-2d" if density(source).event_shape == (2,) else "tabular"
    reads = Path(source).suffix in (".npy", ".npz")
    return "images" if reads and load(source).kind == "image" else "tabular"


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option, before the command line is parsed."""
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(option + "="):
            return argument.split("=", 1)[1]
    return None
