"""The page: its sections in reading order."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.random import generator_for
from torchebm.datasets import Data
from torchebm.training import TrainedRun, read_events
from torchebm.viz.inputs import evaluate

from . import pictures
from .chapters import chapters
from .guarding import guard_actions
from .judgement import headline_figures, listed, share_chart, suspicions
from .markup import Markup, code_block, document, tag, tally
from .reproduction import commands, python_lines
from .settings import data_facts, settings_tables

__all__ = ["write_report"]

MOST_ENERGIES = 5000  # of each kind; the histogram of more looks the same


def write_report(run: TrainedRun, samples: Float[Tensor, " n *event"], figures: Mapping[str, Any] | None = None,
                 out: str | Path | None = None) -> Path:  # fmt: skip
    """Writes the page of a run: one file with everything in it, that no browser needs a network for.

    Args:
        run: What was trained.
        samples: Samples of it, as `run.sample` returns them.
        figures: What `evaluation.compare` said about these samples; left out, the page says that they are not judged.
        out: Where to write; `report.html` in the run's directory if left out.
    Returns:
        The path of the page.
    Raises:
        ValueError: If the samples do not have the shape of the data.
        DataError: If the data cannot be found again.

    Example:
        >>> write_report(run, run.sample(1000))  # doctest: +SKIP
        PosixPath('runs/digits/report.html')
    """
    if samples.ndim == 0 or len(samples) == 0 or tuple(samples.shape[1:]) != run.event_shape:
        shape = ", ".join(map(str, run.event_shape))
        raise ValueError(
            f"samples has shape {list(samples.shape)}; expected [n, {shape}] with n > 0, "
            "the event shape of the run's data: draw them with run.sample(n)."
        )
    train, held_out = run.data()
    samples = samples.detach().cpu()
    metrics, energies = run.metrics(), energies_of(run, train, held_out, samples)
    sections = [
        opening(run, train, held_out, len(samples)),
        alerts(run, train, samples, figures, energies),
        *judgements(train, figures),
        *portraits(run, train, held_out, samples),
        *energy_section(run, energies),
        *training(run, metrics),
        *settings_tables(run.recipe),
        *data_facts(run, metrics),
        *reproduction(run, len(samples)),
    ]
    out = run.folder / "report.html" if out is None else Path(out)
    page = document(f"{train.name} – torchebm", sections)
    out.write_bytes(page.encode("utf-8", errors="xmlcharrefreplace"))  # names of files need not be text
    return out


def opening(run: TrainedRun, train: Data, held_out: Data, n_samples: int) -> Markup:
    """The title, and what was learned from what."""
    noun = "images" if train.kind == "image" else "rows"
    what = " × ".join(map(str, train.event_shape[1:])) + " images" if train.kind == "image" else columns_of(train)
    sentence = (
        f"An energy-based model, p(x) = exp(−E(x)) / Z, of {what}, learned from {len(train):,} {noun} of {train.name} "
        f"in {run.step:,} updates; {n_samples:,} samples of it are shown beside {len(held_out):,} {noun} that it never "
        "saw."
    )
    if run.recipe.purpose == "short-run generator":
        sentence += (
            " It is a short-run generator: what it makes are the ends of chains as long as those of training, and its "
            "energies are no log-densities."
        )
    return Markup(tag("h1", train.name) + tag("p", sentence, class_="lead"))


def columns_of(train: Data) -> str:
    """How many columns a table has."""
    d = train.event_shape[0]
    return "1 column" if d == 1 else f"{d} columns"


def alerts(run: TrainedRun, train: Data, samples: Tensor, figures: Mapping[str, Any] | None,
           energies: Mapping[str, Tensor]) -> Markup:  # fmt: skip
    """A box with everything that looks off; nothing if nothing does."""
    found = [] if figures is None else suspicions(figures, train.labels, train.classes)
    seen, unseen = quantiles(energies["training data"])[2], quantiles(energies["data"])[1]
    if unseen > seen:
        found.append(
            "Half of the held-out data have higher energies than 95 % of the training data: the model knows the points "
            "it was shown better than where they come from. Use fewer updates, more data, or a larger data_noise."
        )
    if run.step < run.recipe.training.n_steps:
        found.append(
            f"Training stopped at update {run.step:,} of {run.recipe.training.n_steps:,}: this is an early state of it."
        )
    n_broken = int((~samples.flatten(1).isfinite().all(1)).sum())
    if n_broken:
        found.append(f"{n_broken} of {len(samples)} samples are not finite: the sampler's steps are too large.")
    if not found:
        return Markup("")
    items = tag("ul", *(tag("li", sentence) for sentence in found))
    return tag("div", tag("strong", "Look twice"), items, class_="alert", role="note")


def judgements(train: Data, figures: Mapping[str, Any] | None) -> Iterator[Markup]:
    """Figures, and class shares where there are labels."""
    yield tag("h2", "How good the samples are")
    if figures is None:
        yield tag("p", "They have not been judged: ", tag("code", "torchebm evaluate"), " does that.")
        return
    if train.kind == "table":
        yield tag("p", "Columns count in units of their standard deviations.", class_="soft")
    yield headline_figures(figures)
    for caption, header, rows in chapters(figures):
        yield tally(caption, header, rows)
    if "class_shares" in figures and train.labels is not None:
        yield tag("h3", "Classes")
        yield share_chart(figures["class_shares"], train.labels, train.classes)


def portraits(run: TrainedRun, train: Data, held_out: Data, samples: Tensor) -> Iterator[Markup]:
    """Samples beside data, as the eye compares them."""
    yield tag("h2", "Samples and data")
    if train.kind == "image":
        low, high = train.bounds or (float(train.x.min()), float(train.x.max()))
        yield tag("p", f"Black is {low:g} and white {high:g} in both grids.", class_="soft")
        yield pictures.image_grids(samples, held_out.x, (low, high) if low < high else (low, low + 1.0))
        return
    data = torch.cat([train.x, held_out.x]).cpu()
    columns = train.columns or tuple(f"x{i + 1}" for i in range(data.shape[1]))
    how = f"Histograms of all {len(data):,} rows and of {len(samples):,} samples, in the same bins."
    yield tag("p", how, class_="soft")
    yield pictures.marginal_panels(data, samples, columns)
    if len(columns) > pictures.MOST_COLUMNS:
        yield tag("p", f"The first {pictures.MOST_COLUMNS} of {len(columns)} columns are drawn.", class_="soft")
    if len(columns) == 1:
        yield pictures.pictures_in_one(run.model, data, samples)
    if len(columns) == 2:
        yield pictures.pictures_in_two(run.model, data, samples, columns)
    moments = zip(columns, data.mean(0), data.std(0), samples.mean(0), samples.std(0), strict=True)
    rows = []
    for name, *values in moments:
        mean, spread, sampled_mean, sampled_spread = (rounded(float(value), float(values[1])) for value in values)
        rows.append([name, mean, sampled_mean, spread, sampled_spread])
    header = ["Column", "Mean of data", "of samples", "Deviation of data", "of samples"]
    yield tally("Means and standard deviations.", header, rows)


def rounded(value: float, spread: float) -> str:
    """A number to three digits of the spread of what it sums up.

    Example:
        >>> rounded(746.893, 314.9), rounded(-4e-5, 1.454)
        ('747', '0.00')
    """
    if not (math.isfinite(value) and math.isfinite(spread) and spread > 0):
        return f"{value:.4g}"
    return f"{value:z,.{max(0, 2 - math.floor(math.log10(spread)))}f}"


def energies_of(run: TrainedRun, train: Data, held_out: Data, samples: Tensor) -> dict[str, Float[Tensor, " n"]]:
    """Energies of what the model should find probable, and of what it should not, compared like with like."""
    where = {"device": run.device, "dtype": run.dtype}
    generator = generator_for(run.config["seed"], "report", device=run.device)

    def noisy(x: Tensor) -> Tensor:
        return run.recipe.noisy(x[:MOST_ENERGIES].to(**where), run.data_noise, generator)

    points = {
        "training data": noisy(train.x),
        "data": noisy(held_out.x),
        "samples": noisy(samples) if run.recipe.denoises else samples[:MOST_ENERGIES].to(**where),
        "noise": run.noise(min(max(len(samples), 500), MOST_ENERGIES), generator),
    }
    return {name: torch.cat([evaluate(run.model, part) for part in x.split(1000)]) for name, x in points.items()}


def quantiles(energy: Float[Tensor, " n"]) -> list[float]:
    """The 5 %, 50 % and 95 % quantiles of the energies that are finite."""
    finite = energy[energy.isfinite()]
    return finite.quantile(finite.new_tensor([0.05, 0.5, 0.95])).tolist() if len(finite) else [math.nan] * 3


def energy_section(run: TrainedRun, energies: Mapping[str, Float[Tensor, " n"]]) -> Iterator[Markup]:
    """Histograms of energies, what exactly they compare, and their quantiles."""
    how = (
        "so do the samples, which were freed of it: like is compared with like, though samples freed of noise are a "
        "little smoother than data, and so lie a little lower even for a perfect model."
        if run.recipe.denoises
        else "the samples have it already."
    )
    yield tag("h2", "Energies")
    what = (
        f"The model is a density of data with noise added, so held-out data get that noise here; {how}"
        if run.recipe.purpose == "density"
        else "Held-out data have the noise here that data had in training."
    )
    text = (
        f"{what} “Noise” is uniform in the box of the data. Low energies are probable, and only differences matter: a "
        "good model gives data and samples much the same energies, and noise far higher ones."
    )
    yield tag("p", text)
    yield pictures.histograms_of_energies({name: energies[name] for name in ("data", "samples", "noise")})
    titles = {"data": "held-out data", "noise": "uniform noise"}
    rows = [
        [titles.get(name, name), f"{len(energy):,}", *(f"{mark:.4g}" for mark in quantiles(energy))]
        for name, energy in energies.items()
    ]
    yield tally("Quantiles of the energies.", ["Points", "Number", "5 %", "Median", "95 %"], rows)


def training(run: TrainedRun, metrics: list[dict[str, float]]) -> Iterator[Markup]:
    """Curves, if the run was long enough to record any."""
    yield tag("h2", "Training")
    events = read_events(run.folder / "metrics.jsonl")
    if not metrics:
        yield tag("p", f"Nothing was recorded in {run.step} updates.")
        yield from guard_actions(events) if events else ()
        return
    text = (
        "The energies of data and of negatives, the model's own samples, should stay together: the gap between them "
        "wavers about a small number."
    )
    if len(metrics) >= 100:  # otherwise every record is drawn alike
        text += " Faint lines are records, strong ones their running mean."
    yield tag("p", text, class_="soft")
    yield from pictures.curves(metrics)
    yield from guard_actions(events)


def reproduction(run: TrainedRun, n_samples: int) -> Iterator[Markup]:
    """Commands and code that lead here again."""
    yield tag("h2", "How to make it again")
    yield code_block(commands(run, n_samples), "Commands")
    text = "With the same versions on the same machine, the same seed gives the same weights and samples, bit for bit. "
    yield tag("p", text, "In Python:")
    yield code_block(python_lines(run), "Python")
    kept = ["config.json", "metrics.jsonl", "checkpoints/", "samples.npy", "evaluation.json"]
    found = listed([name for name in kept if (run.folder / name).exists()])
    yield tag("p", f"The run's directory holds {found}.", class_="soft")
