"""A run: a directory that holds what was asked for, what came of it, and all that is needed to use or continue it."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchebm import __version__
from torchebm.core import BaseModel, BaseSampler
from torchebm.core.checks import integer
from torchebm.core.random import generator_for, uniform
from torchebm.datasets import Data, DataError, load, names, split

from .checkpoint import load_checkpoint, newest_checkpoint
from .recipes import RECIPES, Recipe
from .recipes import recipe as recipe_of
from .trainer import read_metrics

__all__ = ["TrainedRun", "load_run", "train_run"]

HELD_OUT = 0.3  # share of the data that is never trained on
LEAST_ROWS = 10


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What training left: the model in the data's own units, its sampler, and where they came from.

    Example:
        >>> run = load_run("runs/digits")  # doctest: +SKIP
        >>> images = run.sample(16)  # doctest: +SKIP
    """

    folder: Path
    """The run's directory."""
    model: BaseModel
    """Energies in the data's own units; the averaged weights, if the recipe averages."""
    sampler: BaseSampler
    """Samples the model; draws are in the data's own units."""
    recipe: Recipe
    """The settings."""
    config: dict[str, Any]
    """What was asked for: data, seed, device, versions."""
    step: int
    """Updates done."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return tuple(self.config["data"]["event_shape"])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.sampler.device

    @property
    def dtype(self) -> torch.dtype:
        """In what the model computes."""
        return self.sampler.dtype

    @property
    def data_noise(self) -> Float[Tensor, "*event"]:
        """Standard deviation of the noise that was added to each component of the data."""
        return self._tensor(self.config["data"]["noise"])

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def noise(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, " n *event"]:
        """Points that know nothing of the data but its box.

        They are uniform between each component's lowest and highest value.
        """
        low, high = (self._tensor(self.config["data"][key]) for key in ("low", "high"))
        u = uniform((n, *self.event_shape), generator=generator, dtype=low.dtype, device=low.device)
        return low + (high - low) * u

    def sample(self, n: int, n_steps: int | None = None, *, label: int | Int[Tensor, " n"] | None = None,
               generator: torch.Generator | None = None,
               progress: bool = False) -> Float[Tensor, " n *event"]:  # fmt: skip
        """Runs `n` chains from noise.

        Args:
            n: Chains.
            n_steps: Transitions; the recipe's number if left out.
            label: A class for all of them, or one each, if the recipe learns classes; of all classes if left out.
            generator: Source of randomness.
            progress: Show a progress bar.

        Returns:
            `[n, *event]`, in the data's own units; without the noise that was added to the data, if the recipe says so.
        """
        n_steps = self.recipe.sampler.n_steps if n_steps is None else integer("n_steps", n_steps)
        if label is not None:
            label = torch.as_tensor(label, device=self.device).expand(n)
        with _threads(self.recipe.training.n_threads):
            return self.recipe.draw(self.model, self.sampler, self.noise(n, generator), n_steps, noise=self.data_noise,
                                    label=label, generator=generator, progress=progress)  # fmt: skip

    def data(self) -> tuple[Data, Data]:
        """The data again, split into what was trained on and what was held out."""
        return load_split(self.config["data"]["source"], self.config["seed"])

    def metrics(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl`."""
        return read_metrics(self.folder / "metrics.jsonl")


def train_run(source: str, out: str | Path, recipe: Recipe, *, seed: int = 0, device: str = "cpu", resume: bool = False,
              overwrite: bool = False, progress: bool = True) -> TrainedRun:  # fmt: skip
    """Trains a recipe on data and keeps all of it in a directory.

    Args:
        source: Name of a built-in data set, a file, or a folder of images.
        out: The run's directory.
        recipe: The settings.
        seed: Of the weights, the split, the batches and the chains.
        device: Where to train.
        resume: Continue from the newest complete checkpoint, or begin if there is none.
        overwrite: Replace a run that is there.
        progress: Show a progress bar.

    Raises:
        FileExistsError: If `out` exists and neither `resume` nor `overwrite` is given.
        DataError: If the data cannot be learned from.
        TrainingDivergedError: If training diverges; its last good checkpoint is kept.
    """
    out = Path(out)
    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite replaces it: give one of them.")
    if type(RECIPES.get(recipe.name)) is not type(recipe):
        raise ValueError(
            f"no recipe {type(recipe).__name__} is registered under {recipe.name!r}, so its run could not be loaded "
            f"again: give it a name and do RECIPES[{recipe.name or 'its name'!r}] = {type(recipe).__name__}() first."
        )
    train, held_out = load_split(source, seed)
    if out.exists() and not resume:
        if not out.is_dir():
            raise FileExistsError(f"{out} is a file: a run needs a directory of its own.")
        if not overwrite:
            raise FileExistsError(
                f"{out} exists: give --resume to continue it, --overwrite to replace it, or another --out."
            )
        if any(out.iterdir()) and not _holds_run(out):
            raise FileExistsError(f"{out} exists and holds no run, so it is not replaced: give another --out.")
    recipe = recipe.fitted(train)
    config = {
        "torchebm": __version__,
        "torch": torch.__version__,
        "seed": seed,
        "device": device,
        "data": _describe(train, held_out, source) | {"noise": recipe.data_noise(train.x).tolist()},
        "recipe": recipe.values(),
    }
    if resume and (out / "config.json").exists():
        _check_same(config, _read_config(out))
    with _threads(recipe.training.n_threads):
        with torch.random.fork_rng():
            torch.set_rng_state(generator_for(seed, "weights").get_state())
            model = recipe.build_model(train.x).to(device)
        data = dataclasses.replace(train, x=train.x.to(device), labels=_moved(train.labels, device))
        trainer = recipe.build_trainer(model, data.x, out_dir=out, seed=seed)
        if not resume:
            _clear(out)  # only now: a run that cannot begin replaces nothing
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(config, indent=1))
        batch_size, observations = min(recipe.training.batch_size, len(data)), recipe.observations(model, data)
        trained = trainer.fit(observations, recipe.training.n_steps, batch_size, resume=resume, progress=progress)
    recipe.trained_part(model).load_state_dict(trained.state_dict())  # the average, if there is one
    model.eval().requires_grad_(False)
    return TrainedRun(out, model, recipe.build_sampler(model), recipe, config, trainer.step)


def load_run(folder: str | Path, device: str = "cpu") -> TrainedRun:
    """The run in a directory, as its newest checkpoint left it.

    Raises:
        FileNotFoundError: If there is no run, or no complete checkpoint yet.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no run: there is no config.json in it. `torchebm train` makes one.")
    config = _read_config(folder)
    newest = newest_checkpoint(folder / "checkpoints")
    if newest is None:
        raise FileNotFoundError(f"{folder} holds no complete checkpoint yet: train it first.")
    recipe = _recipe_of(config)
    checkpoint = load_checkpoint(newest, device)
    shaped = torch.zeros(2, *config["data"]["event_shape"])  # the standardisation itself is among the weights
    model = recipe.build_model(shaped).to(device)
    weights = checkpoint.tensors["ema" if "ema" in checkpoint.tensors else "model"]
    recipe.trained_part(model).load_state_dict(weights)
    model.eval().requires_grad_(False)
    return TrainedRun(folder, model, recipe.build_sampler(model), recipe, config, checkpoint.step)


def _recipe_of(config: dict[str, Any]) -> Recipe:
    """The recipe of a run. Runs of the first version named none, and were all of one family."""
    name = config["recipe"].get("name", "images" if config["data"]["kind"] == "image" else "tabular")
    return recipe_of(name).from_values(config["recipe"])


def load_split(source: str, seed: int) -> tuple[Data, Data]:
    """The data and its split, the same for the same seed."""
    data = load(source, generator_for(seed, "data"))
    if len(data) < LEAST_ROWS:
        raise DataError(f"{data.name} has {len(data)} rows; training and holding some out takes at least {LEAST_ROWS}.")
    if bool((data.x == data.x[0]).all()):
        raise DataError(f"all rows of {data.name} are equal: there is no density to learn.")
    return split(data, HELD_OUT, generator_for(seed, "split"))


def _moved(labels: Tensor | None, device: str) -> Tensor | None:
    return None if labels is None else labels.to(device)


def _holds_run(folder: Path) -> bool:
    try:
        return {"recipe", "data", "seed"} <= json.loads((folder / "config.json").read_text()).keys()
    except (OSError, ValueError, AttributeError):
        return False


def _read_config(folder: Path) -> dict[str, Any]:
    if not _holds_run(folder):
        raise ValueError(f"{folder / 'config.json'} describes no run: it was changed, or written by something else.")
    return json.loads((folder / "config.json").read_text())


def _clear(folder: Path) -> None:
    """Removes what a run writes, and nothing else."""
    for made in (folder / "checkpoints", *folder.glob("forensics-*")):
        shutil.rmtree(made, ignore_errors=True)
    for name in ("config.json", "metrics.jsonl", "samples.npy", "evaluation.json", "report.html"):
        (folder / name).unlink(missing_ok=True)


def _describe(train: Data, held_out: Data, source: str) -> dict[str, Any]:
    low, high = (train.x.amin(0), train.x.amax(0)) if train.bounds is None else map(torch.tensor, train.bounds)
    return {
        "source": source if source == "digits" or source in names() else str(Path(source).resolve()),
        "name": train.name,
        "kind": train.kind,
        "event_shape": list(train.event_shape),
        "columns": train.columns,
        "n_train": len(train),
        "n_held_out": len(held_out),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _check_same(new: dict[str, Any], old: dict[str, Any]) -> None:
    """A run is continued as it was begun; only its length may change."""
    old = json.loads(json.dumps(old))
    new = json.loads(json.dumps(new))
    old["recipe"].setdefault("name", new["recipe"]["name"])
    for config in (old, new):
        config["recipe"] = json.loads(json.dumps(_recipe_of(config).values()))  # with settings that came later
        config["recipe"]["training"].pop("n_steps")
        for key in ("torchebm", "torch", "device"):
            config.pop(key)
    changed = [key for key in new if new[key] != old.get(key)]
    if changed:
        raise ValueError(f"the run was begun with other settings ({', '.join(changed)}): resume it with the same ones.")


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(integer("n_threads", n, at_least=1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
