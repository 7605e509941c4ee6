"""What `torchebm evaluate` computes: everything that fits the data and the purpose of the recipe."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core import BaseModel, MarkovSampler
from torchebm.core.random import generator_for, uniform
from torchebm.datasets import Data, density, names
from torchebm.evaluation import (
    UnboundedEnergyError,
    compare,
    gaussian_mixture_baseline,
    kernel_stein_test,
    log_likelihood,
    log_z,
    log_z_by_grid,
    long_run,
    out_of_distribution,
    outsiders,
    two_sample_test,
)
from torchebm.losses import class_logits
from torchebm.training import TrainedRun

__all__ = ["distances", "thorough"]

MOST_TRAINING_ROWS = 10_000  # that samples are compared with; the rest would change little and take long
MOST_POINTS = 1000  # of each kind, in what is quadratic in them
MOST_MIXED = 128  # dimensions, up to which mixtures of Gaussians are fitted: their covariances have squares of them
N_CHAINS = 200  # of the long run
N_CONDITIONAL = 500  # samples of named classes


def distances(run: TrainedRun, samples: Tensor) -> dict[str, Any]:
    """The figures of `evaluation.compare`; table columns count in standard deviations."""
    train, held_out = parts(run)
    unit = units_of(train)
    generator = generator_for(run.config["seed"], "evaluation")
    return compare(samples / unit, train.x / unit, held_out.x / unit, train.labels, generator=generator)


def thorough(run: TrainedRun, samples: Tensor, multiples: tuple[int, ...]) -> dict[str, Any]:
    """All other figures, each under its name: those that fit the data, and for densities the likelihood.

    A figure that does not exist, as the likelihood of an energy without a normaliser, has the reason under `refused`.

    Args:
        run: What was trained.
        samples: Of it, as they lie in its directory.
        multiples: Lengths of the long run, in units of the chains that make samples.
    """
    chapters: dict[str, tuple[bool, Callable[[TrainedRun, Tensor, tuple[int, ...]], dict[str, Any]]]] = {
        "two_sample_tests": (True, tests),
        "classification": (knows_classes(run), classification),
        "out_of_distribution": (run.config["data"]["kind"] == "image", detection),
        "long_run": (True, long_chains),
        "divergence": (run.config["data"]["source"] in names() and run.recipe.purpose == "density", divergence),
        "log_likelihood": (run.recipe.purpose == "density", likelihood),
    }
    figures = {}
    for name, (fits, compute) in chapters.items():
        if not fits:
            continue
        try:
            figures[name] = compute(run, samples, multiples)
        except (UnboundedEnergyError, ValueError, ImportError) as error:  # said in the table, the file and the report
            figures[name] = {"refused": " ".join(str(error).split())}
    return figures


def tests(run: TrainedRun, samples: Tensor, multiples: tuple[int, ...]) -> dict[str, Any]:
    """Permutation tests of samples against held-out data."""
    train, held_out = parts(run)
    unit, generator = units_of(train), generator_for(run.config["seed"], "two-sample tests")
    a, b = (x[:MOST_POINTS] / unit for x in (samples, held_out.x))
    found = {name: two_sample_test(a, b, name, generator=generator) for name in ("mmd", "energy_distance")}
    return {name: {"value": test.value, "p_value": test.p_value} for name, test in found.items()}


def classification(run: TrainedRun, samples: Tensor, multiples: tuple[int, ...]) -> dict[str, Any]:
    """Accuracy on held-out data, and whether samples of a class are taken for it by a classifier of another kind."""
    train, held_out = parts(run)
    assert train.labels is not None
    assert held_out.labels is not None
    n_classes = int(train.labels.max()) + 1
    label = torch.arange(n_classes).repeat_interleave(-(-N_CONDITIONAL // n_classes))
    drawn = run.sample(len(label), label=label, generator=generator_of(run, "conditional samples"), progress=True).cpu()
    truth = torch.cat([held_out.labels, label])
    predicted = independently_classified(train, torch.cat([held_out.x, drawn]))
    right, n = (predicted == truth).double(), len(held_out)
    with torch.no_grad():
        logits = [class_logits(run.model, x.to(run.device)).cpu() for x in held_out.x.split(MOST_POINTS)]
    return {
        "accuracy": float((torch.cat(logits).argmax(1) == held_out.labels).double().mean()),
        "conditional_accuracy": float(right[n:].mean()),
        "accuracy_of_the_other_classifier": float(right[:n].mean()),
        "n_conditional": len(label),
    }


def independently_classified(train: Data, x: Float[Tensor, " n *event"]) -> Tensor:
    """Classes that a support vector classifier gives to points; it was trained on the data."""
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError('classifying samples needs scikit-learn: pip install "torchebm[data]".') from error
    assert train.labels is not None
    classifier = SVC().fit(train.x.flatten(1).numpy(), train.labels.numpy())
    return torch.as_tensor(classifier.predict(x.flatten(1).numpy()))


def detection(run: TrainedRun, samples: Tensor, multiples: tuple[int, ...]) -> dict[str, Any]:
    """How well energies tell held-out images from inverted, shuffled and uniform ones, all with the model's noise."""
    held_out = parts(run)[1]
    generator = generator_for(run.config["seed"], "out of distribution")
    sets = {"inside": held_out.x, **outsiders(held_out.x, generator, held_out.bounds)}
    noisy = {name: with_noise(run, x, generator) for name, x in sets.items()}
    model = Classifying(run.model) if knows_classes(run) else run.model
    found = out_of_distribution(model, noisy.pop("inside"), noisy)
    return {"auroc": found.auroc, "standard_error": found.standard_error}


def long_chains(run: TrainedRun, samples: Tensor, multiples: tuple[int, ...]) -> dict[str, Any]:
    """The long-run test, from noise, against held-out data with the model's noise; and for densities a Stein test.

    Images are compared in their own units, tables in those of the model, where columns have one scale.
    """
    if not run.recipe.one_chain:
        raise ValueError(f"samples of {run.recipe.name!r} come through levels of noise: no chain could go on.")
    held_out, generator = parts(run)[1], generator_of(run, "long run")
    data, start = with_noise(run, held_out.x[:MOST_POINTS], generator), run.noise(N_CHAINS, generator)
    model, transform = run.model.coordinates()
    if held_out.kind == "image" or transform is None:
        model = run.model
    else:
        data, start = cast(Tensor, transform.inv(data)), cast(Tensor, transform.inv(start))
    sampler = run.recipe.build_sampler(model)
    if not isinstance(sampler, MarkovSampler):
        raise ValueError(f"{type(sampler).__name__} runs no chains that could go on.")
    condition = run.recipe.condition(N_CHAINS, generator, run.device)
    data_condition = {}
    if condition:
        assert held_out.labels is not None
        data_condition = {"label": held_out.labels[:MOST_POINTS].to(run.device)}
    found = long_run(sampler, start, run.recipe.sampler.n_steps, data, multiples=multiples, model_kwargs=condition,
                     data_kwargs=data_condition, generator=generator)  # fmt: skip
    figures: dict[str, Any] = {
        "verdict": found.verdict,
        "reasons": list(found.reasons),
        "steps": found.steps.tolist(),
        "energy": found.energy.double().mean(1).tolist(),
        "data_energy": float(found.data_energy.double().mean()),
        "energies_within": found.energies_within.tolist(),
        **{name: values.tolist() for name, values in found.distances.items()},
        "floor": found.floor,
    }
    if run.recipe.purpose == "density" and bool(found.x.isfinite().all()):
        test = kernel_stein_test(model, found.x, model_kwargs=condition, generator=generator_for(0, "Stein"))
        figures["stein"] = {"value": test.value, "p_value": test.p_value}
    return figures


def divergence(run: TrainedRun, samples: Tensor, multiples: tuple[int, ...]) -> dict[str, Any]:
    """KL of the truth from the model, in nats, for densities in the plane: 100,000 exact draws and a grid."""
    truth = density(run.config["data"]["source"])
    x = truth.sample(100_000, generator_for(run.config["seed"], "truth"))
    low, high = truth.bounds.double()
    found = log_z_by_grid(run.model, low - (high - low), high + (high - low), n_points=600)
    with torch.no_grad():
        energy = torch.cat([run.model(part.to(run.device)).cpu() for part in x.split(10_000)]).double()
    difference = truth.log_prob(x.double()) + energy + found.estimate
    error = float(difference.std()) / math.sqrt(len(x))
    return {"kl": float(difference.mean()), "standard_error": error, "log_z": found.estimate, "entropy": truth.entropy}


def likelihood(run: TrainedRun, samples: Tensor, multiples: tuple[int, ...]) -> dict[str, Any]:
    """Held-out log-likelihood by annealed importance sampling, forward and in reverse, beside a fitted Gaussian's.

    The density is one of data with the model's noise, so that is added. Images of whole values also have bits per
    dimension, of dequantised data: uniform noise of one bin instead.
    """
    train, held_out = parts(run)
    generator = generator_of(run, "likelihood")
    x = with_noise(run, held_out.x, generator)
    normaliser = log_z(run.model, data=with_noise(run, train.x, generator), generator=generator, progress=True)
    found = log_likelihood(run.model, x, normaliser, check_tails=False, batch_size=MOST_POINTS)
    fitted = with_noise(run, train.x, generator)
    figures = found.as_dict() | {"gaussian": gaussian_log_likelihood(fitted, x)}
    mixes = found.dim <= MOST_MIXED
    if mixes:
        figures["mixture"] = gaussian_mixture_baseline(fitted, x, generator=generator)._asdict()
    width = bin_width(held_out)
    if width is not None:
        dequantised = dequantise(run, held_out.x, width, generator)
        found = log_likelihood(run.model, dequantised, normaliser, bin_width=width, check_tails=False,
                               batch_size=MOST_POINTS)  # fmt: skip
        fitted = dequantise(run, train.x, width, generator)

        def bits(nats: float) -> float:
            return -(nats / found.dim + math.log(width)) / math.log(2)

        in_bits: dict[str, Any] = {
            "bits_per_dim": found.bits_per_dim,
            "bits_per_dim_interval": list(found.bits_per_dim_interval or ()),
            "gaussian": bits(gaussian_log_likelihood(fitted, dequantised)),
        }
        if mixes:
            mixture = gaussian_mixture_baseline(fitted, dequantised, generator=generator)
            in_bits["mixture"] = mixture._asdict() | {"bits_per_dim": bits(mixture.log_likelihood)}
        figures["dequantised"] = in_bits
    return figures


def gaussian_log_likelihood(train: Float[Tensor, " m *event"], x: Float[Tensor, " n *event"]) -> float:
    """Mean log-likelihood of points under the Gaussian with the mean and the covariance of others."""
    flat = train.flatten(1).double()
    gaussian = torch.distributions.MultivariateNormal(flat.mean(0), flat.T.cov().reshape(flat.shape[1], -1))
    return float(gaussian.log_prob(x.flatten(1).double()).mean())


def dequantise(
    run: TrainedRun, x: Float[Tensor, " n *event"], width: float, generator: torch.Generator
) -> Float[Tensor, " n *event"]:
    """Whole values with uniform noise of one bin about them."""
    x = x.to(run.device, run.dtype)
    return x + width * (uniform(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 0.5)


def bin_width(data: Data) -> float | None:
    """The distance between the grey values of images that have whole ones."""
    return 1.0 if data.kind == "image" and bool((data.x == data.x.round()).all()) else None


class Classifying(BaseModel):
    """A joint model in the data's units, with its logits."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch"]:
        return self.inner(x)

    def logits(self, x: Float[Tensor, " batch *event"]) -> Float[Tensor, "batch n_classes"]:
        """Of the classes."""
        return class_logits(self.inner, x)


def knows_classes(run: TrainedRun) -> bool:
    """Whether the model classifies."""
    return hasattr(run.model.coordinates()[0], "logits")


def parts(run: TrainedRun) -> tuple[Data, Data]:
    """Training and held-out data, at most ten thousand rows of each."""
    train, held_out = (data.rows(torch.arange(min(len(data), MOST_TRAINING_ROWS))) for data in run.data())
    return train, held_out


def units_of(train: Data) -> float | Tensor:
    """What distances are measured in: the standard deviation of each column of a table, and pixels as they are."""
    if train.kind != "table":
        return 1.0
    spread = train.x.std(0)
    return torch.where(spread > 0, spread, 1.0)


def with_noise(run: TrainedRun, x: Float[Tensor, " n *event"], generator: torch.Generator) -> Tensor:
    """Points with the noise that data had in training, where the model is."""
    return run.recipe.noisy(x.to(run.device, run.dtype), run.data_noise, generator)


def generator_of(run: TrainedRun, name: str) -> torch.Generator:
    """A stream of the run, where its model is."""
    return generator_for(run.config["seed"], name, device=run.device)
